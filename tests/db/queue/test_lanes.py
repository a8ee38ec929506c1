"""Lanes: one job at a time, in order, and nothing stalls."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import anyio
import pytest

from db.errors import Refused
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import effects, promote
from db.queue import finish as finishing
from db.queue.effects import JobEffect, Origin
from db.queue.enqueue import enqueue
from db.queue.finish import Finish
from tests.db.protocol import (
    add,
    ask,
    blocking,
    breaches,
    cancel,
    claim,
    done,
    finish,
    lease_of,
    parked,
    register,
    retry,
    row,
    run_dry,
    running,
    settle,
    signal,
    state,
    states,
    take,
    tried_again,
)

pytestmark = pytest.mark.both

# For each run of a job: when it was claimed and when it ended, by the clock of the database.
WATCH: LiteralString = """
create table jobsworth.seen (
  n bigint generated always as identity, lane text, job_id uuid, status text);
create function jobsworth.watch() returns trigger language plpgsql as $$
begin
  insert into jobsworth.seen (lane, job_id, status) values (new.lane, new.id, new.status::text);
  return null;
end $$;
create trigger watch after update on jobsworth.reactive_jobs
  for each row when (new.status in ('running', 'done')) execute function jobsworth.watch()
"""

DEEP: LiteralString = """
insert into jobsworth.reactive_jobs (mode, lane) select 'answer', 'deep'
from generate_series(1, 20000)
"""

TOUCHED: LiteralString = """
select sum(coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0)
  + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0))::bigint
from pg_statio_all_tables where schemaname = 'jobsworth'
"""

RUN_BY_HAND: LiteralString = """
update jobsworth.reactive_jobs
set status = 'running', lease_no = nextval('jobsworth.lease_no'), worker_id = jobsworth.uuidv7()
where id = %(id)s
"""


async def test_a_lane_runs_one_job_at_a_time_in_the_order_of_its_inserts(
    database: Database, conn: Connection
) -> None:
    jobs = [await add(conn, lane="a") for _ in range(5)]
    assert await states(conn, *jobs) == [("queued", None)] + [("waiting", "lane")] * 4
    ran = await run_dry(database, await register(conn), 10)
    assert [job.id for job in ran] == jobs


async def test_lanes_do_not_wait_for_each_other(conn: Connection) -> None:
    first, other = await add(conn, lane="a"), await add(conn, lane="b")
    await add(conn, lane="a")
    assert [job.id for job in (await claim(conn, await register(conn))).jobs] == [first, other]


async def test_a_jobs_thread_is_its_lane_and_the_empty_lane_is_none(conn: Connection) -> None:
    thread_id = UUID(int=7)
    first = await add(conn, thread_id=thread_id)
    behind = await add(conn, thread_id=thread_id)
    free = await add(conn, thread_id=thread_id, lane="")
    assert (await row(conn, first))["lane"] == str(thread_id)
    assert await states(conn, behind, free) == [("waiting", "lane"), ("queued", None)]


async def test_an_urgent_job_does_not_overtake_its_lane(conn: Connection) -> None:
    first, urgent = await add(conn, lane="a"), await add(conn, lane="a", priority=1)
    worker_id = await register(conn)
    job, lease = await take(conn, worker_id)
    assert job.id == first
    await settle(conn, done(lease))
    assert (await take(conn, worker_id))[0].id == urgent


# Two inserts into an idle lane at once.


async def _two_queued(database: Database, conn: Connection) -> tuple[UUID, UUID]:
    """Each was inserted while the other was not yet committed: neither saw the other."""
    async with database.transaction() as one:
        first = (await enqueue(one, "answer", lane="a")).job_id
        second = await add(conn, lane="a")
    assert await states(conn, first, second) == [("queued", None)] * 2
    return first, second


async def test_of_two_queued_members_a_claim_takes_the_first_and_puts_off_the_second(
    database: Database, conn: Connection
) -> None:
    first, second = await _two_queued(database, conn)
    got = await claim(conn, await register(conn))
    assert [job.id for job in got.jobs] == [first]
    assert got.deferred_lanes == ["a"]
    assert await states(conn, first, second) == [("running", None), ("waiting", "lane")]


async def test_a_claim_that_sees_only_the_second_puts_it_off_and_its_look_stalls_nothing(
    database: Database, conn: Connection
) -> None:
    first, second = await _two_queued(database, conn)
    worker_id = await register(conn)
    async with database.transaction() as holder:
        await execute(
            holder,
            "select id from jobsworth.reactive_jobs where id = %(id)s for no key update",
            {"id": first},
        )
        got = await claim(conn, worker_id)
        assert (got.jobs, got.deferred_lanes) == ([], ["a"])
        await promote.promote_lanes(conn, ["a"])
    assert await states(conn, first, second) == [("queued", None), ("waiting", "lane")]
    ran = await run_dry(database, worker_id, 10)
    assert [job.id for job in ran] == [first, second]


async def test_two_claimers_of_one_lane_take_one_job_between_them(
    database: Database, conn: Connection
) -> None:
    first, second = await _two_queued(database, conn)
    mine, yours = await register(conn), await register(conn)
    async with database.transaction() as open_claim:
        assert [job.id for job in (await claim(open_claim, mine, 1)).jobs] == [first]
        with anyio.fail_after(5):
            got = await claim(conn, yours)
        assert (got.jobs, got.deferred_lanes) == ([], ["a"])
    await promote.promote_lanes(conn, ["a"])
    assert await states(conn, first, second) == [("running", None), ("waiting", "lane")]


async def test_a_deferral_that_commits_after_the_finishers_look_is_looked_at_by_its_claimer(
    database: Database, conn: Connection
) -> None:
    first, second = await _two_queued(database, conn)
    mine, yours = await register(conn), await register(conn)
    _, lease = await take(conn, mine)
    async with database.transaction() as open_claim:
        assert (await claim(open_claim, yours)).deferred_lanes == ["a"]
        await settle(conn, done(lease))
    assert await states(conn, first, second) == [("done", None), ("waiting", "lane")]
    await promote.promote_lanes(conn, ["a"])
    assert await state(conn, second) == ("queued", None)


async def test_a_job_that_committed_late_behind_its_finished_predecessor_is_found_by_a_sweep(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn, lane="a")
    async with database.transaction() as open_enqueue:
        late = (await enqueue(open_enqueue, "answer", lane="a")).job_id
        await settle(conn, done(lease))
    assert await state(conn, late) == ("waiting", "lane")
    await promote.sweep(conn, "lane", UUID(int=0), 10)
    assert await state(conn, late) == ("queued", None)


async def test_a_late_commit_ahead_of_the_running_job_waits_for_it_and_is_next(
    database: Database, conn: Connection
) -> None:
    async with database.transaction() as open_enqueue:
        late = (await enqueue(open_enqueue, "answer", lane="a")).job_id
        second, third = await add(conn, lane="a"), await add(conn, lane="a")
        worker_id = await register(conn)
        job, lease = await take(conn, worker_id)
        assert job.id == second
    assert (await claim(conn, worker_id)).jobs == []
    await settle(conn, done(lease))
    assert await states(conn, late, third) == [("queued", None), ("waiting", "lane")]


# The backstop.


async def test_the_unique_index_refuses_a_second_running_job_and_the_claim_is_tried_again(
    database: Database, conn: Connection
) -> None:
    """A claimer that sees an idle lane, where another job begins to run before it writes."""
    first, second = await _two_queued(database, conn)
    worker_id = await register(conn)
    async with database.connection() as claimer, database.connection() as rival:
        await rival.execute("begin")
        await execute(rival, RUN_BY_HAND, {"id": second})
        async with blocking(database, claimer, claim(claimer, worker_id)) as result:
            await rival.execute("commit")
        [refused] = result
        assert isinstance(refused, Refused)
        assert refused.sqlstate == "23505"
        assert (await claim(claimer, worker_id)).deferred_lanes == ["a"]
    assert await states(conn, first, second) == [("waiting", "lane"), ("running", None)]


# Many at once.


async def test_eight_workers_keep_the_order_and_never_overlap(
    database_url: str, conn: Connection
) -> None:
    lanes, each = 6, 20
    await execute(conn, WATCH)
    expected: dict[str, list[UUID]] = {f"lane {n}": [] for n in range(lanes)}
    added = anyio.Event()

    async def producer(database: Database, name: str) -> None:
        """One insert after the other, with transactions that stay open over a few statements."""
        async with database.connection() as own:
            for n in range(each):
                async with own.transaction():
                    expected[name].append((await enqueue(own, "answer", lane=name)).job_id)
                    for _ in range(n % 5):
                        await execute(own, "select 1")

    async def worker(database: Database, wanted: int) -> None:
        async with database.connection() as own:
            worker_id = await register(own)
        while True:
            ended = added.is_set()
            await run_dry(database, worker_id, wanted)
            async with database.connection() as own:
                await promote.sweep(own, "lane", UUID(int=0), 100)
                left = await fetch_val(
                    own,
                    "select count(*) from jobsworth.reactive_jobs where finished_at is null",
                )
            if ended and not left:
                return

    with anyio.fail_after(60):
        async with (
            Database(database_url, pool_max=16) as database,
            anyio.create_task_group() as workers,
        ):
            for wanted in range(1, 9):
                workers.start_soon(worker, database, wanted)
            async with anyio.create_task_group() as producers:
                for name in expected:
                    producers.start_soon(producer, database, name)
            added.set()

    seen = await fetch_all(conn, "select lane, job_id, status from jobsworth.seen order by n")
    for name, jobs in expected.items():
        events = [(one["job_id"], one["status"]) for one in seen if one["lane"] == name]
        in_turn = [(job_id, status) for job_id in jobs for status in ("running", "done")]
        assert events == in_turn


async def test_crossing_batches_of_two_lanes_finish_without_waiting(
    database: Database, conn: Connection
) -> None:
    a, b = await running(conn, lane="a"), await running(conn, lane="b")
    behind = [await add(conn, lane="a"), await add(conn, lane="b")]
    async with database.transaction() as one, database.transaction() as two:
        with anyio.fail_after(5):
            assert len(await finishing.finish(one, [done(a)])) == 1
            assert len(await finishing.finish(two, [done(b), done(a)])) == 1
    await promote.unblock(conn, [a.job_id, b.job_id])
    assert await states(conn, *behind) == [("queued", None)] * 2


# Stepping aside.


@pytest.mark.parametrize("reason", ["approval", "signal"])
async def test_a_job_parked_for_a_person_steps_aside_and_is_next_when_it_resumes(
    conn: Connection, reason: str
) -> None:
    lease = await running(conn, lane="a")
    second, third = await add(conn, lane="a"), await add(conn, lane="a")
    approval_id = await ask(conn, lease.job_id)
    await settle(conn, parked(lease, reason, "go"))
    assert await states(conn, second, third) == [("queued", None), ("waiting", "lane")]
    worker_id = await register(conn)
    _, running_second = await take(conn, worker_id)
    await execute(
        conn,
        "update jobsworth.approvals set status = 'approved', chosen_option = 'approve', "
        "closed_at = now() where id = %(id)s",
        {"id": approval_id},
    )
    await signal(conn, lease.job_id)
    await promote.reconsider(conn, [lease.job_id])
    assert await state(conn, lease.job_id) == ("waiting", "lane")
    await settle(conn, done(running_second))
    assert await states(conn, lease.job_id, third) == [("queued", None), ("waiting", "lane")]


@pytest.mark.parametrize("reason", ["approval", "signal"])
async def test_a_job_that_holds_its_lane_is_not_overtaken_while_it_waits(
    conn: Connection, reason: str
) -> None:
    lease = await running(conn, lane="a", holds_lane=True)
    behind = await add(conn, lane="a")
    await ask(conn, lease.job_id)
    await settle(conn, parked(lease, reason, "go"))
    assert await states(conn, lease.job_id, behind) == [("waiting", reason), ("waiting", "lane")]


@pytest.mark.parametrize("reason", ["timer", "children"])
async def test_a_job_holds_its_lane_while_it_backs_off_or_waits_for_children(
    conn: Connection, reason: str
) -> None:
    lease = await running(conn, lane="a")
    behind = await add(conn, lane="a")
    origin = Origin(lease.job_id)
    await effects.write(conn, [(origin, JobEffect("child:1", "plan", is_child=True))])
    ending = tried_again(lease) if reason == "timer" else parked(lease, "children")
    await settle(conn, ending)
    assert await states(conn, lease.job_id, behind) == [("waiting", reason), ("waiting", "lane")]


# Scheduled jobs.


async def test_a_scheduled_job_blocks_nobody_before_it_is_due_and_then_joins_its_lane(
    database: Database, conn: Connection
) -> None:
    scheduled = await add(conn, lane="a", delay=3600)
    first, second = await add(conn, lane="a"), await add(conn, lane="a")
    assert await states(conn, first, second) == [("queued", None), ("waiting", "lane")]
    assert await retry(conn, scheduled) == "waiting"
    assert await state(conn, scheduled) == ("waiting", "lane")
    ran = await run_dry(database, await register(conn), 10)
    assert [job.id for job in ran] == [first, second, scheduled]


async def test_scheduled_jobs_that_are_due_together_join_their_lane_in_the_order_of_their_times(
    database: Database, conn: Connection
) -> None:
    jobs = [await add(conn, lane="a", delay=3600) for _ in range(4)]
    for minutes, job_id in enumerate(jobs, 1):
        await execute(
            conn,
            "update jobsworth.reactive_jobs set run_at = now() - make_interval(mins => %(m)s) "
            "where id = %(id)s",
            {"id": job_id, "m": minutes},
        )
    assert await promote.promote_due(conn, 10) == 4
    ran = await run_dry(database, await register(conn), 10)
    assert [job.id for job in ran] == jobs[::-1]


# Follow-ups, children, retries.


async def test_the_answer_to_message_one_comes_before_the_classification_of_message_two(
    database: Database, conn: Connection
) -> None:
    worker_id = await register(conn)
    await add(conn, "classify", lane="a")
    await add(conn, "classify", lane="a")
    order: list[str] = []
    for _ in range(4):
        job, lease = await take(conn, worker_id)
        order.append(job.mode)
        async with conn.transaction():
            applied = await finishing.finish(conn, [done(lease)])
            if job.mode == "classify":
                follow_ups = [JobEffect("job:1", "plan"), JobEffect("job:2", "answer")]
                if len(order) > 1:
                    follow_ups = []
                await effects.write(conn, [(Origin(job.id), one) for one in follow_ups])
        await promote.unblock(conn, [one.id for one in applied])
    assert order == ["classify", "plan", "answer", "classify"]
    assert await breaches(conn) == []


async def test_a_child_has_no_lane_and_runs_while_its_parent_holds_one(conn: Connection) -> None:
    lease = await running(conn, lane="a")
    child = JobEffect("child:1", "plan", is_child=True)
    await effects.write(conn, [(Origin(lease.job_id, thread_id=UUID(int=7)), child)])
    [job] = (await claim(conn, await register(conn))).jobs
    assert (job.mode, job.lane, job.thread_id) == ("plan", None, UUID(int=7))


async def test_a_canceled_head_frees_its_lane_in_the_same_transaction(conn: Connection) -> None:
    head, behind = await add(conn, lane="a"), await add(conn, lane="a")
    assert await cancel(conn, head) == "canceled"
    assert await state(conn, behind) == ("queued", None)


async def test_a_retried_job_joins_its_lane_at_the_end(conn: Connection) -> None:
    lease = await running(conn, lane="a")
    second, third = await add(conn, lane="a"), await add(conn, lane="a")
    await finish(conn, Finish(lease, "failed", failed=True, error="no"))
    assert await retry(conn, lease.job_id) == "waiting"
    positions = [
        (await row(conn, job_id))["lane_position"] for job_id in (second, third, lease.job_id)
    ]
    assert positions == sorted(positions)


async def test_a_job_in_a_lane_with_an_unknown_mode_keeps_its_place(conn: Connection) -> None:
    await register(conn)
    unknown, behind = await add(conn, "unheard_of", lane="a"), await add(conn, lane="a")
    await promote.shelve_unknown(conn, 10)
    await promote.unblock(conn, [unknown])
    assert await states(conn, unknown, behind) == [("waiting", "handler"), ("waiting", "lane")]
    await register(conn, ["unheard_of"])
    await promote.sweep(conn, "handler", UUID(int=0), 10)
    assert await state(conn, unknown) == ("queued", None)


# Depth.


async def test_a_lane_of_twenty_thousand_slows_neither_claim_nor_promotion(
    conn: Connection, database: Database
) -> None:
    # An autovacuum in the middle would be counted.
    await execute(conn, "alter table jobsworth.reactive_jobs set (autovacuum_enabled = off)")
    await execute(conn, DEEP)
    worker_id = await register(conn)
    ran = 30

    async def blocks() -> int:
        await execute(conn, "select pg_stat_force_next_flush()")
        return await database.fetch_val(TOUCHED)

    async def run(times: int) -> None:
        for _ in range(times):
            [job] = (await claim(conn, worker_id)).jobs
            await settle(conn, done(lease_of(job, worker_id)))

    await run(5)
    before = await blocks()
    await run(ran)
    assert (await blocks() - before) / ran < 200


async def test_a_job_that_needs_another_joins_its_lane_when_that_has_ended(
    conn: Connection,
) -> None:
    """In the lane before, it would keep from it the very job it needs, for ever."""
    needed = await add(conn, lane="a", delay=3600)
    needing = await add(conn, lane="a", after=[needed])
    await retry(conn, needed)
    assert await state(conn, needed) == ("queued", None)
    worker_id = await register(conn)
    _, lease = await take(conn, worker_id)
    assert lease.job_id == needed
    await settle(conn, done(lease))
    assert await state(conn, needing) == ("queued", None)
