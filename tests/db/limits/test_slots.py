"""Slots of limits: how many jobs run at once, whoever claims, ends, dies and takes back."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import pytest

from db.limits import gates, job_limits
from db.pool import Connection, Database, execute
from db.queue import promote
from db.queue.enqueue import enqueue
from tests.db.protocol import (
    add,
    blocking,
    breaches,
    cancel,
    claim,
    die,
    done,
    finish,
    lease_of,
    parked,
    register,
    released,
    rescue,
    retry,
    row,
    settle,
    signal,
    state,
    states,
)
from tests.db.racing import is_blocked
from tests.support import until

pytestmark = pytest.mark.both


async def test_no_more_run_than_a_limit_has_slots(conn: Connection) -> None:
    await job_limits.set_limit(conn, "heavy", mode="plan", slots=2)
    worker_id = await register(conn)
    jobs = [await add(conn, "plan") for _ in range(5)]
    other = await add(conn, "answer")
    got = await claim(conn, worker_id)
    assert [job.id for job in got.jobs] == [*jobs[:2], other]
    assert await states(conn, *jobs[2:]) == [("waiting", "limit")] * 3
    assert sorted(got.held_up) == jobs[2:]

    await promote.unblock(conn, got.held_up)
    assert (await claim(conn, worker_id)).jobs == []
    await settle(conn, done(lease_of(got.jobs[0], worker_id)))
    [third] = (await claim(conn, worker_id)).jobs
    assert third.id == jobs[2]
    assert await breaches(conn) == []


async def test_each_key_has_slots_of_its_own(conn: Connection) -> None:
    await job_limits.set_limit(conn, "each", per="key", slots=1)
    worker_id = await register(conn)
    a, a_later = [await add(conn, limit_key="a") for _ in range(2)]
    b, none = await add(conn, limit_key="b"), await add(conn)
    got = await claim(conn, worker_id)
    assert [job.id for job in got.jobs] == [a, b, none]
    assert got.held_up == [a_later]
    assert (await row(conn, a_later))["waiting_detail"] == "limit each, key a"


async def test_a_job_takes_all_of_its_limits_or_none(conn: Connection) -> None:
    await job_limits.set_limit(conn, "all", slots=3)
    await job_limits.set_limit(conn, "each", per="key", slots=1)
    worker_id = await register(conn)
    first, second = [await add(conn, limit_key="a") for _ in range(2)]
    others = [await add(conn, limit_key=key) for key in "bcd"]
    got = await claim(conn, worker_id)
    assert [job.id for job in got.jobs] == [first, *others[:2]]
    assert (await row(conn, second))["waiting_detail"] == "limit each, key a"
    assert (await row(conn, others[2]))["waiting_detail"] == "limit all"
    await settle(conn, done(lease_of(got.jobs[0], worker_id)))
    again = await claim(conn, worker_id)
    # Both go on, and one of them has to wait for the other limit now.
    assert [job.id for job in again.jobs] == [others[2]]
    assert (await row(conn, second))["waiting_detail"] == "limit all"
    assert await breaches(conn) == []


@pytest.mark.parametrize("end", ["done", "parked", "released", "canceled", "deleted", "rescued"])
async def test_a_slot_is_free_however_its_job_leaves(conn: Connection, end: str) -> None:
    await job_limits.set_limit(conn, "one", slots=1)
    worker_id = await register(conn)
    first, second = await add(conn), await add(conn)
    [job] = (await claim(conn, worker_id)).jobs
    assert job.id == first
    lease = lease_of(job, worker_id)
    if end == "rescued":
        await die(conn, worker_id)
        await promote.unblock(conn, [one["id"] for one in await rescue(conn)])
        worker_id = await register(conn)
    elif end == "deleted":
        await execute(conn, "delete from jobsworth.reactive_jobs where id = %(id)s", {"id": first})
        await gates.sweep(conn, gates.FIRST_GATE, 10)
    else:
        if end == "canceled":
            await cancel(conn, first)
        ending = {"parked": parked(lease, "signal", "go"), "released": released(lease)}
        await settle(conn, ending.get(end, done(lease)))
    [job] = (await claim(conn, worker_id)).jobs
    assert job.id == second
    # The first ending again changes nothing, and gives nothing back.
    await settle(conn, done(lease))
    assert (await claim(conn, worker_id)).jobs == []
    assert await job_limits.holders(conn, "one") == [job.id]
    assert await breaches(conn) == []


async def test_jobs_come_back_in_their_order(conn: Connection) -> None:
    await job_limits.set_limit(conn, "one", slots=1)
    worker_id = await register(conn)
    jobs = [await add(conn) for _ in range(4)]
    order: list[UUID] = []
    while got := await claim(conn, worker_id):
        await promote.unblock(conn, got.held_up)
        if not got.jobs:
            break
        order += [job.id for job in got.jobs]
        if len(order) == 1:
            jobs.append(await add(conn))
        if len(order) == 2:
            # The third gets its turn before this one is looked at.
            jobs.insert(3, await add(conn, priority=1))
        await settle(conn, *(done(lease_of(job, worker_id)) for job in got.jobs))
    assert order == jobs


async def test_a_flood_of_one_key_does_not_hide_the_others(conn: Connection) -> None:
    await job_limits.set_limit(conn, "each", per="key", slots=1)
    worker_id = await register(conn)
    for _ in range(900):
        await add(conn, limit_key="flood")
    last = await add(conn, limit_key="small")
    first = await claim(conn, worker_id, 1)
    assert len(first.jobs) == 1
    assert (await claim(conn, worker_id, 1)).jobs == []
    [found] = (await claim(conn, worker_id, 1)).jobs
    assert found.id == last


async def test_an_end_and_a_claim_that_cross_do_not_miss_each_other(
    conn: Connection, database: Database
) -> None:
    await job_limits.set_limit(conn, "one", slots=1)
    worker_id = await register(conn)
    first, second = await add(conn), await add(conn)
    [job] = (await claim(conn, worker_id, 1)).jobs
    assert job.id == first
    async with database.connection() as other:
        async with other.transaction():
            got = await claim(other, worker_id)
            assert got.held_up == [second]
            # The end commits, and looks, before the wait is committed.
            await settle(conn, done(lease_of(job, worker_id)))
        await promote.unblock(other, got.held_up)
    assert await state(conn, second) == ("queued", None)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [second]


async def test_two_claims_at_once_do_not_pass_a_limit_together(
    conn: Connection, database: Database
) -> None:
    await job_limits.set_limit(conn, "one", slots=1)
    worker_id = await register(conn)
    first, second = await add(conn), await add(conn)
    async with database.connection() as other, other.transaction():
        assert [job.id for job in (await claim(other, worker_id, 1)).jobs] == [first]
        # The gate is held: the job stays queued, and nobody waits.
        got = await claim(conn, worker_id, 1)
        assert (got.jobs, got.held_up, got.all_found) == ([], [], False)
        assert await state(conn, second) == ("queued", None)
    assert (await claim(conn, worker_id, 1)).held_up == [second]


# In the tests' server, a promotion waits here between its look at who waits and what it does.
HELD_PROMOTION: LiteralString = """
alter function jobsworth.reconsider(uuid[], boolean, uuid, int) rename to reconsider_at_once;
create function jobsworth.reconsider(
  job_ids uuid[], wait_for_locks boolean default false, claimant uuid default null,
  room int default 0) returns uuid[] language plpgsql as $$
begin
  perform pg_advisory_xact_lock(1);
  return jobsworth.reconsider_at_once(job_ids, wait_for_locks, claimant, room);
end $$;
"""
PROMOTE: LiteralString = "select jobsworth.promote_gate('one', '', 'limit one')"
PROMOTE_AT_ONCE: LiteralString = "select jobsworth.reconsider_at_once(array[%(job_id)s::uuid])"


async def test_a_late_promotion_does_not_take_the_slot_of_a_job_that_runs(
    conn: Connection, database: Database
) -> None:
    await job_limits.set_limit(conn, "one", slots=1)
    worker_id = await register(conn)
    first, second, third = [await add(conn) for _ in range(3)]
    [job] = (await claim(conn, worker_id)).jobs
    assert job.id == first
    await finish(conn, done(lease_of(job, worker_id)))
    await execute(conn, HELD_PROMOTION)
    async with (
        database.connection() as late,
        database.connection() as other,
        database.connection() as gate,
    ):
        await execute(gate, "begin")
        await execute(gate, "select pg_advisory_xact_lock(1)")
        async with blocking(database, late, execute(late, PROMOTE)) as promoted:
            # It has seen the second one wait. Before it goes on, another promotion queues that,
            # and a claim takes it.
            await execute(conn, PROMOTE_AT_ONCE, {"job_id": second})

            async def goes_on() -> bool:
                return bool(promoted) or await is_blocked(database, late)

            async with other.transaction():
                assert [job.id for job in (await claim(other, worker_id, 1)).jobs] == [second]
                await gate.rollback()
                await until(goes_on)
        assert isinstance(promoted[0], int)
    await promote.unblock(conn, [third])
    assert (await claim(conn, worker_id)).jobs == []
    assert await state(conn, third) == ("waiting", "limit")
    assert await breaches(conn) == []


async def test_a_turn_that_nobody_takes_holds_up_nobody(conn: Connection) -> None:
    await job_limits.set_limit(conn, "one", slots=1)
    worker_id = await register(conn)
    first, paused, third = await add(conn), await add(conn, queue="quiet"), await add(conn)
    both = ("default", "quiet")
    [job] = (await claim(conn, worker_id, queues=both)).jobs
    assert job.id == first
    await settle(conn, done(lease_of(job, worker_id)))
    assert await states(conn, paused, third) == [("queued", None), ("waiting", "limit")]
    # It is young, so nobody overtakes it.
    await gates.sweep(conn, gates.FIRST_GATE, 10)
    assert await state(conn, third) == ("waiting", "limit")
    await execute(conn, "update jobsworth.job_limit_slots set turn_at = now() - interval '6 s'")
    await gates.sweep(conn, gates.FIRST_GATE, 10)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [third]
    assert (await claim(conn, worker_id, queues=both)).held_up == [paused]


async def test_a_key_goes_beyond_its_share_while_others_are_idle(conn: Connection) -> None:
    await job_limits.set_limit(conn, "share", per="key", slots=2, burst=4)
    worker_id = await register(conn)
    for _ in range(6):
        await add(conn, limit_key="a")
    got = await claim(conn, worker_id)
    assert len(got.jobs) == 4
    # Its share belongs to each key, whatever the others hold.
    others = [await add(conn, limit_key="b") for _ in range(3)]
    got_b = await claim(conn, worker_id)
    assert [job.id for job in got_b.jobs] == others[:2]
    # Six run: nothing is left to share until fewer than four do.
    for job in (got.jobs + got_b.jobs)[:2]:
        await settle(conn, done(lease_of(job, worker_id)))
        assert (await claim(conn, worker_id)).jobs == []
    for job in got.jobs[2:]:
        await settle(conn, done(lease_of(job, worker_id)))
    assert len((await claim(conn, worker_id)).jobs) == 2
    assert await breaches(conn) == []


async def test_what_runs_when_a_limit_is_set_counts_for_it(conn: Connection) -> None:
    worker_id = await register(conn)
    for _ in range(3):
        await add(conn)
    got = await claim(conn, worker_id, 2)
    await job_limits.set_limit(conn, "two", slots=2)
    assert (await claim(conn, worker_id)).jobs == []
    await settle(conn, done(lease_of(got.jobs[0], worker_id)))
    assert len((await claim(conn, worker_id)).jobs) == 1


async def test_changing_and_removing_a_limit_frees_its_waiters(conn: Connection) -> None:
    await job_limits.set_limit(conn, "one", slots=1)
    worker_id = await register(conn)
    for _ in range(5):
        await add(conn)
    await claim(conn, worker_id)
    await job_limits.set_limit(conn, "one", slots=2)
    await gates.sweep(conn, gates.FIRST_GATE, 10)
    assert len((await claim(conn, worker_id)).jobs) == 1
    await job_limits.remove(conn, "one")
    await gates.sweep(conn, gates.FIRST_GATE, 10)
    assert len((await claim(conn, worker_id)).jobs) == 3


async def test_a_limited_lane_keeps_its_order(conn: Connection) -> None:
    await job_limits.set_limit(conn, "one", slots=1)
    worker_id = await register(conn)
    other, head, behind = await add(conn), await add(conn, lane="a"), await add(conn, lane="a")
    got = await claim(conn, worker_id)
    assert [job.id for job in got.jobs] == [other]
    assert await states(conn, head, behind) == [("waiting", "limit"), ("waiting", "lane")]
    await settle(conn, done(lease_of(got.jobs[0], worker_id)))
    got = await claim(conn, worker_id)
    assert [job.id for job in got.jobs] == [head]
    await settle(conn, done(lease_of(got.jobs[0], worker_id)))
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [behind]


async def test_a_retried_and_a_signaled_job_pass_the_limit_again(conn: Connection) -> None:
    await job_limits.set_limit(conn, "one", slots=1)
    worker_id = await register(conn)
    first = await add(conn)
    [job] = (await claim(conn, worker_id)).jobs
    await settle(conn, parked(lease_of(job, worker_id), "signal", "go"))
    second = await add(conn)
    [running] = (await claim(conn, worker_id)).jobs
    assert running.id == second
    await signal(conn, first)
    assert (await claim(conn, worker_id)).held_up == [first]
    await cancel(conn, first)
    assert await retry(conn, first) == "queued"
    assert (await claim(conn, worker_id)).held_up == [first]
    await finish(conn, done(lease_of(running, worker_id)))
    # The look after the commit is lost with its worker: the sweep makes up for it.
    await gates.sweep(conn, gates.FIRST_GATE, 10)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [first]


async def test_an_overlong_key_stops_nobody(conn: Connection) -> None:
    await job_limits.set_limit(conn, "lanes", per="lane", slots=1)
    worker_id: UUID = await register(conn)
    await execute(
        conn,
        "insert into jobsworth.reactive_jobs (mode, lane) values ('answer', repeat('x', 2000))",
    )
    assert len((await claim(conn, worker_id)).jobs) == 1


@pytest.mark.parametrize("change", ["cancel", "debounce"])
async def test_a_turn_that_is_given_up_goes_to_the_next_at_once(
    conn: Connection, change: str
) -> None:
    await job_limits.set_limit(conn, "each", per="key", slots=1)
    worker_id = await register(conn)
    first = await add(conn, limit_key="x")
    second = await add(conn, limit_key="x", unique_key="k", unique_until="start")
    third = await add(conn, limit_key="x")
    [job] = (await claim(conn, worker_id)).jobs
    await settle(conn, done(lease_of(job, worker_id)))
    assert await states(conn, first, second, third) == [
        *(("done", None), ("queued", None), ("waiting", "limit"))
    ]
    if change == "cancel":
        await cancel(conn, second)
    else:
        await enqueue(conn, "answer", unique_key="k", on_conflict="replace", delay=60)
    assert await states(conn, third) == [("queued", None)]
