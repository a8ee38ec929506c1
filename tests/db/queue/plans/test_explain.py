"""Hot statements stay on their indexes: blocks touched for each job, whatever the planner was told.

Plans are generic, statistics are missing, stale or true, and the snapshot may be pinned by
somebody's open transaction. What counts is what is read, not the text of a plan: the blocks that
all tables and indexes of the schema were asked for, functions and triggers included.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from db.approvals import approvals
from db.diagnosis import requests
from db.fence import PINNED, Lease, LeaseLost, hold
from db.money import budgets, limits, settlements
from db.money.calls import CallStatus, Usage
from db.money.settlements import Settlement
from db.money.starts import Starting
from db.pool import Connection, begun, execute, fetch_all
from db.queue import attempts, effects, jobs, promote, upkeep, workers
from db.queue import rescue as rescuing
from db.queue.attempts import BadEnding
from db.queue.effects import JobEffect, Origin
from db.queue.enqueue import enqueue
from db.queue.finish import lease_states
from db.steps import steps
from db.steps.steps import PaidAnswer, Record
from tests.db.money import entries
from tests.db.protocol import (
    claim,
    done,
    finish,
    register,
    released,
    rescue,
)
from tests.db.queue.plans.scene import (
    CHURNED,
    LOAD_FINISHED,
    LOAD_TIMERS,
    RUN,
    Meter,
    Scene,
    Work,
)

pytestmark = pytest.mark.usefixtures("unguarded")
# On the older version one of each kind is enough: the plans are pinned on both.
STATISTICS = [(18, "none"), (18, "fresh"), (18, "planned on nothing"), (16, "planned on nothing")]
MISLED = [(18, "of an empty table"), (18, "of few rows"), (18, "planned on nothing")]
RUNNING = 1_200

OPEN_CALLS: LiteralString = "select id from jobsworth.llm_calls where status = 'started'"

LOAD_WINDOWS: LiteralString = """
insert into jobsworth.budget_windows (budget_id, starts_at, run_id, spent)
select b.id, case b.period when 'run' then b.created_at else now() - n * interval '1 hour' end,
  case b.period when 'run' then gen_random_uuid() end, 1
from jobsworth.budgets b, generate_series(1, 2000) n
"""
LOAD_BUDGETS: LiteralString = """
insert into jobsworth.budgets (name, unit, amount, period, thread_id)
select 'thread ' || n, 'tokens', 1000, 'day', gen_random_uuid() from generate_series(1, 5000) n
"""
LOAD_CALL_WINDOWS: LiteralString = """
insert into jobsworth.call_windows (call_id, window_id, reserved)
select gen_random_uuid(), w.id, 1 from jobsworth.budget_windows w, generate_series(1, 5) n
"""

# What an autoanalyze sees that comes when almost everything is dead: many pages, few rows.
FEW_LIVE: LiteralString = """
insert into jobsworth.reactive_jobs (mode, worker_id, lease_no)
select 'answer', %(worker_id)s::uuid, n from generate_series(1, 60000) n
"""
# One of everything that has an index of its own, so that no index is empty: a planner reads the
# first page of each empty index of a statement's tables, and keeps what it read of the others. So
# each new index counted as a block for each table of a statement, although no run of it reads it.
LOAD_ONE_OF_EACH: LiteralString = """
insert into jobsworth.reactive_jobs (
  mode, status, waiting_for, waiting_detail, run_at, finished_at, worker_id, lease_no, lane,
  lane_position, unique_key, parent_id, is_child, thread_id, trigger_message_id, request_id, run_id,
  node, fair_key, expires_at, session_id)
select 'answer', k.status::jobsworth.job_status, k.reason::jobsworth.wait_reason, k.reason,
  case k.reason when 'timer' then now() end, case k.status when 'failed' then now() end,
  k.one, 1, k.one, 1, k.one, k.one, true, k.one, k.one, 'x', k.one, 'x', 'x', now(), k.one
from (
  select v.*, gen_random_uuid() as one
  from (values ('queued', null), ('waiting', 'limit'), ('waiting', 'timer'), ('running', null),
    ('failed', null)) as v (status, reason)) k
"""
EMPTY_INDEXES: LiteralString = """
select i.indexrelid::regclass::text as index from pg_index i
where i.indrelid = 'jobsworth.reactive_jobs'::regclass and pg_relation_size(i.indexrelid) <= 8192
"""
DELETE_ALL: LiteralString = "delete from jobsworth.reactive_jobs"
DELETE: LiteralString = "delete from jobsworth.reactive_jobs where lease_no is null or lease_no > 5"
ANALYZE: LiteralString = "analyze jobsworth.reactive_jobs"
VACUUM: LiteralString = "vacuum analyze jobsworth.reactive_jobs"

# Blocks for each job, or for each call. What walks from the head of an index may read what is dead
# there, which a pinned snapshot keeps: at most a few times in a second, never for each job.
DEAD = 2 * CHURNED
LIMITS = {
    "claim 1": 100,
    "claim 100": 20,
    "claim 1000": 20,
    "claim from the start": DEAD,
    "step": 60,
    "steps 100": 40,
    "start calls 100": 40,
    "settle calls 100": 40,
    "start counted calls 100": 110,
    "settle counted calls 100": 120,
    "wake for budgets": 300,
    "keep answers 100": 40,
    "step begun": 40,
    "hold": 30,
    "lease states 100": 10,
    "finish 1": 80,
    "finish 100": 40,
    "finish 500": 40,
    "tell attempts 100": 40,
    "release 100": 45,
    "unblock 500": 40,
    "effects 100": 30,
    "enqueue": 30,
    "enqueue in a lane": 50,
    "enqueue behind": 50,
    "enqueue once": 30,
    "promote a lane": 50,
    "next due": 20,
    "promote due 100": 40,
    "sweep lane": 80,
    "sweep signal": 50,
    "cancel requests": 10,
    "strays": 2 * RUNNING,
    "nothing to rescue": 30,
    "due work": 150,
    "orphans": 1000,
    "nothing to shelve": DEAD,
    "approvals due": 20,
    "beat": 10,
    "jobs of a request": 20,
    "of a request": 30,
}


async def _measure(scene: Scene) -> dict[str, float]:
    """Blocks touched for each job, or for each call, by every hot statement."""
    conn, meter = scene.conn, scene.meter
    touched: dict[str, float] = {}

    async def measure(name: str, jobs: int, work: Work) -> None:
        touched[name] = await meter.touched(work) / jobs

    await scene.claim(1)
    await measure("claim 1", 1, lambda: scene.claim(1))
    await measure("claim 100", 100, lambda: scene.claim(100))
    await measure("claim 1000", 1000, lambda: scene.claim(1000))
    hundred, five_hundred, [lease] = scene.leased(100), scene.leased(500), scene.leased(1)
    await measure("step", 1, lambda: steps.record(conn, hundred[0], "s", "1", attempt=1))
    ran = [Record(one, "fetch", "1", 1) for one in hundred]
    await measure("steps 100", 100, lambda: _pinned(conn, steps.record_all(conn, ran)))
    calls = [starting(one) for one in hundred]
    await measure("start calls 100", 100, lambda: _pinned(conn, entries.start_all(conn, calls)))
    ok = await _settlements(conn)
    await measure("settle calls 100", 100, lambda: _pinned(conn, entries.settle_all(conn, ok)))
    paid = [PaidAnswer(one.job_id, "draft", "1", 1, 0) for one in hundred]
    await measure("keep answers 100", 100, lambda: _pinned(conn, steps.keep_answers(conn, paid)))
    await measure("step begun", 1, lambda: steps.begin(conn, hundred[0], "t", attempt=1))
    await measure("hold", 1, lambda: hold(conn, hundred[0]))
    await measure("lease states 100", 100, lambda: lease_states(conn, hundred))
    await measure("jobs of a request", 1, lambda: jobs.list_jobs(conn, request_id="order-17"))
    await measure("of a request", 1, lambda: requests.of_request(conn, "order-17"))
    await measure("finish 1", 1, lambda: finish(conn, done(lease)))
    await measure("finish 100", 100, lambda: finish(conn, *map(done, hundred)))
    await measure("finish 500", 500, lambda: finish(conn, *map(done, five_hundred)))
    bad = [(one.job_id, BadEnding("failed", "it broke", "here")) for one in hundred]
    await measure("tell attempts 100", 100, lambda: attempts.tell(conn, bad))
    ended = [one.job_id for one in five_hundred]
    await measure("unblock 500", 500, lambda: promote.unblock(conn, ended))
    again = scene.leased(100)
    await measure("release 100", 100, lambda: finish(conn, *map(released, again)))
    await _bound(conn)
    calls = [starting(one) for one in scene.leased(100)]
    start = partial(entries.start_all, conn, calls)
    await measure("start counted calls 100", 100, lambda: _pinned(conn, start()))
    ok = await _settlements(conn)
    assert len(ok) == 100
    settle = partial(entries.settle_all, conn, ok)
    await measure("settle counted calls 100", 100, lambda: _pinned(conn, settle()))
    await measure("wake for budgets", 1, lambda: budgets.wake(conn))
    follow_ups = [(Origin(lease.job_id), JobEffect(f"job:{n}", "answer")) for n in range(100)]
    await measure("effects 100", 100, lambda: _write(conn, follow_ups))
    await measure("enqueue", 1, lambda: enqueue(conn, "answer"))
    await measure("enqueue in a lane", 1, lambda: enqueue(conn, "answer", lane="a"))
    await measure("enqueue behind", 1, lambda: enqueue(conn, "answer", lane="a"))
    await measure("enqueue once", 1, lambda: enqueue(conn, "answer", unique_key="k"))
    await measure("promote a lane", 1, lambda: promote.promote_lanes(conn, ["a"]))
    await measure("next due", 1, lambda: promote.next_due_seconds(conn))
    await measure("promote due 100", 100, lambda: promote.promote_due(conn, 100))
    await measure("sweep lane", 1, lambda: promote.sweep(conn, "lane", UUID(int=0), 200))
    await measure("sweep signal", 1, lambda: promote.sweep(conn, "signal", UUID(int=0), 200))
    ours, me = [one.job_id for one in scene.leases], scene.worker_id
    await measure("cancel requests", len(ours), lambda: rescuing.cancel_requests(conn, me, ours))
    await measure("strays", 1, lambda: rescuing.find_strays(conn, me, ours, 100))
    await measure("due work", 1, lambda: upkeep.due_work(conn))
    await measure("orphans", 1, lambda: promote.close_orphans(conn, UUID(int=0), 100))
    await _beat(conn, scene.worker_id)  # on a slow machine all this took its time
    await measure("nothing to rescue", 1, lambda: rescue(conn))
    await measure("approvals due", 1, lambda: approvals.expire(conn, 100))
    await measure("nothing to shelve", 1, lambda: promote.shelve_unknown(conn, 100))
    await measure("beat", 1, lambda: _beat(conn, scene.worker_id))
    await measure("claim from the start", 1, lambda: scene.claim(1, rescan=True))
    return touched


async def _bound(conn: Connection) -> None:
    """Four budgets and a limit for every call, and those of many calls before; and a budget for
    each of many threads.
    """
    for period in ("hour", "day", "month", "run"):
        await budgets.set_budget(conn, period, 10**9, unit="tokens", period=period)
    await limits.set_limit(conn, "openai", requests=10**6)
    await execute(conn, LOAD_WINDOWS)
    await execute(conn, LOAD_BUDGETS)
    await execute(conn, LOAD_CALL_WINDOWS)


async def _plan_on_nothing(conn: Connection, worker_id: UUID) -> None:
    """Run every statement once while there is no job, so that it is planned for an empty table."""
    await execute(conn, LOAD_FINISHED, {"worker_id": worker_id, "most": 10})
    await execute(conn, RUN)
    await execute(conn, LOAD_TIMERS)
    await execute(conn, DELETE_ALL)
    await execute(conn, VACUUM)
    # First, since psycopg forgets its prepared statements at a rollback.
    with suppress(_Undone):
        async with conn.transaction():
            for lane in (None, "a", "a"):
                await enqueue(conn, "answer", lane=lane)
            raise _Undone
    nobody = Lease(uuid4(), 1, worker_id)
    assert (await claim(conn, worker_id, 10)).jobs == []
    for refused in (
        steps.record(conn, nobody, "s", "1", attempt=1),
        steps.begin(conn, nobody, "s", attempt=1),
        hold(conn, nobody),
    ):
        with pytest.raises(LeaseLost):
            await refused
    await _pinned(conn, steps.record_all(conn, [Record(nobody, "s", "1", 1)]))
    await _pinned(conn, entries.start_all(conn, [starting(nobody)]))
    await _pinned(conn, entries.settle_all(conn, [settlement(uuid4())]))
    await _pinned(conn, steps.keep_answers(conn, [PaidAnswer(uuid4(), "s", "1", 1, 0)]))
    await budgets.set_budget(conn, "day", 10**9, unit="tokens", period="day")
    for _ in range(2):
        await _pinned(conn, entries.start_all(conn, [starting(None), starting(nobody)]))
        await _pinned(conn, entries.settle_all(conn, await _settlements(conn)))
    await budgets.wake(conn)
    await budgets.remove(conn, "day")
    await lease_states(conn, [nobody])
    await finish(conn, done(nobody))
    await promote.unblock(conn, [nobody.job_id])
    await promote.reconsider(conn, [nobody.job_id])
    await _write(conn, [(Origin(nobody.job_id), JobEffect("job:1", "answer"))])
    await promote.promote_lanes(conn, ["a"])
    await promote.next_due_seconds(conn)
    await promote.promote_due(conn, 100)
    for reason in ("lane", "signal"):
        await promote.sweep(conn, reason, UUID(int=0), 200)
    await rescuing.cancel_requests(conn, worker_id, [nobody.job_id])
    await rescuing.find_strays(conn, worker_id, [], 100)
    await upkeep.due_work(conn)
    await promote.close_orphans(conn, UUID(int=0), 100)
    await rescue(conn)
    await approvals.expire(conn, 100)
    await promote.shelve_unknown(conn, 100)


class _Undone(Exception):
    pass


def starting(lease: Lease | None) -> Starting:
    """A call that nobody has begun."""
    return Starting(lease, "openai", "gpt", uuid4().hex, Usage(1, 1))


def settlement(call_id: UUID) -> Settlement:
    return Settlement(call_id, CallStatus.OK, Usage(1, 1))


async def _settlements(conn: Connection) -> list[Settlement]:
    """All calls that are open are answered."""
    return [settlement(row["id"]) for row in await fetch_all(conn, OPEN_CALLS)]


async def _pinned(conn: Connection, work: Awaitable[object]) -> None:
    """As a group commit does."""
    async with begun(conn, settlements.SETTLING):
        await work


async def _write(conn: Connection, follow_ups: list[tuple[Origin, JobEffect]]) -> None:
    """As the finisher does."""
    async with begun(conn, PINNED):
        await effects.write(conn, follow_ups)


async def _beat(conn: Connection, worker_id: UUID) -> None:
    await execute(
        conn, workers.BEAT, {"id": worker_id, "running": 1, "draining": False, "deaf": "{}"}
    )


@contextmanager
def _pinned_snapshot(url: str) -> Iterator[None]:
    """Somebody's transaction that is open all the time: nothing that dies can be cleaned up."""
    with psycopg.connect(url) as pinning:
        pinning.execute("set transaction isolation level repeatable read")
        pinning.execute("select count(*) from jobsworth.workers")
        yield


async def _excess(database_url: str, conn: Connection, statistics: str) -> dict[str, float]:
    """What touched more than it may, after 50,000 finished jobs and with 5,000 queued ones."""
    touched = await _measure(await _scene(database_url, conn, statistics))
    assert touched.keys() == LIMITS.keys()
    return {name: blocks for name, blocks in touched.items() if blocks > LIMITS[name]}


async def _scene(database_url: str, conn: Connection, statistics: str) -> Scene:
    await conn.execute("set plan_cache_mode = force_generic_plan")
    scene = Scene(Meter(conn, database_url), await register(conn))
    await conn.execute("set session_replication_role = replica")  # or triggers refuse them
    await execute(conn, LOAD_ONE_OF_EACH)
    await execute(conn, DELETE_ALL)
    await conn.execute("set session_replication_role = origin")
    assert await fetch_all(conn, EMPTY_INDEXES) == []
    match statistics:
        case "planned on nothing":
            await _plan_on_nothing(conn, scene.worker_id)
        case "of an empty table":
            await execute(conn, ANALYZE)
        case "of few rows":
            await execute(conn, FEW_LIVE, {"worker_id": scene.worker_id})
            await execute(conn, DELETE)
            await execute(conn, ANALYZE)
        case _:
            pass
    await scene.load()
    if statistics == "fresh":
        await execute(conn, ANALYZE)
    return scene


@pytest.mark.parametrize(("way", "statistics"), STATISTICS, indirect=["way"])
async def test_hot_statements_stay_on_their_indexes(
    database_url: str, conn: Connection, statistics: str
) -> None:
    assert await _excess(database_url, conn, statistics) == {}


@pytest.mark.parametrize(("way", "statistics"), [*MISLED, (16, "of few rows")], indirect=["way"])
async def test_hot_statements_stay_on_their_indexes_while_a_snapshot_is_pinned(
    database_url: str, conn: Connection, statistics: str
) -> None:
    with _pinned_snapshot(database_url):
        assert await _excess(database_url, conn, statistics) == {}


@pytest.mark.both
async def test_finding_due_work_reads_neither_finished_jobs_nor_all_open_approvals(
    database_url: str, conn: Connection
) -> None:
    scene = await _scene(database_url, conn, "planned on nothing")
    await scene.claim(1000)
    await conn.execute("set synchronous_commit = on")  # or vacuum leaves what may not be on disk
    await execute(conn, VACUUM)
    assert await scene.meter.touched(lambda: upkeep.due_work(conn)) <= 100


@pytest.mark.both
async def test_without_the_pinned_plan_each_finish_reads_the_whole_table(
    database_url: str, conn: Connection
) -> None:
    await execute(conn, "alter routine jobsworth.finish reset all")
    scene = await _scene(database_url, conn, "planned on nothing")
    await scene.claim(2)
    first, second = scene.leased(2)
    touched = await scene.meter.touched(lambda: finish(conn, done(first), done(second)))
    assert touched > 10 * 2 * LIMITS["finish 1"]


@pytest.mark.both
async def test_without_the_pinned_plan_each_call_reads_the_whole_table(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlements, "SETTLING", "begin")
    await execute(conn, "alter routine jobsworth.start_calls reset all")
    scene = await _scene(database_url, conn, "planned on nothing")
    await scene.claim(2)
    calls = [starting(one) for one in scene.leased(2)]
    touched = await scene.meter.touched(lambda: _pinned(conn, entries.start_all(conn, calls)))
    assert touched > 10 * 2 * LIMITS["start calls 100"]
