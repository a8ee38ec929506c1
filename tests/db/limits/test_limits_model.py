"""The queue's model with limits: any sequence of operations, one after the other.

Whether a job that may start is queued or waits at a limit is the database's matter. What must hold:
never more than a limit lets run, and after each claim, and each look that an operation asks for,
nobody waits whom all limits have room for. No sweep helps here. `make limits` plays more sequences
(`JOBSWORTH_TEST_LIMIT_EXAMPLES`).
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, LiteralString

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, multiple, rule

from db.limits import job_limits
from db.pool import execute, fetch_all
from db.queue import promote
from tests.db.protocol import breaches, claim, lease_of
from tests.db.queue.model import Job
from tests.db.queue.test_queue_model import ALL, Queue, play

EXAMPLES = int(os.environ.get("JOBSWORTH_TEST_LIMIT_EXAMPLES", "10"))
SLOTS_OF_ALL, SLOTS_OF_KEY = 3, 1
CLAIMS_MAX = 30
# A turn that is not used within five seconds is over: that is no matter of this test.
YOUNG: LiteralString = """
update jobsworth.job_limit_slots set turn_at = clock_timestamp() where lease_no is null
"""
GATED = ("waiting", "limit")


class LimitedQueue(Queue):
    limit_keys = ("x", "x", None, "x")

    @initialize()
    def empty(self) -> None:
        super().empty()
        self.run(job_limits.set_limit, "all", slots=SLOTS_OF_ALL)
        self.run(job_limits.set_limit, "each", per="key", slots=SLOTS_OF_KEY)

    @rule(target=Queue.running, wanted=st.integers(1, 3))
    def claim(self, wanted: int) -> Any:
        alone = not self._running()
        taken: list[Job] = []
        for _ in range(CLAIMS_MAX):
            left = wanted - len(taken)
            got = self.run(claim, self.worker_id, left, alone=alone and not taken)
            for one in got.jobs:
                job = self.model.jobs[one.id]
                assert not self.model.blocked(job)
                job.status, job.lease, job.started = "running", lease_of(one, self.worker_id), True
                taken.append(job)
            self._lanes_as_they_are()
            self.run(promote.promote_lanes, got.deferred_lanes)
            self.run(promote.unblock, got.held_up)
            self.model.look()
            nothing = not (got.jobs or got.deferred_lanes or got.held_up)
            if len(taken) == wanted or (nothing and got.all_found):
                break
        else:
            raise AssertionError("the claims come to no end")
        if len(taken) < wanted:
            assert [job for job in self.model.jobs.values() if self._could_start(job)] == []
        return multiple(*taken)

    @invariant()
    def is_within_the_limits(self) -> None:
        running = self._running()
        assert len(running) <= SLOTS_OF_ALL
        of_keys = Counter(job.limit_key for job in running if job.limit_key)
        assert max(of_keys.values(), default=0) <= SLOTS_OF_KEY

    @invariant()
    def breaks_no_rule(self) -> None:
        self.run(execute, YOUNG)
        assert self.run(breaches) == []

    def found(self) -> dict[Any, tuple[Any, ...]]:
        return {
            job_id: ("queued", None, *more)
            if (status, reason) == GATED
            else (status, reason, *more)
            for job_id, (status, reason, *more) in super().found().items()
        }

    def _running(self) -> list[Job]:
        return [job for job in self.model.jobs.values() if job.status == "running"]

    def _could_start(self, job: Job) -> bool:
        running = self._running()
        full = len(running) >= SLOTS_OF_ALL or (
            job.limit_key is not None
            and sum(other.limit_key == job.limit_key for other in running) >= SLOTS_OF_KEY
        )
        may = job.status == "queued" and not job.suspect and not full
        return may and not self.model.blocked(job)

    def _lanes_as_they_are(self) -> None:
        """Jobs that a claim has put back into their lanes."""
        for one in self.run(fetch_all, ALL):
            job = self.model.jobs[one["id"]]
            if one["waiting_for"] == "lane" and job.status == "queued":
                self.model.park(job, "lane")


def test_any_sequence_keeps_within_the_limits_and_forgets_nobody(database_url: str) -> None:
    play(database_url, LimitedQueue, EXAMPLES)
