"""`python -m bench.worker.own_code [ROUNDS]`: what our own code costs a job, without a database.

In: the number of rounds (30 by default). Out: for the start, the run and the commit of a no-op job,
the median CPU time in units of a fixed loop that is timed beside them, so that a busy machine says
nearly the same as an idle one; and that unit in µs. The commit's statement is answered at once.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import anyio

from bench.our_handlers import nothing
from db.ids import uuidv7
from db.queue.claim import Claimed
from worker.daemon import collector
from worker.daemon.heartbeat import Heartbeat, Identity, Pulse
from worker.handlers import registry
from worker.queue.attempt_log import AttemptLog
from worker.queue.commit import Committer
from worker.queue.ended import BATCH_MAX, EndedAttempts
from worker.queue.running import Running
from worker.queue.wake import Wake, Wakes
from worker.web.metrics import Metrics

BATCHES = 8
WORKER = uuidv7()
UNIT_TURNS = 3_000


class _Connection:
    """Answers the statement that finishes a batch: all are done. Its own cursor."""

    schema = "jobsworth"
    _jobs = 0

    def cursor(self, **_: object) -> "_Connection":
        return self

    async def execute(self, _query: object, values: dict[str, Any], **_: object) -> None:
        self._jobs = values["lease_nos"].count(",") + 1

    async def fetchall(self) -> list[tuple[int, str, bool]]:
        return [(number, "done", False) for number in range(1, self._jobs + 1)]


class _Database:
    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[_Connection]:
        yield _Connection()


class _Promoter:
    def ended(self, ids: list[UUID]) -> None:
        """No job depends on these."""


class Bench:
    """The parts of a worker that a job passes."""

    def __init__(self) -> None:
        heartbeat = Heartbeat(
            "",
            "jobsworth",
            Identity("bench", 1, "0", (), (), 1),
            beat_seconds=1.0,
            stop_seconds=float("inf"),
            judge=cast(Any, None),
            vitals=cast(Any, None),
        )
        heartbeat.pulse = Pulse(WORKER, time.monotonic())
        self.ended = EndedAttempts()
        self.running = Running(
            registry,
            cast(Any, SimpleNamespace(middlewares=())),
            AttemptLog(Metrics(), 0),
            self.ended,
            Wake(),
            heartbeat,
            slots=2_000,
            modules=(),
            failures_max=3,
            retry_base_seconds=1.0,
            retry_max_seconds=60.0,
        )
        database, promoter = cast(Any, _Database()), cast(Any, _Promoter())
        self.committer = Committer(database, self.running, promoter, Wakes())

    async def batch(self, first: int) -> tuple[float, float, float]:
        """CPU seconds to start, run and commit a batch of jobs."""
        jobs = [_job(first + number) for number in range(BATCH_MAX)]
        times = [time.thread_time()]
        for job in jobs:
            self.running.start(job, WORKER)
        times.append(time.thread_time())
        while not self.ended.fill_a_batch:
            await asyncio.sleep(0)
        times.append(time.thread_time())
        await self.committer.commit(self.ended.take())
        times.append(time.thread_time())
        return times[1] - times[0], times[2] - times[1], times[3] - times[2]


async def measure(rounds: int) -> None:
    """Print the median of the rounds."""
    worker = Bench()
    found: list[tuple[float, ...]] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(worker.running.run)
        collector.begin()
        for number in range(rounds):
            batches = [
                (_unit(), *await worker.batch((number * BATCHES + batch) * BATCH_MAX + 1))
                for batch in range(BATCHES)
            ]
            unit, *parts = (sum(part) for part in zip(*batches, strict=True))
            of_a_job = [part / BATCH_MAX / unit * UNIT_TURNS for part in parts]
            found.append((*of_a_job, sum(of_a_job), unit / BATCHES / UNIT_TURNS * 1e6))
        tasks.cancel_scope.cancel()
    names = ("start", "run", "commit", "all", "unit in µs")
    for name, values in zip(names, zip(*found, strict=True), strict=True):
        print(f"{name:>10} {median(values):6.2f}")


def _unit() -> float:
    """CPU seconds of the fixed loop: calls, tuples, a dict, UUIDs."""
    began = time.thread_time()
    kept: dict[int, object] = {}
    for number in range(UNIT_TURNS):
        kept[number] = [_made(number, kept), UUID(int=number)]
    return time.thread_time() - began


def _made(number: int, kept: object) -> tuple[object, ...]:
    return number, kept, time.monotonic()


def _job(number: int) -> Claimed:
    return Claimed(
        id=UUID(int=number),
        lease_no=number,
        queue="default",
        priority=3,
        position=number,
        mode=nothing.__name__,
        payload={},
        attempt=1,
        failures=0,
        failures_max=None,
        timeout_seconds=None,
        team_id=None,
        thread_id=None,
        trigger_message_id=None,
        parent_id=None,
        is_child=False,
        lane=None,
        trace_parent=None,
        request_id=None,
        run_id=None,
        node=None,
        agent_id=None,
        waited_seconds=0.5,
        suspect=False,
        alone_seconds=None,
    )


if __name__ == "__main__":
    rounds_wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    anyio.run(partial(measure, rounds_wanted), backend_options={"use_uvloop": True})
