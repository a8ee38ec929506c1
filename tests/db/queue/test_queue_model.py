"""The queue against a model of it: any sequence of operations, one after the other.

The model knows the table of a job's life and looks at every waiting job after every step. The
database looks only where an operation says that something may have been unblocked: whenever the
two differ, a look is missing, or too many were taken. No sweep helps here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from db.errors import Conflict
from db.fence import Lease
from db.limits.fairness import set_fair
from db.pool import Connection, Database, execute, fetch_all
from db.queue import effects, promote
from db.queue import finish as finishing
from db.queue.effects import ApprovalEffect, Effect, JobEffect, Origin
from db.queue.enqueue import enqueue
from db.queue.finish import Finish
from tests.db.protocol import (
    CRASHES_MAX,
    breaches,
    cancel,
    canceled,
    claim,
    die,
    done,
    failed,
    fair_claim,
    finish,
    lease_of,
    parked,
    register,
    released,
    rescue,
    resolve,
    retry,
    signal,
    tried_again,
)
from tests.db.queue.model import STEPPED_ASIDE, Job, Model

pytestmark = [
    pytest.mark.both,
    pytest.mark.direct("sequences of statements that other tests send through a pooler"),
]

T = TypeVar("T")

ALL: LiteralString = """
select id, status::text as status, waiting_for::text as waiting_for, failures, crashes,
  cancel_requested and status = 'running' as stopping
from jobsworth.reactive_jobs
"""

EMPTY: LiteralString = """
set session_replication_role = replica;
truncate jobsworth.reactive_jobs, jobsworth.job_edges, jobsworth.signals, jobsworth.steps,
  jobsworth.artifacts, jobsworth.run_metrics, jobsworth.branch_reads, jobsworth.attempt_history,
  jobsworth.workers, jobsworth.approvals, jobsworth.approval_decisions, jobsworth.fair_keys,
  jobsworth.job_limit_slots, jobsworth.unique_windows, jobsworth.replacements
  cascade;
reset session_replication_role
"""

READY: LiteralString = """
select id from jobsworth.reactive_jobs where status = 'queued' order by priority, position
"""

CHILDREN: LiteralString = """
select id, is_child from jobsworth.reactive_jobs
where parent_id = %(id)s and effect_key = any(%(keys)s) order by effect_key
"""

OPEN_APPROVAL: LiteralString = """
select id from jobsworth.approvals where job_id = %(id)s and status = 'pending'
"""

DUE: LiteralString = """
update jobsworth.reactive_jobs set run_at = now() - interval '1 second' where id = %(id)s
"""
FAR_SECONDS = 3600.0
EXAMPLES = 25
# The older version has the same statements: fewer sequences show where it behaves otherwise.
EXAMPLES_OF_OLDER = 10
NEWEST = 180_000
STEPS = 30


class Queue(RuleBasedStateMachine):
    """Every operation, on both."""

    limit_keys: Sequence[str | None] = (None,)
    """Those of the jobs, in turn."""

    every = Bundle("every")
    running = Bundle("running")
    stale = Bundle("stale")

    def __init__(self, call: Callable[..., Any], fair: bool = False) -> None:
        """`fair`: the jobs share one key of a fair queue, so their order is that of a plain one."""
        super().__init__()
        self.fair = fair
        self.claim_of = fair_claim if fair else claim
        self.model = Model()
        self._call = call
        self._keys = 0
        self.worker_id = UUID(int=0)

    def run(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        return self._call(function, *args, **kwargs)

    @initialize()
    def empty(self) -> None:
        self.run(execute, EMPTY)
        self.run(set_fair, "default", self.fair)
        self.worker_id = self.run(register)

    @rule(
        target=every,
        lane=st.sampled_from([None, "a", "a", "b"]),
        unique_key=st.sampled_from([None, None, "k"]),
        due=st.sampled_from([True, True, True, False]),
        needs=st.lists(every, max_size=2, unique=True) | st.just([]),
        holds_lane=st.booleans(),
        priority=st.sampled_from([3, 3, 1]),
    )
    def add(
        self,
        lane: str | None,
        unique_key: str | None,
        due: bool,
        needs: list[Job],
        holds_lane: bool,
        priority: int,
    ) -> Job:
        added = self.run(
            enqueue,
            "answer",
            lane=lane,
            unique_key=unique_key,
            delay=None if due else FAR_SECONDS,
            after=[job.id for job in needs],
            holds_lane=holds_lane,
            priority=priority,
            limit_key=(limit_key := self._limit_key()),
        )
        holder = self.model.holder(unique_key)
        assert added.created == (holder is None)
        if holder is not None:
            assert added.job_id == holder.id
            return holder
        # A scheduled job that its own lane waits for would wait for ever: that is not asked for.
        job = Job(added.job_id, lane, None, holds_lane, unique_key, needs=tuple(needs), due=due)
        job.limit_key = limit_key
        self.model.arrive(job)
        self.model.look()
        return job

    @rule(
        target=every,
        lane=st.sampled_from([None, "a"]),
        unique_key=st.sampled_from(["k", "l"]),
        time=st.sampled_from(["now", "later", "debounced"]),
        until_start=st.booleans(),
        windowed=st.sampled_from([False, False, True]),
        on_conflict=st.sampled_from([None, "replace", "replace", "reject"]),
        priority=st.sampled_from([3, 1]),
    )
    def add_unique(
        self,
        lane: str | None,
        unique_key: str,
        time: str,
        until_start: bool,
        windowed: bool,
        on_conflict: str | None,
        priority: int,
    ) -> Any:
        """A call with terms of its own for its key."""
        debounced = time == "debounced"
        if debounced:
            on_conflict, until_start = None, True
        until_start = until_start or on_conflict == "replace"
        options: Any = {
            "lane": lane,
            "unique_key": unique_key,
            "unique_until": "start" if until_start and not debounced else None,
            "unique_seconds": FAR_SECONDS if windowed else None,
            "on_conflict": on_conflict,
            "delay": FAR_SECONDS if time == "later" else None,
            "debounce_seconds": FAR_SECONDS if debounced else None,
            "priority": priority,
            "limit_key": self._limit_key(),
        }
        holder = self.model.holder(unique_key, windowed=windowed)
        if holder is not None and on_conflict == "reject":
            with pytest.raises(Conflict):
                self.run(enqueue, "answer", **options)
            return multiple(*tuple[Job]())
        added = self.run(enqueue, "answer", **options)
        if holder is None:
            assert added.created
            job = Job(added.job_id, lane, None, False, unique_key, until_start, due=time == "now")
            job.limit_key = options["limit_key"]
            if windowed:
                self.model.windows[unique_key] = job
            self.model.arrive(job)
            self.model.look()
            return job
        replaces = debounced or on_conflict == "replace"
        replaced = replaces and self.model.replace(holder, due=time == "now", debounced=debounced)
        self.model.look()
        assert (added.job_id, added.created, added.replaced) == (holder.id, False, replaced)
        return multiple(*tuple[Job]())

    @rule(target=running, wanted=st.integers(1, 3))
    def claim(self, wanted: int) -> Any:
        alone = not any(job.status == "running" for job in self.model.jobs.values())
        queued = [self.model.jobs[one["id"]] for one in self.run(fetch_all, READY)]
        ready = self.model.claimable(queued, wanted, alone=alone)
        lanes = {job.lane for job in ready if job.lane}
        heads = {min((j for j in ready if j.lane == lane), key=lambda j: j.order) for lane in lanes}
        taken = [j for j in ready if not j.lane or (j in heads and not self.model.blocked(j))]
        got = self.run(self.claim_of, self.worker_id, wanted, alone=alone)
        assert {job.id for job in got.jobs} == {job.id for job in taken}
        for job in ready:
            if job not in taken:
                self.model.park(job, "lane")
        for one in got.jobs:
            job = self.model.jobs[one.id]
            job.status, job.lease = "running", lease_of(one, self.worker_id)
            job.started = True
        self.run(promote.promote_lanes, got.deferred_lanes)
        self.model.look()
        return multiple(*taken)

    @rule(target=stale, job=consumes(running), follow_up=st.booleans())
    def finish_done(self, job: Job, follow_up: bool) -> Any:
        made = [JobEffect(self._key("job"), "answer")] if follow_up else []
        return self._finish(job, done, "done", *made)

    @rule(target=stale, job=consumes(running))
    def fail(self, job: Job) -> Any:
        job.failures += job.status == "running"
        return self._finish(job, failed, "failed")

    @rule(target=stale, job=consumes(running))
    def fail_and_retry(self, job: Job) -> Any:
        job.failures += job.status == "running"
        job.due = job.due and job.status != "running"
        return self._finish(job, lambda lease: tried_again(lease, FAR_SECONDS), "timer")

    @rule(target=stale, job=consumes(running))
    def cancel_itself(self, job: Job) -> Any:
        return self._finish(job, canceled, "canceled")

    @rule(target=stale, job=consumes(running))
    def give_back(self, job: Job) -> Any:
        return self._finish(job, released, "queued")

    @rule(target=stale, job=consumes(running), reason=st.sampled_from(STEPPED_ASIDE))
    def park(self, job: Job, reason: str) -> Any:
        made: list[Effect] = []
        if reason == "approval" and job.status == "running" and not job.stopping:
            job.approvals += 1
        if reason == "approval":
            options = ("approve", "reject")
            made.append(
                ApprovalEffect(self._key("approval"), "may I?", options, None, "", None, "reject")
            )
        return self._finish(job, lambda lease: parked(lease, reason, "go"), reason, *made)

    @rule(target=stale, job=consumes(running), count=st.integers(0, 2))
    def spawn(self, job: Job, count: int) -> Any:
        made = [JobEffect(self._key("child"), "answer", is_child=True) for _ in range(count)]
        return self._finish(job, lambda lease: parked(lease, "children"), "children", *made)

    @rule(job=stale, end=st.sampled_from([done, failed, released]))
    def finish_late(self, job: tuple[Job, Lease], end: Callable[[Lease], Finish]) -> None:
        """A worker that was stopped comes back with a lease from long ago."""
        now, lease = job
        if now.lease is not lease or now.status != "running":
            assert self.run(finish, end(lease)) == []

    @rule(job=every)
    def send_signal(self, job: Job) -> None:
        if job.ended:
            with pytest.raises(Conflict):
                self.run(signal, job.id)
        else:
            self.run(signal, job.id)
            job.signals += 1
            self.model.look()

    @rule(job=every, option=st.sampled_from(["approve", "reject"]))
    def decide(self, job: Job, option: str) -> None:
        found = self.run(fetch_all, OPEN_APPROVAL, {"id": job.id})
        assert len(found) == job.approvals
        for one in found:
            assert self.run(resolve, one["id"], option)["accepted"]
        job.approvals = 0
        self.model.look()

    @rule(job=every)
    def cancel(self, job: Job) -> None:
        self.model.cancel(job)
        status = self.run(cancel, job.id)
        self.model.look()
        assert status == job.status

    @rule(job=every)
    def retry(self, job: Job) -> None:
        timed = job.waiting_for == "timer"
        again = job.status in ("failed", "canceled")
        if again and job.is_child and job.parent and job.parent.ended:
            return  # it may go on alone, which the invariant below would call an orphan
        taken = job.keeps_key and self.model.open_holder(job.unique_key)
        if (again and taken) or not (again or timed):
            with pytest.raises(Conflict):
                self.run(retry, job.id)
            return
        self.run(retry, job.id)
        for one in self.model.restarted(job) if again else [job]:
            if again:
                one.failures = one.crashes = 0
                one.place, one.stopping = None, False
            one.due = True
            self.model.again(one)
        self.model.look()

    @rule(job=every)
    def time_passes(self, job: Job) -> None:
        if job.waiting_for == "timer":
            self.run(execute, DUE, {"id": job.id})
            job.due = True
            assert self.run(promote.promote_due, 10) == 1
            self.model.look()

    @rule()
    def worker_dies(self) -> None:
        self.run(die, self.worker_id)
        rescued = {one["id"]: one for one in self.run(rescue)}
        self.worker_id = self.run(register)
        lost = [job for job in self.model.jobs.values() if job.status == "running"]
        assert set(rescued) == {job.id for job in lost}
        alone = len(lost) == 1
        suspects = [job for job in lost if job.suspect]
        for job in lost:
            self._crash(job, alone=alone, charged=alone or suspects in ([], [job]))
        self.run(promote.unblock, list(rescued))
        self.model.look()

    @invariant()
    def is_as_the_model_says(self) -> None:
        assert self.found() == {
            job.id: (job.status, job.waiting_for, job.failures, job.crashes, job.stopping)
            for job in self.model.jobs.values()
        }

    def found(self) -> dict[UUID, tuple[Any, ...]]:
        """What the database says of each job."""
        return {one.pop("id"): tuple(one.values()) for one in self.run(fetch_all, ALL)}

    @invariant()
    def breaks_no_rule(self) -> None:
        assert self.run(breaches) == []

    def _finish(self, job: Job, end: Callable[[Lease], Finish], status: str, *made: Effect) -> Any:
        """One ending, with its effects and the look after its commit."""
        lease = job.lease
        assert lease is not None
        applied = self.run(_commit, end(lease), made)
        if job.status != "running":
            assert applied == []
            return (job, lease)
        [one] = applied
        stopped = job.stopping and status not in ("done", "failed")
        if stopped or status in ("done", "failed", "canceled"):
            self.model.end(job, "canceled" if stopped else status)
        elif status == "queued":
            self.model.requeue(job)
        else:
            self.model.park(job, status)
        assert (one.id, one.status) == (job.id, job.status)
        self._made(job, made)
        self.run(promote.unblock, [one.id] if one.unblocks else [])
        self.model.look()
        return (job, lease)

    def _made(self, parent: Job, made: tuple[Effect, ...]) -> None:
        """The jobs that an ending made, in the order of their keys."""
        keys = [one.key for one in made if isinstance(one, JobEffect)]
        for one in self.run(fetch_all, CHILDREN, {"id": parent.id, "keys": keys}):
            child = Job(one["id"], parent=parent, is_child=one["is_child"])
            if not child.is_child:
                child.lane, child.place = parent.lane, parent.place
            self.model.arrive(child)

    def _crash(self, job: Job, *, alone: bool, charged: bool) -> None:
        """A job whose worker died; charged if it may have killed it, guilty if it was alone."""
        before = job.crashes
        job.crashes += charged
        if job.stopping:
            self.model.end(job, "canceled")
        elif alone and job.crashes >= CRASHES_MAX:
            self.model.end(job, "failed")
        elif alone and before:
            job.due = False
            self.model.park(job, "timer")
        else:
            self.model.requeue(job)

    def _limit_key(self) -> str | None:
        return self.limit_keys[len(self.model.jobs) % len(self.limit_keys)]

    def _key(self, kind: str) -> str:
        self._keys += 1
        return f"{kind}:{self._keys:06}"


async def _commit(conn: Connection, ending: Finish, made: tuple[Effect, ...]) -> list[Any]:
    """What a finisher does in one transaction."""
    async with conn.transaction():
        applied = await finishing.finish(conn, [ending])
        origin = Origin(ending.lease.job_id)
        agreed = [one for one in applied if one.status == ending.status]
        await effects.write(conn, [(origin, one) for one in made if agreed])
        return applied


@pytest.mark.parametrize("fair", [False, True], ids=["plain", "fair"])
def test_any_sequence_of_operations_leaves_the_queue_as_the_model_says(
    database_url: str, fair: bool
) -> None:
    play(database_url, Queue, EXAMPLES_OF_OLDER if fair else EXAMPLES, fair=fair)


def play(database_url: str, kind: type[Queue], examples: int, *, fair: bool = False) -> None:
    """Play so many sequences; on an older version fewer."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio", {"use_uvloop": True}))
        database = Database(database_url, pool_min=1, pool_max=1)
        stack.enter_context(portal.wrap_async_context_manager(database))
        conn = stack.enter_context(portal.wrap_async_context_manager(database.connection()))
        newest = conn.info.server_version >= NEWEST

        class OnThisDatabase(kind):
            def __init__(self) -> None:
                super().__init__(_on(portal, conn), fair)

        run_state_machine_as_test(
            OnThisDatabase,
            settings=settings(
                max_examples=examples if newest else min(examples, EXAMPLES_OF_OLDER),
                stateful_step_count=STEPS,
                deadline=None,
                # Shrinking a database takes minutes; the steps that failed are shown anyhow.
                phases=[Phase.generate],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )


def _on(portal: BlockingPortal, conn: Connection) -> Callable[..., Any]:
    """Run an async function of a connection in the portal's loop."""

    def call(function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            return await function(conn, *args, **kwargs)

        return portal.call(run)

    return call
