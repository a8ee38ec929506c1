"""A waiting job goes on when its reason is gone, not before: cancel, retry, parents, children."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID, uuid4

import anyio
import pytest

from db.errors import Conflict, NotFound
from db.pool import Connection, Database, execute, fetch_val
from db.queue import effects, promote
from db.queue import finish as finishing
from db.queue.effects import JobEffect, Origin
from db.queue.enqueue import enqueue
from tests.db.protocol import (
    End,
    add,
    ask,
    blocking,
    breaches,
    cancel,
    canceled,
    claim,
    done,
    failed,
    finish,
    lease_of,
    parked,
    register,
    released,
    retry,
    row,
    running,
    settle,
    signal,
    state,
    states,
    take,
    tried_again,
)

pytestmark = [
    pytest.mark.both,
    pytest.mark.direct("what one function decides, as through any connection"),
]

CHILDREN: LiteralString = """
select array_agg(id order by effect_key) from jobsworth.reactive_jobs where parent_id = %(id)s
"""

CHAIN: LiteralString = """
insert into jobsworth.reactive_jobs (id, mode, status, waiting_for)
select lpad(n::text, 32, '0')::uuid, 'answer', 'waiting', 'parents'
from generate_series(1, %(length)s) n
"""

CHAIN_EDGES: LiteralString = """
insert into jobsworth.job_edges (job_id, needs_job_id)
select lpad(n::text, 32, '0')::uuid,
  case when n = 1 then %(first)s::uuid else lpad((n - 1)::text, 32, '0')::uuid end
from generate_series(1, %(length)s) n
"""

FAN: LiteralString = """
insert into jobsworth.job_edges (job_id, needs_job_id)
select j.id, %(needs)s::uuid from jobsworth.reactive_jobs j where j.waiting_for = 'parents'
"""


async def spawn(conn: Connection, parent: UUID, count: int) -> list[UUID]:
    children = [JobEffect(f"child:{n}", "plan", is_child=True) for n in range(count)]
    await effects.write(conn, [(Origin(parent), child) for child in children])
    return await fetch_val(conn, CHILDREN, {"id": parent})


# Cancel.


async def test_a_queued_job_is_canceled_at_once(conn: Connection) -> None:
    job_id = await add(conn)
    assert await cancel(conn, job_id) == "canceled"
    now = await row(conn, job_id)
    assert (now["status"], now["error"], now["run_at"]) == (
        "canceled",
        "canceled by a person",
        None,
    )
    assert now["finished_at"] is not None


@pytest.mark.parametrize("reason", ["timer", "lane", "parents", "children", "approval", "signal"])
async def test_a_waiting_job_is_canceled_at_once(conn: Connection, reason: str) -> None:
    lease = await running(conn)
    await finish(conn, parked(lease, reason, "a detail", 60))
    assert await cancel(conn, lease.job_id) == "canceled"
    now = await row(conn, lease.job_id)
    assert (now["waiting_for"], now["waiting_detail"], now["run_at"]) == (None, None, None)
    assert now["finished_at"] is not None


async def test_a_cancel_closes_the_jobs_approvals_and_stops_its_children(conn: Connection) -> None:
    lease = await running(conn)
    await ask(conn, lease.job_id)
    waiting, runs = await spawn(conn, lease.job_id, 2)
    worker_id = await register(conn)
    got = await claim(conn, worker_id)
    assert [job.id for job in got.jobs] == [waiting, runs]
    await finish(conn, released(lease_of(got.jobs[0], worker_id)))
    await finish(conn, parked(lease, "children"))
    await cancel(conn, lease.job_id)
    assert await states(conn, lease.job_id, waiting, runs) == [
        ("canceled", None),
        ("canceled", None),
        ("running", None),
    ]
    assert (await row(conn, runs))["cancel_requested"]
    status = "select status::text from jobsworth.approvals where job_id = %(id)s"
    assert await fetch_val(conn, status, {"id": lease.job_id}) == "superseded"
    assert await breaches(conn) == []


@pytest.mark.parametrize("end", [done, failed, canceled])
async def test_every_end_stops_the_children_that_are_left(conn: Connection, end: End) -> None:
    lease = await running(conn)
    await ask(conn, lease.job_id)
    [child] = await spawn(conn, lease.job_id, 1)
    await settle(conn, end(lease))
    assert (await state(conn, child))[0] == "canceled"
    assert await breaches(conn) == []


async def test_a_child_that_somebody_holds_when_its_parent_ends_is_looked_at_again(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    [child] = await spawn(conn, lease.job_id, 1)
    worker_id = await register(conn)
    async with database.transaction() as open_claim:
        assert len((await claim(open_claim, worker_id)).jobs) == 1
        await finish(conn, done(lease))
        again = await promote.unblock(conn, [lease.job_id])
        assert again == [lease.job_id]
    assert await promote.unblock(conn, again) == []
    assert (await row(conn, child))["cancel_requested"]


async def test_an_unknown_job_is_not_found(conn: Connection) -> None:
    with pytest.raises(NotFound, match="there is no job"):
        await cancel(conn, uuid4())
    with pytest.raises(NotFound, match="there is no job"):
        await retry(conn, uuid4())


# Retry.


@pytest.mark.parametrize("end", [failed, canceled])
async def test_a_retried_job_starts_afresh(conn: Connection, end: End) -> None:
    lease = await running(conn)
    await execute(conn, "update jobsworth.reactive_jobs set failures = 4, crashes = 2")
    await finish(conn, end(lease))
    before = await row(conn, lease.job_id)
    assert await retry(conn, lease.job_id) == "queued"
    now = await row(conn, lease.job_id)
    assert (now["failures"], now["crashes"], now["error"], now["finished_at"]) == (0, 0, None, None)
    assert not now["cancel_requested"]
    assert now["position"] > before["position"]
    assert (await take(conn, await register(conn)))[0].attempt == 2


async def test_a_scheduled_job_can_be_run_now(conn: Connection) -> None:
    job_id = await add(conn, delay=3600)
    assert await retry(conn, job_id) == "queued"
    assert (await row(conn, job_id))["failures"] == 0


async def test_a_backing_off_job_can_be_run_now_and_keeps_its_count(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, tried_again(lease, 3600))
    assert await retry(conn, lease.job_id) == "queued"
    assert (await row(conn, lease.job_id))["failures"] == 1


@pytest.mark.parametrize("status", ["queued", "running", "done", "waiting"])
async def test_no_other_job_can_be_retried(conn: Connection, status: str) -> None:
    lease = await running(conn)
    if status != "running":
        ending = {
            "queued": released(lease),
            "done": done(lease),
            "waiting": parked(lease, "approval"),
        }[status]
        await finish(conn, ending)
    before = await row(conn, lease.job_id)
    with pytest.raises(Conflict, match=f"is {status}"):
        await retry(conn, lease.job_id)
    assert await row(conn, lease.job_id) == before


async def test_a_retry_names_the_holder_of_its_unique_key(conn: Connection) -> None:
    lease = await running(conn, unique_key="k")
    await finish(conn, failed(lease))
    holder = await add(conn, unique_key="k")
    with pytest.raises(Conflict, match=str(holder)):
        await retry(conn, lease.job_id)
    assert await state(conn, lease.job_id) == ("failed", None)


async def test_a_late_worker_cannot_finish_a_retried_job(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, failed(lease))
    await retry(conn, lease.job_id)
    assert await finish(conn, done(lease)) == []
    assert await state(conn, lease.job_id) == ("queued", None)


# Parents.


async def test_a_job_runs_after_the_last_it_needs(conn: Connection) -> None:
    first, second = await running(conn), await running(conn)
    job_id = await add(conn, after=[first.job_id, second.job_id])
    await settle(conn, done(first))
    assert await state(conn, job_id) == ("waiting", "parents")
    await settle(conn, done(second))
    assert await state(conn, job_id) == ("queued", None)


async def test_parents_that_end_in_concurrent_batches_leave_nobody_waiting(
    database: Database, conn: Connection
) -> None:
    first, second = await running(conn), await running(conn)
    job_id = await add(conn, after=[first.job_id, second.job_id])
    async with database.transaction() as one:
        await finishing.finish(one, [done(first)])
        await settle(conn, done(second))
    assert await state(conn, job_id) == ("waiting", "parents")
    await promote.unblock(conn, [first.job_id])
    assert await state(conn, job_id) == ("queued", None)


@pytest.mark.parametrize("end", [failed, canceled])
async def test_a_job_that_needs_one_that_ended_badly_is_canceled_and_says_which(
    conn: Connection, end: End
) -> None:
    lease = await running(conn)
    job_id = await add(conn, after=[lease.job_id])
    after_that = await add(conn, after=[job_id])
    await settle(conn, end(lease))
    assert await states(conn, job_id, after_that) == [("canceled", None)] * 2
    assert str(lease.job_id) in (await row(conn, job_id))["error"]
    assert str(job_id) in (await row(conn, after_that))["error"]
    assert await breaches(conn) == []


async def test_a_job_with_a_failed_parent_waits_for_the_others_to_end(conn: Connection) -> None:
    bad, slow = await running(conn), await running(conn)
    job_id = await add(conn, after=[bad.job_id, slow.job_id])
    await settle(conn, failed(bad))
    assert await state(conn, job_id) == ("waiting", "parents")
    await settle(conn, done(slow))
    assert await state(conn, job_id) == ("canceled", None)


async def test_a_chain_of_two_thousand_is_canceled_in_one_go(conn: Connection) -> None:
    lease = await running(conn)
    values = {"length": 2000, "first": lease.job_id}
    async with conn.transaction():
        await execute(conn, CHAIN, values)
        await execute(conn, CHAIN_EDGES, values)
    await settle(conn, failed(lease))
    ended = "select count(*) from jobsworth.reactive_jobs where status = 'canceled'"
    assert await fetch_val(conn, ended) == 2000


async def test_five_thousand_that_need_one_job_go_on_in_one_go(conn: Connection) -> None:
    lease = await running(conn)
    async with conn.transaction():
        await execute(conn, CHAIN, {"length": 5000})
        await execute(conn, FAN, {"needs": lease.job_id})
    with anyio.fail_after(10):
        await settle(conn, done(lease))
    queued = "select count(*) from jobsworth.reactive_jobs where status = 'queued'"
    assert await fetch_val(conn, queued) == 5000


async def test_a_scheduled_job_whose_parents_ended_waits_for_its_time(conn: Connection) -> None:
    lease = await running(conn)
    job_id = await add(conn, after=[lease.job_id], delay=3600)
    await settle(conn, done(lease))
    assert await state(conn, job_id) == ("waiting", "timer")


async def test_an_open_enqueue_whose_parent_ends_meanwhile_is_found_by_a_sweep(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    async with database.transaction() as open_enqueue:
        job_id = (await enqueue(open_enqueue, "answer", after=[lease.job_id])).job_id
        await settle(conn, done(lease))
    await promote.sweep(conn, "parents", UUID(int=0), 10)
    assert await state(conn, job_id) == ("queued", None)


# Children.


async def test_a_parent_goes_on_after_its_last_child(conn: Connection) -> None:
    lease = await running(conn)
    await spawn(conn, lease.job_id, 2)
    await settle(conn, parked(lease, "children"))
    worker_id = await register(conn)
    first, second = (await claim(conn, worker_id)).jobs
    await settle(conn, failed(lease_of(first, worker_id)))
    assert await state(conn, lease.job_id) == ("waiting", "children")
    await settle(conn, done(lease_of(second, worker_id)))
    assert await state(conn, lease.job_id) == ("queued", None)


async def test_follow_ups_are_not_waited_for(conn: Connection) -> None:
    lease = await running(conn)
    await effects.write(conn, [(Origin(lease.job_id), JobEffect("job:1", "plan"))])
    await settle(conn, parked(lease, "children"))
    assert await state(conn, lease.job_id) == ("queued", None)


@pytest.mark.usefixtures("unguarded")
async def test_the_last_of_two_thousand_children_costs_no_walk_over_the_others(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    await spawn(conn, lease.job_id, 2000)
    await settle(conn, parked(lease, "children"))
    await execute(
        conn,
        "update jobsworth.reactive_jobs set status = 'done', finished_at = now() "
        "where is_child and effect_key <> 'child:1999'",
    )
    touched = (
        "select sum(idx_blks_hit + heap_blks_hit)::bigint from pg_statio_all_tables "
        "where schemaname = 'jobsworth'"
    )
    for again in (False, True):
        await execute(conn, "select pg_stat_force_next_flush()")
        before = await database.fetch_val(touched)
        await promote.reconsider(conn, [lease.job_id])
        await execute(conn, "select pg_stat_force_next_flush()")
        blocks = await database.fetch_val(touched) - before
        assert blocks < 200 or not again


# Whoever holds the row.


async def test_reconsider_waits_for_nobody_and_says_whom_to_look_at_again(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    await finish(conn, parked(lease, "timer", None, 0))
    free = await add(conn)
    async with database.transaction() as holder:
        await execute(
            holder,
            "select id from jobsworth.reactive_jobs where id = %(id)s for update",
            {"id": lease.job_id},
        )
        with anyio.fail_after(5):
            assert await promote.reconsider(conn, [lease.job_id, free]) == [lease.job_id]
    assert await promote.reconsider(conn, [lease.job_id, free]) == []
    assert await state(conn, lease.job_id) == ("queued", None)


async def test_reconsider_decides_on_what_was_committed_while_it_waited(
    database: Database, conn: Connection
) -> None:
    """A deliverer waits for the row; the signal of the one before it is seen all the same."""
    lease = await running(conn)
    await finish(conn, parked(lease, "signal", "go"))
    async with database.connection() as first, database.connection() as second:
        await first.execute("begin")
        await signal(first, lease.job_id, "stop")
        async with blocking(database, second, signal(second, lease.job_id, "go")) as result:
            await first.execute("commit")
        assert isinstance(result[0], UUID)
    assert await state(conn, lease.job_id) == ("queued", None)


async def test_jobs_that_do_not_wait_are_left_as_they_are(conn: Connection) -> None:
    runs, ended = await running(conn), await running(conn)
    await finish(conn, done(ended))
    jobs = [runs.job_id, ended.job_id, await add(conn)]
    before = [await row(conn, job_id) for job_id in jobs]
    assert await promote.reconsider(conn, jobs) == []
    assert [await row(conn, job_id) for job_id in jobs] == before
