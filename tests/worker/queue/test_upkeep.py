"""Upkeep on real rows: what happens to jobs without a claim, and what must not happen."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest

import worker.queue.upkeep as module
from db.fence import Lease
from db.money import calls
from db.money.calls import CallStatus, Usage
from db.pool import Connection, Database, fetch_val
from db.queue import jobs
from db.queue.jobs import JobStatus, WaitReason
from db.runs import runs
from db.runs.runs import Node
from tests.db.money import entries
from tests.db.rows import take
from tests.support import until
from tests.worker.job_api import JobApi, registered
from worker import Job, handler
from worker.daemon.heartbeat import Heartbeat, Identity, Pulse
from worker.daemon.vitals import Vitals
from worker.memory import embed
from worker.memory.embed import Wake
from worker.money import days
from worker.queue.upkeep import Rescue, Upkeep
from worker.settings import load_settings

RESCUE_SECONDS = 12.0
AGE_WORKERS: LiteralString = "update jobsworth.workers set beaten_at = now() - interval '1 minute'"
ADD_WORKER: LiteralString = """
insert into jobsworth.workers (id, host, pid, version, modes, queues, slots)
values (%(id)s, 'here', 1, '0', %(modes)s, '{default}', 1)
"""
# As the daemon has them, before `brisk`.
PERIODS = {name: value for name, value in vars(module).items() if name.endswith("_PERIOD_SECONDS")}
DUE_NOW: LiteralString = "update jobsworth.reactive_jobs set run_at = now()"


@pytest.fixture
async def api(database_url: str) -> AsyncGenerator[JobApi]:
    with registered():
        async with JobApi.open(database_url) as api:
            yield api


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rounds in little time."""
    for name in dir(module):
        if name.endswith("_PERIOD_SECONDS"):
            monkeypatch.setattr(module, name, 0.02)
    monkeypatch.setattr(module, "COST_FACTOR", 0)


@dataclass
class Kept:
    """A running upkeep, and what it told the rest of the daemon."""

    heartbeat: Heartbeat
    known: list[UUID] = field(default_factory=list[UUID])
    turn_seconds: float | None = 0.0
    ended: list[UUID] = field(default_factory=list[UUID])
    canceled: list[tuple[UUID, int, str]] = field(default_factory=list[tuple[UUID, int, str]])
    rescued: list[int] = field(default_factory=list[int])
    moves: int = 0
    upkeep: Upkeep = field(init=False)

    def moved(self) -> None:
        self.moves += 1

    def cancel(self, job_id: UUID, lease_no: int, reason: str) -> None:
        self.canceled.append((job_id, lease_no, reason))

    async def drain_spool(self) -> int:
        return 0

    def beat(self, unbroken_seconds: float) -> None:
        """As if the heart had beaten just now, and without a gap for so long."""
        worker_id = self.heartbeat.pulse.worker_id
        self.heartbeat.pulse = Pulse(worker_id, monotonic(), monotonic() - unbroken_seconds)


@asynccontextmanager
async def upkeep(
    api: JobApi,
    *,
    unbroken_seconds: float = 0,
    worker_id: UUID | None = None,
    database: Database | None = None,
) -> AsyncGenerator[Kept]:
    """Upkeep at work, of a worker whose heart has beaten so long without a gap."""
    heartbeat = Heartbeat(
        api.url,
        "jobsworth",
        Identity(host="here", pid=1, version="0", modes=(), queues=(), slots=1),
        beat_seconds=2,
        stop_seconds=600,
        running=lambda: 0,
        draining=lambda: False,
        vitals=Vitals(uuid4(), 1),
    )
    heartbeat.pulse = Pulse(worker_id or uuid4(), monotonic(), monotonic() - unbroken_seconds)

    kept = Kept(heartbeat)
    kept.upkeep = Upkeep(
        database or api.database,
        heartbeat,
        Rescue(RESCUE_SECONDS, crashes_max=3, retry_base_seconds=60, retry_max_seconds=3600),
        poll_seconds=0.05,
        windows_days=90,
        known=lambda: kept.known,
        drain_spool=kept.drain_spool,
        turn_seconds=lambda: kept.turn_seconds,
        ended=kept.ended.extend,
        moved=kept.moved,
        rescued=kept.rescued.append,
        cancel=kept.cancel,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.upkeep.run)
        yield kept
        tasks.cancel_scope.cancel()


async def running_job(api: JobApi, mode: str = "answer") -> Lease:
    """A job that a living worker of its own runs."""
    job_id = await api.enqueue(mode)
    async with api.database.connection() as connection:
        return await take(connection, job_id)


def status_is(api: JobApi, job_id: UUID, status: JobStatus) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return (await api.job(job_id)).status is status

    return check


async def a_few_rounds(api: JobApi) -> None:
    """Every part of the running upkeep has had its turn, some of them often."""
    for _ in range(3):
        job_id = await api.enqueue("answer", delay=3600)
        await api.database.execute(
            "update jobsworth.reactive_jobs set run_at = now() where id = %(id)s", {"id": job_id}
        )
        await until(status_is(api, job_id, JobStatus.QUEUED))


async def test_a_dead_workers_job_is_rescued_by_one_that_has_beaten_long_enough(
    api: JobApi,
) -> None:
    lease = await running_job(api)
    await api.database.execute(AGE_WORKERS)
    async with upkeep(api, unbroken_seconds=RESCUE_SECONDS + 1) as kept:
        await until(status_is(api, lease.job_id, JobStatus.QUEUED))
        await until(lambda: _true(kept.moves))
    job = await api.job(lease.job_id)
    assert (job.crashes, job.failures) == (1, 0)
    assert (kept.ended, kept.rescued) == ([lease.job_id], [1])


async def test_a_rescue_is_withheld_until_the_heartbeat_has_been_unbroken(api: JobApi) -> None:
    """After an outage every heartbeat is old, and nobody may be declared dead for that."""
    lease = await running_job(api)
    await api.database.execute(AGE_WORKERS)
    async with upkeep(api, unbroken_seconds=RESCUE_SECONDS - 3) as kept:
        await a_few_rounds(api)
        kept.beat(unbroken_seconds=float("-inf"))  # a beat was missed just now
        await a_few_rounds(api)
        assert (await api.job(lease.job_id)).status is JobStatus.RUNNING
        kept.beat(unbroken_seconds=RESCUE_SECONDS + 1)
        await until(status_is(api, lease.job_id, JobStatus.QUEUED))


async def test_a_living_workers_job_is_left_alone(api: JobApi) -> None:
    lease = await running_job(api)
    async with upkeep(api, unbroken_seconds=RESCUE_SECONDS + 1):
        await a_few_rounds(api)
    assert (await api.job(lease.job_id)).status is JobStatus.RUNNING


async def test_dead_workers_are_buried_once_their_jobs_are_rescued(api: JobApi) -> None:
    await running_job(api)
    await api.database.execute(AGE_WORKERS)
    living = uuid4()
    await api.database.execute(ADD_WORKER, {"id": living, "modes": ["answer"]})

    async def buried() -> bool:
        return await api.rows("select id from jobsworth.workers") == [{"id": living}]

    async with upkeep(api, unbroken_seconds=RESCUE_SECONDS + 1):
        await until(buried)


async def test_timers_fire_and_one_that_was_just_set_is_not_slept_over(api: JobApi) -> None:
    # So late that neither is due already when it is inserted, however busy the machine.
    first = await api.enqueue("answer", delay=0.3)
    async with upkeep(api) as kept:
        await until(status_is(api, first, JobStatus.QUEUED))
        second = await api.enqueue("answer", delay=0.3)
        kept.upkeep.timer_set()
        await until(status_is(api, second, JobStatus.QUEUED))
        await until(lambda: _true(kept.moves >= 2))


async def test_an_approval_past_its_deadline_takes_its_default(api: JobApi) -> None:
    @handler("ask")
    async def ask(job: Job) -> None:
        await job.ask("Go on?", deadline_seconds=3600)

    job = await api.run("ask")
    await api.database.execute("update jobsworth.approvals set deadline = now()")
    async with upkeep(api) as kept:
        await until(status_is(api, job.id, JobStatus.QUEUED))
        await until(lambda: _true(kept.moves))
    [approval] = await api.rows("select status::text, chosen_option from jobsworth.approvals")
    assert approval == {"status": "expired", "chosen_option": "reject"}


async def test_jobs_that_no_worker_knows_are_shelved_and_come_back_with_their_handler(
    api: JobApi,
) -> None:
    await api.database.execute(ADD_WORKER, {"id": uuid4(), "modes": ["answer"]})
    known = await api.enqueue("answer")
    unknown = await api.enqueue("translate")
    async with upkeep(api):
        await until(status_is(api, unknown, JobStatus.WAITING))
        job = await api.job(unknown)
        assert (job.waiting_for, job.attempt) == (WaitReason.HANDLER, 0)
        assert (await api.job(known)).status is JobStatus.QUEUED
        await api.database.execute(ADD_WORKER, {"id": uuid4(), "modes": ["translate"]})
        await until(status_is(api, unknown, JobStatus.QUEUED))


async def test_without_any_worker_nothing_is_shelved(api: JobApi) -> None:
    """Between two deployments of the daemon no mode is known, and none is missing."""
    job_id = await api.enqueue("translate")
    async with upkeep(api):
        await a_few_rounds(api)
    assert (await api.job(job_id)).status is JobStatus.QUEUED


async def test_calls_of_attempts_that_are_over_are_settled_at_their_estimate(api: JobApi) -> None:
    over, alive = await running_job(api), await running_job(api)
    async with api.database.connection() as connection:
        for lease in (over, alive):
            await entries.start(
                connection,
                lease,
                provider="scripted",
                model="m-1",
                request_id=uuid4().hex,
                estimate=Usage(100, 50),
            )
        await take(connection, over.job_id)

        async def settled() -> bool:
            [call] = await calls.list_calls(connection, over.job_id)
            return call.status is CallStatus.UNKNOWN

        async with upkeep(api):
            await until(settled)
        [call] = await calls.list_calls(connection, over.job_id)
        assert (call.input_tokens, call.output_tokens) == (100, 50)
        [call] = await calls.list_calls(connection, alive.job_id)
        assert call.status is CallStatus.STARTED


async def test_the_sweep_finds_a_lane_that_a_late_commit_has_stalled(api: JobApi) -> None:
    """It was inserted while the lane was busy and committed after the lane had been looked at."""

    @handler("talk")
    def talk() -> None:
        pass

    first = await api.enqueue("talk", lane="chat")
    async with api.database.transaction() as connection:
        late: UUID = await insert_in_lane(connection)
        await api.work()
        assert (await api.job(first)).status is JobStatus.DONE
    job = await api.job(late)
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.LANE)
    async with upkeep(api):
        await until(status_is(api, late, JobStatus.QUEUED))


@pytest.mark.parametrize("reason", ["children", "parents", "approval", "signal"])
async def test_the_sweep_finds_what_a_crash_left_waiting(api: JobApi, reason: str) -> None:
    """Nothing that it waited for is there any more, and nobody has looked since."""
    job_id = await api.enqueue("talk", lane="chat")
    await api.database.execute(
        "update jobsworth.reactive_jobs set status = 'waiting', waiting_detail = 'go',"
        " waiting_for = %(reason)s::jobsworth.wait_reason",
        {"reason": reason},
    )
    await api.database.execute(
        "insert into jobsworth.signals (job_id, name) values (%(id)s, 'go')", {"id": job_id}
    )
    async with upkeep(api):
        await until(status_is(api, job_id, JobStatus.QUEUED))


async def test_the_sweep_moves_a_run_that_a_crash_left_open(api: JobApi) -> None:
    async with api.database.connection() as connection:
        run_id = (await runs.start(connection, [Node("a", "talk")])).run_id
    await api.database.execute(
        "update jobsworth.reactive_jobs set status = 'done', finished_at = now()"
    )
    query = "select status = 'done' from jobsworth.runs where id = %(id)s"
    async with upkeep(api):
        await until(lambda: api.database.fetch_val(query, {"id": run_id}))


async def test_a_cancel_request_reaches_the_attempt_of_this_worker_and_no_other(
    api: JobApi,
) -> None:
    ours, others = await running_job(api), await running_job(api)
    async with upkeep(api, worker_id=ours.worker_id) as kept:
        kept.known += [ours.job_id, others.job_id]
        await a_few_rounds(api)
        assert kept.canceled == []
        async with api.database.connection() as connection:
            for lease in (ours, others):
                await jobs.cancel(connection, lease.job_id, "changed my mind")
        kept.upkeep.cancel_asked()
        await until(lambda: _true(kept.canceled))
        await a_few_rounds(api)
    assert set(kept.canceled) == {(ours.job_id, ours.lease_no, "changed my mind")}


async def test_a_notified_cancel_is_looked_at_before_the_next_round(
    api: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANCEL_PERIOD_SECONDS", 3600)
    ours = await running_job(api)
    async with upkeep(api, worker_id=ours.worker_id) as kept:
        kept.known.append(ours.job_id)
        await a_few_rounds(api)
        async with api.database.connection() as connection:
            await jobs.cancel(connection, ours.job_id)
        kept.upkeep.cancel_asked()
        await until(lambda: _true(kept.canceled))


async def test_a_job_under_our_name_without_an_attempt_is_queued_again(api: JobApi) -> None:
    """The answer to its claim was lost."""
    stray = await running_job(api)
    async with upkeep(api, worker_id=stray.worker_id) as kept:
        await until(status_is(api, stray.job_id, JobStatus.QUEUED))
        await until(lambda: _true(kept.moves))
    job = await api.job(stray.job_id)
    assert (job.crashes, job.failures) == (0, 0)


async def test_a_lost_answer_is_looked_for_at_once(
    api: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRAYS_PERIOD_SECONDS", 3600)
    worker_id = uuid4()
    async with upkeep(api, worker_id=worker_id) as kept:
        await a_few_rounds(api)
        stray = await running_job(api)
        await api.database.execute(
            "update jobsworth.reactive_jobs set worker_id = %(worker)s where id = %(id)s",
            {"worker": worker_id, "id": stray.job_id},
        )
        kept.upkeep.claim_unanswered()
        await until(status_is(api, stray.job_id, JobStatus.QUEUED))


async def test_a_job_whose_claim_is_not_answered_yet_is_no_stray(api: JobApi) -> None:
    """It is one only when the claim loop has begun a turn since it was first seen."""
    claimed = await running_job(api)
    async with upkeep(api, worker_id=claimed.worker_id) as kept:
        kept.turn_seconds = 3600.0
        await a_few_rounds(api)
        kept.turn_seconds = None
        await a_few_rounds(api)
        kept.known.append(claimed.job_id)
        kept.turn_seconds = 0.0
        await a_few_rounds(api)
        assert (await api.job(claimed.job_id)).status is JobStatus.RUNNING
        kept.known.clear()
        await until(status_is(api, claimed.job_id, JobStatus.QUEUED))


async def test_what_was_left_open_on_an_ended_job_is_closed(api: JobApi) -> None:
    """Its worker died between its commit and the look after it."""
    lease = await running_job(api)
    await api.database.execute(
        "insert into jobsworth.approvals (job_id, proposal_text, shown_hash)"
        " values (%(id)s, 'Ship it?', '')",
        {"id": lease.job_id},
    )
    await api.database.execute(
        "update jobsworth.reactive_jobs set status = 'done', finished_at = now()"
    )

    async def closed() -> bool:
        found = await api.rows("select status::text from jobsworth.approvals")
        return found == [{"status": "superseded"}]

    async with upkeep(api):
        await until(closed)


CLOSE_LEDGER: LiteralString = (
    "update jobsworth.ledger_closing set closed_through = (now() at time zone 'utc')::date"
)


class Round:
    """What upkeep asked the database until each of its parts had had one turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.rests: list[float] = []
        really_execute, really_wait = psycopg.AsyncCursor.execute, Wake.wait

        async def execute(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
            self.asked.append(str(query))
            return await really_execute(cursor, query, *args, **options)

        async def wait(wake: Wake, seconds_max: float) -> None:
            self.rests.append(seconds_max)
            await really_wait(wake, 3600)

        monkeypatch.setattr(psycopg.AsyncCursor, "execute", execute)
        monkeypatch.setattr(Wake, "wait", wait)

    async def over(self) -> bool:
        return len(self.rests) == 10


@pytest.mark.parametrize("waiting", [False, True], ids=["no job", "one that waits"])
async def test_a_round_without_work_is_eight_statements_and_one_for_what_waits(
    api: JobApi, monkeypatch: pytest.MonkeyPatch, *, waiting: bool
) -> None:
    """Timers, strays, chores, unknown modes, abandoned calls, environments, budgets' windows and
    the ledger's days ask once each, cancels not."""
    await api.database.execute(CLOSE_LEDGER)
    await api.enqueue("answer", delay=3600)
    if waiting:
        parent = await api.enqueue("answer", delay=3600)
        await api.enqueue("answer", after=[parent])
    asked = Round(monkeypatch)
    async with upkeep(api, unbroken_seconds=RESCUE_SECONDS + 1):
        await until(asked.over)
    sweeps = [statement for statement in asked.asked if "recent" in statement]
    assert len(sweeps) == waiting
    assert len(asked.asked) == 8 + waiting


def test_a_worker_without_work_asks_less_than_four_times_a_second() -> None:
    """Claims, the heartbeat and the outbox included, in the mean of their jittered pauses."""
    defaults = load_settings()
    pauses = [
        0.95 * module.TIMER_LOOK_SECONDS,
        PERIODS["CHORES_PERIOD_SECONDS"],
        PERIODS["SHELVE_PERIOD_SECONDS"],
        PERIODS["STRAYS_PERIOD_SECONDS"],
        PERIODS["ABANDONED_PERIOD_SECONDS"],
        PERIODS["ENVIRONMENTS_PERIOD_SECONDS"],
        PERIODS["WINDOWS_PERIOD_SECONDS"],
        days.PERIOD_SECONDS,
        defaults.poll_seconds,
        defaults.heartbeat_seconds,
        embed.POLL_SECONDS,
    ]
    assert sum(1 / pause for pause in pauses) < 4


def test_a_look_that_costs_much_comes_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for seconds in (0.0, 0.001, 0.02):
        assert module.seldom(seconds, 2.0) is None
    assert module.seldom(0.04, 2.0) == pytest.approx(4, rel=0.1)
    assert module.seldom(100.0, 2.0) == module.COST_PAUSE_SECONDS_MAX


async def test_upkeep_goes_on_after_an_error(api: JobApi) -> None:
    job_id = await api.enqueue("answer", delay=3600)
    lease = await running_job(api)
    await api.database.execute(DUE_NOW)
    await api.database.execute(AGE_WORKERS)
    dead_for_long = RESCUE_SECONDS + 1
    async with (
        Database(api.url, pool_min=1, pool_max=1, acquire_seconds=0.02) as scarce,
        scarce.connection(),
        upkeep(api, database=scarce, unbroken_seconds=dead_for_long) as kept,
    ):
        await until(lambda: _true(_refused(scarce) >= 10))
        await scarce.pool.resize(1, 2)
        await until(status_is(api, job_id, JobStatus.QUEUED))
        await until(status_is(api, lease.job_id, JobStatus.QUEUED))
        await until(lambda: _true(kept.moves))


def _refused(database: Database) -> int:
    return database.pool.get_stats().get("requests_errors", 0)


async def insert_in_lane(connection: Connection) -> UUID:
    return await fetch_val(connection, "select jobsworth.enqueue('talk', lane => 'chat')")


async def _true(value: Any) -> bool:
    return bool(value)
