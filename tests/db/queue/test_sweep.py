"""Sweeps find what a crash or a late commit left waiting, in bounded slices."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import pytest

from db.fence import Lease
from db.pool import Connection, execute, fetch_val
from db.queue import effects, promote
from db.queue.effects import JobEffect, Origin
from tests.db.protocol import add, ask, done, finish, parked, register, running, signal, state

pytestmark = [
    pytest.mark.both,
    pytest.mark.direct("what one function decides, as through any connection"),
]

START = UUID(int=0)

LEFT: LiteralString = """
insert into jobsworth.reactive_jobs (id, mode, status, waiting_for)
select lpad(n::text, 32, '0')::uuid, 'answer', 'waiting', 'parents' from generate_series(1, 10) n
"""

STUCK: LiteralString = """
insert into jobsworth.job_edges (job_id, needs_job_id)
select j.id, %(needs)s::uuid from jobsworth.reactive_jobs j
where j.waiting_for = 'parents' and j.id <> all(%(free)s::uuid[])
"""

WAITING: LiteralString = """
select count(*) from jobsworth.reactive_jobs where waiting_for = 'parents'
"""


def number(n: int) -> UUID:
    return UUID(f"{n:032d}")


async def _crashed_before_the_look(conn: Connection, reason: str) -> UUID:
    """A job whose reason is gone, and nobody looked."""
    if reason == "lane":
        lease = await running(conn, lane="a")
        waiting = await add(conn, lane="a")
        await finish(conn, done(lease))
        return waiting
    if reason == "parents":
        lease = await running(conn)
        waiting = await add(conn, after=[lease.job_id])
        await finish(conn, done(lease))
        return waiting
    if reason == "handler":
        await register(conn)
        waiting = await add(conn, "unheard_of")
        await promote.shelve_unknown(conn, 10)
        await register(conn, ["unheard_of"])
        return waiting
    lease = await running(conn)
    await _delivered(conn, lease, reason)
    await finish(conn, parked(lease, reason, "go"))
    return lease.job_id


async def _delivered(conn: Connection, lease: Lease, reason: str) -> None:
    if reason == "signal":
        await signal(conn, lease.job_id)
    elif reason == "approval":
        await ask(conn, lease.job_id)
        await execute(
            conn,
            "update jobsworth.approvals set status = 'approved', chosen_option = 'approve', "
            "closed_at = now()",
        )
    else:
        child = JobEffect("child:1", "plan", is_child=True)
        await effects.write(conn, [(Origin(lease.job_id), child)])
        await execute(
            conn,
            "update jobsworth.reactive_jobs set status = 'done', finished_at = now() "
            "where is_child",
        )


async def test_a_stalled_lane_is_found_among_many_and_however_deep_it_is(conn: Connection) -> None:
    for n in range(6):
        await running(conn, lane=f"lane {n}")
        await add(conn, lane=f"lane {n}")
    lease = await running(conn, lane="lane 3a")
    head, *behind = [await add(conn, lane="lane 3a") for _ in range(5)]
    await finish(conn, done(lease))
    assert await promote.sweep_lanes(conn, "", 3) == "lane 2"
    assert await state(conn, head) == ("waiting", "lane")
    assert await promote.sweep_lanes(conn, "lane 2", 3) == "lane 4"
    assert await state(conn, head) == ("queued", None)
    assert {await state(conn, one) for one in behind} == {("waiting", "lane")}
    assert await promote.sweep_lanes(conn, "lane 4", 3) is None


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("reason", ["lane", "parents", "children", "approval", "signal", "handler"])
async def test_a_sweep_moves_on_what_a_crash_left_behind(conn: Connection, reason: str) -> None:
    job_id = await _crashed_before_the_look(conn, reason)
    assert await state(conn, job_id) == ("waiting", reason)
    assert await promote.sweep(conn, reason, START, 10) is None
    assert await state(conn, job_id) == ("queued", None)


async def test_a_sweep_leaves_what_has_to_wait(conn: Connection) -> None:
    lease = await running(conn, lane="a")
    behind = await add(conn, lane="a")
    await promote.sweep(conn, "lane", START, 10)
    assert await state(conn, behind) == ("waiting", "lane")
    assert await state(conn, lease.job_id) == ("running", None)


async def test_a_sweep_looks_at_the_newest_and_at_the_next_slice(conn: Connection) -> None:
    needs = await running(conn)
    async with conn.transaction():
        await execute(conn, LEFT)
        await execute(conn, STUCK, {"needs": needs.job_id, "free": [number(5)]})
    assert await promote.sweep(conn, "parents", START, 2) == number(2)
    assert await promote.sweep(conn, "parents", number(2), 2) == number(4)
    assert await fetch_val(conn, WAITING) == 10
    assert await promote.sweep(conn, "parents", number(4), 2) == number(6)
    assert await fetch_val(conn, WAITING) == 9


async def test_the_newest_are_found_however_far_the_slices_are(conn: Connection) -> None:
    needs = await running(conn)
    async with conn.transaction():
        await execute(conn, LEFT)
        await execute(conn, STUCK, {"needs": needs.job_id, "free": [number(10)]})
    await promote.sweep(conn, "parents", START, 2)
    assert await state(conn, number(10)) == ("queued", None)


async def test_the_last_slice_says_so(conn: Connection) -> None:
    needs = await running(conn)
    async with conn.transaction():
        await execute(conn, LEFT)
        await execute(conn, STUCK, {"needs": needs.job_id, "free": []})
    assert await promote.sweep(conn, "parents", number(9), 2) is None
    assert await promote.sweep(conn, "signal", START, 2) is None


async def test_what_hangs_on_an_ended_job_is_closed_after_a_crash_too(conn: Connection) -> None:
    """Its worker died between the commit and the look at what that ended."""
    lease = await running(conn)
    child = JobEffect("child", "answer", is_child=True)
    await effects.write(conn, [(Origin(lease.job_id), child)])
    approval = await ask(conn, lease.job_id)
    await finish(conn, done(lease))
    open_one = "select status::text from jobsworth.approvals where id = %(id)s"
    assert await fetch_val(conn, open_one, {"id": approval}) == "pending"
    assert await promote.close_orphans(conn, START, 10) == (1, None)
    assert await fetch_val(conn, open_one, {"id": approval}) == "superseded"
    states = "select status::text from jobsworth.reactive_jobs where is_child"
    assert await fetch_val(conn, states) == "canceled"
    assert await promote.close_orphans(conn, START, 10) == (0, None)


OPEN_APPROVALS: LiteralString = """
insert into jobsworth.approvals (proposal_text, shown_hash, job_id)
select 'May I?', '', lpad(n::text, 32, '0')::uuid from generate_series(1, 10) n
"""
OPEN_CHILDREN: LiteralString = """
insert into jobsworth.reactive_jobs (mode, parent_id, effect_key, is_child)
select 'answer', lpad(%(parent)s::text, 32, '0')::uuid, 'child:' || n, true
from generate_series(1, 5) n
"""
END: LiteralString = """
update jobsworth.reactive_jobs
set status = 'done', waiting_for = null, finished_at = now() where id = %(id)s
"""


@pytest.mark.usefixtures("unguarded")
async def test_orphans_are_looked_for_among_the_newest_and_in_slices(conn: Connection) -> None:
    await execute(conn, LEFT)
    await execute(conn, OPEN_APPROVALS)
    for n in (3, 10):
        await execute(conn, END, {"id": number(n)})
    assert await promote.close_orphans(conn, START, 2) == (1, number(2))  # the tenth, a newest one
    assert await promote.close_orphans(conn, number(2), 2) == (1, number(4))
    assert await promote.close_orphans(conn, number(9), 2) == (0, None)


@pytest.mark.usefixtures("unguarded")
async def test_a_slice_ends_where_the_nearer_of_children_and_approvals_was_cut_off(
    conn: Connection,
) -> None:
    """A job with many children fills its half of the slice; those after it are not passed over."""
    await execute(conn, LEFT)
    await execute(conn, OPEN_APPROVALS)
    for parent in (1, 2):
        await execute(conn, OPEN_CHILDREN, {"parent": parent})
    await execute(conn, END, {"id": number(2)})
    assert await promote.close_orphans(conn, START, 3) == (1, number(1))
    orphans = "select count(*) from jobsworth.reactive_jobs where status = 'canceled'"
    await promote.close_orphans(conn, number(1), 3)
    assert await fetch_val(conn, orphans) == 5
