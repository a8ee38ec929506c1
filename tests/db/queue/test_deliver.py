"""Whatever is delivered to a job arrives: before, during and after its park, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, LiteralString
from uuid import UUID

import anyio
import pytest

from db.approvals import approvals
from db.errors import Conflict
from db.fence import Lease
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import effects, promote, rescue
from db.queue import finish as finishing
from db.queue.effects import ApprovalEffect, JobEffect, Origin
from db.queue.finish import lease_states
from db.steps import steps
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
    resolve,
    row,
    running,
    settle,
    signal,
    state,
    states,
    take,
)

pytestmark = pytest.mark.both

DECISIONS: LiteralString = """
select option, decided_by, channel from jobsworth.approval_decisions
where approval_id = %(id)s
"""

PAST_DEADLINE: LiteralString = """
update jobsworth.approvals set deadline = now() - interval '1 second' where id = %(id)s
"""

QUESTION = ApprovalEffect("approval:1", "may I?", ("approve", "reject"), None, "", None, "reject")


class Delivery:
    """One kind of delivery: how the job parks for it, and what arrives."""

    def __init__(self, reason: str, detail: str | None, deliver: Callable[..., Awaitable[Any]]):
        self.reason = reason
        self.detail = detail
        self.deliver = deliver


async def _decide(conn: Connection, lease: Lease) -> None:
    """Whatever question of the job is open is answered; before the park there is one already."""
    open_ones = await fetch_all(
        conn,
        "select id from jobsworth.approvals where job_id = %(id)s and status = 'pending'",
        {"id": lease.job_id},
    )
    for one in open_ones:
        assert (await resolve(conn, one["id"]))["accepted"]


async def _signal(conn: Connection, lease: Lease) -> None:
    await signal(conn, lease.job_id, "go")


async def _end_child(conn: Connection, lease: Lease) -> None:
    child_id = await fetch_val(
        conn,
        "select id from jobsworth.reactive_jobs where parent_id = %(id)s and is_child",
        {"id": lease.job_id},
    )
    await cancel(conn, child_id)


DELIVERIES = [
    Delivery("signal", "go", _signal),
    Delivery("approval", None, _decide),
    Delivery("children", None, _end_child),
]
each_delivery = pytest.mark.parametrize("kind", DELIVERIES, ids=lambda kind: kind.reason)


async def _waits_for(conn: Connection, kind: Delivery) -> Lease:
    """A running job that is about to park, with what it waits for."""
    lease = await running(conn)
    if kind.reason == "approval":
        await ask(conn, lease.job_id)
    if kind.reason == "children":
        child = JobEffect("child:1", "plan", is_child=True)
        await effects.write(conn, [(Origin(lease.job_id), child)])
    return lease


async def _runs_once(conn: Connection, lease: Lease) -> None:
    """It is queued, and a claim finds it exactly once."""
    assert await state(conn, lease.job_id) == ("queued", None)
    got = await claim(conn, await register(conn), modes=["answer"])
    assert [job.id for job in got.jobs] == [lease.job_id]
    assert await breaches(conn) == []


@each_delivery
async def test_what_arrives_before_the_park_is_kept_and_found(
    conn: Connection, kind: Delivery
) -> None:
    lease = await _waits_for(conn, kind)
    await kind.deliver(conn, lease)
    assert await state(conn, lease.job_id) == ("running", None)
    await settle(conn, parked(lease, kind.reason, kind.detail))
    await _runs_once(conn, lease)


@each_delivery
async def test_what_arrives_after_the_park_resumes_the_job_in_its_own_transaction(
    database: Database, conn: Connection, kind: Delivery
) -> None:
    lease = await _waits_for(conn, kind)
    await settle(conn, parked(lease, kind.reason, kind.detail))
    async with database.transaction() as deliverer:
        await kind.deliver(deliverer, lease)
        assert await state(deliverer, lease.job_id) == ("queued", None)
        assert await state(conn, lease.job_id) == ("waiting", kind.reason)
    await _runs_once(conn, lease)


@pytest.mark.parametrize("kind", DELIVERIES[:2], ids=lambda kind: kind.reason)
async def test_what_arrives_while_the_park_is_open_waits_for_it_and_resumes_the_job(
    database: Database, conn: Connection, kind: Delivery
) -> None:
    lease = await _waits_for(conn, kind)
    async with database.connection() as finisher:
        await finisher.execute("begin")
        await finishing.finish(finisher, [parked(lease, kind.reason, kind.detail)])
        async with blocking(database, conn, kind.deliver(conn, lease)) as result:
            await finisher.execute("commit")
        assert result == [None]
    await _runs_once(conn, lease)


async def test_a_childs_end_while_the_park_is_open_is_seen_by_the_look_after_the_park(
    database: Database, conn: Connection
) -> None:
    kind = DELIVERIES[2]
    lease = await _waits_for(conn, kind)
    async with database.transaction() as finisher:
        await finishing.finish(finisher, [parked(lease, "children")])
        with anyio.fail_after(5):
            await kind.deliver(conn, lease)
    assert await state(conn, lease.job_id) == ("waiting", "children")
    await promote.unblock(conn, [lease.job_id])
    await _runs_once(conn, lease)


@each_delivery
async def test_a_park_while_a_delivery_is_open_neither_waits_nor_misses_it(
    database: Database, conn: Connection, kind: Delivery
) -> None:
    lease = await _waits_for(conn, kind)
    async with database.transaction() as deliverer:
        await kind.deliver(deliverer, lease)
        with anyio.fail_after(5):
            applied = await finish(conn, parked(lease, kind.reason, kind.detail))
            await promote.unblock(conn, [one.id for one in applied])
        if kind.reason == "children":
            assert await state(conn, lease.job_id) == ("waiting", "children")
        else:
            assert await lease_states(conn, [lease]) == {lease.job_id: "held"}
    if kind.reason == "children":
        # The child's end was not yet committed when its parent looked, nor the park when it did.
        await promote.sweep(conn, "children", UUID(int=0), 10)
    else:
        await settle(conn, parked(lease, kind.reason, kind.detail))
    await _runs_once(conn, lease)


@each_delivery
async def test_a_delivery_that_is_rolled_back_leaves_the_job_waiting(
    database: Database, conn: Connection, kind: Delivery
) -> None:
    lease = await _waits_for(conn, kind)
    await settle(conn, parked(lease, kind.reason, kind.detail))
    async with database.connection() as deliverer:
        await deliverer.execute("begin")
        await kind.deliver(deliverer, lease)
        await deliverer.execute("rollback")
    assert await state(conn, lease.job_id) == ("waiting", kind.reason)
    await kind.deliver(conn, lease)
    await _runs_once(conn, lease)


# Children in concurrent batches.


async def test_the_last_two_children_ending_in_concurrent_batches_resume_their_parent(
    database: Database, conn: Connection
) -> None:
    """Neither batch sees the other's child as ended; the look after each commit does."""
    lease = await running(conn)
    pair = [JobEffect(f"child:{n}", "plan", is_child=True) for n in range(2)]
    await effects.write(conn, [(Origin(lease.job_id), child) for child in pair])
    await settle(conn, parked(lease, "children"))
    worker_id = await register(conn)
    first, second = [lease_of(job, worker_id) for job in (await claim(conn, worker_id)).jobs]
    async with database.transaction() as one, database.transaction() as two:
        assert [x.unblocks for x in await finishing.finish(one, [done(first)])] == [True]
        assert [x.unblocks for x in await finishing.finish(two, [done(second)])] == [True]
    await promote.unblock(conn, [first.job_id])
    await _runs_once(conn, lease)
    assert await promote.unblock(conn, [second.job_id]) == []


async def test_a_promoter_that_finds_the_parent_held_by_another_is_told_to_look_again(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    pair = [JobEffect(f"child:{n}", "plan", is_child=True) for n in range(2)]
    await effects.write(conn, [(Origin(lease.job_id), child) for child in pair])
    await settle(conn, parked(lease, "children"))
    worker_id = await register(conn)
    first, second = [lease_of(job, worker_id) for job in (await claim(conn, worker_id)).jobs]
    await finish(conn, done(first))
    async with database.transaction() as early:
        # Looks before the second child's end, and holds the parent's row a little longer.
        assert await promote.unblock(early, [first.job_id]) == []
        await finish(conn, done(second))
        with anyio.fail_after(5):
            assert await promote.unblock(conn, [second.job_id]) == [lease.job_id]
        assert await state(conn, lease.job_id) == ("waiting", "children")
    assert await promote.unblock(conn, [lease.job_id]) == []
    await _runs_once(conn, lease)


# Signals.


async def test_two_signals_resume_a_job_once_and_both_are_read_in_their_order(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    for payload in (1, 2):
        await execute(
            conn,
            "select jobsworth.send_signal(%(id)s, 'go', to_jsonb(%(payload)s::int))",
            {"id": lease.job_id, "payload": payload},
        )
    await settle(conn, parked(lease, "signal", "go"))
    _, again = await take(conn, await register(conn))
    for payload in (1, 2):
        async with database.transaction() as reader:
            assert await steps.take_signal(reader, again, "go") == (True, payload)
    async with database.transaction() as reader:
        assert await steps.take_signal(reader, again, "go") == (False, None)


async def test_another_signal_does_not_resume_the_job(conn: Connection) -> None:
    lease = await running(conn)
    await settle(conn, parked(lease, "signal", "go"))
    await signal(conn, lease.job_id, "stop")
    assert await state(conn, lease.job_id) == ("waiting", "signal")


async def test_a_signal_to_an_ended_job_is_refused(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, done(lease))
    with pytest.raises(Conflict, match="is already done"):
        await signal(conn, lease.job_id)


async def test_a_signal_to_a_queued_job_is_kept_for_it(conn: Connection) -> None:
    job_id = await add(conn)
    await signal(conn, job_id)
    assert await state(conn, job_id) == ("queued", None)
    _, lease = await take(conn, await register(conn))
    await settle(conn, parked(lease, "signal", "go"))
    await _runs_once(conn, lease)


# Approvals.


async def test_the_question_and_the_park_commit_together(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    async with database.transaction() as finisher:
        await finishing.finish(finisher, [parked(lease, "approval")])
        await effects.write(finisher, [(Origin(lease.job_id), QUESTION)])
        assert await approvals.get_by_effect(conn, lease.job_id, "approval:1") is None
    await promote.unblock(conn, [lease.job_id])
    assert await state(conn, lease.job_id) == ("waiting", "approval")
    asked = await approvals.get_by_effect(conn, lease.job_id, "approval:1")
    assert asked is not None
    await resolve(conn, asked.id)
    await _runs_once(conn, lease)


async def test_an_approval_is_decided_once(database: Database, conn: Connection) -> None:
    lease = await running(conn)
    approval_id = await ask(conn, lease.job_id)
    await settle(conn, parked(lease, "approval"))
    async with database.connection() as first, database.connection() as second:
        await first.execute("begin")
        assert (await resolve(first, approval_id, "reject"))["accepted"]
        async with blocking(database, second, resolve(second, approval_id, "approve")) as late:
            await first.execute("commit")
    assert not late[0]["accepted"]
    assert late[0]["chosen_option"] == "reject"
    assert len(await fetch_all(conn, DECISIONS, {"id": approval_id})) == 1
    await _runs_once(conn, lease)


async def test_a_vote_after_the_deadline_takes_the_default_and_resumes_the_job(
    conn: Connection,
) -> None:
    lease = await running(conn)
    approval_id = await ask(conn, lease.job_id, 3600)
    await settle(conn, parked(lease, "approval"))
    await execute(conn, PAST_DEADLINE, {"id": approval_id})
    decided = await resolve(conn, approval_id, "approve")
    assert (decided["accepted"], decided["status"], decided["chosen_option"]) == (
        False,
        "expired",
        "reject",
    )
    [decision] = await fetch_all(conn, DECISIONS, {"id": approval_id})
    assert (decision["option"], decision["decided_by"]) == ("reject", "deadline")
    await _runs_once(conn, lease)


async def test_an_expiry_leaves_what_somebody_is_deciding_to_them(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    approval_id = await ask(conn, lease.job_id, 3600)
    await settle(conn, parked(lease, "approval"))
    await execute(conn, PAST_DEADLINE, {"id": approval_id})
    async with database.transaction() as person:
        assert (await resolve(person, approval_id))["status"] == "expired"
        with anyio.fail_after(5):
            assert await approvals.expire(conn, 10) == 0
    assert len(await fetch_all(conn, DECISIONS, {"id": approval_id})) == 1
    await _runs_once(conn, lease)


async def test_an_expiry_waits_for_nobody_who_holds_the_job(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    approval_id = await ask(conn, lease.job_id, 3600)
    await execute(conn, PAST_DEADLINE, {"id": approval_id})
    async with database.transaction() as finisher:
        await finishing.finish(finisher, [parked(lease, "approval")])
        with anyio.fail_after(5):
            assert await approvals.expire(conn, 10) == 0
    assert await approvals.expire(conn, 10) == 1
    await _runs_once(conn, lease)


# Cancel.


async def test_the_effects_of_a_canceled_park_are_for_the_finisher_to_drop(
    database: Database, conn: Connection
) -> None:
    """`finish` says what became of the job; its caller writes effects only where they agree."""
    lease = await running(conn)
    await cancel(conn, lease.job_id)
    async with database.transaction() as finisher:
        [one] = await finishing.finish(finisher, [parked(lease, "approval")])
    assert one.status == "canceled"


async def test_a_cancel_while_the_park_is_open_waits_for_it_and_ends_the_job(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    async with database.connection() as finisher:
        await finisher.execute("begin")
        await finishing.finish(finisher, [parked(lease, "approval")])
        await effects.write(finisher, [(Origin(lease.job_id), QUESTION)])
        async with blocking(database, conn, cancel(conn, lease.job_id)) as result:
            await finisher.execute("commit")
    assert result == ["canceled"]
    asked = await approvals.get_by_effect(conn, lease.job_id, "approval:1")
    assert asked is not None
    assert asked.status == "superseded"
    assert await breaches(conn) == []


async def test_a_cancel_while_the_end_is_open_comes_too_late(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    async with database.connection() as finisher:
        await finisher.execute("begin")
        await finishing.finish(finisher, [done(lease)])
        async with blocking(database, conn, cancel(conn, lease.job_id)) as result:
            await finisher.execute("commit")
    assert result == ["done"]
    assert not (await row(conn, lease.job_id))["cancel_requested"]


async def test_a_cancel_of_a_job_that_a_claim_holds_reaches_the_attempt(
    database: Database, conn: Connection
) -> None:
    job_id, worker_id = await add(conn), await register(conn)
    async with database.connection() as claimer:
        await claimer.execute("begin")
        await claim(claimer, worker_id)
        async with blocking(database, conn, cancel(conn, job_id)) as result:
            await claimer.execute("commit")
    assert result == ["running"]
    [asked] = await rescue.cancel_requests(conn, worker_id, [job_id])
    assert asked["id"] == job_id


async def test_a_claim_passes_over_a_job_that_is_being_canceled(
    database: Database, conn: Connection
) -> None:
    job_id, other = await add(conn), await add(conn)
    worker_id = await register(conn)
    async with database.transaction() as canceller:
        await cancel(canceller, job_id)
        assert [job.id for job in (await claim(conn, worker_id)).jobs] == [other]
    assert (await claim(conn, worker_id)).jobs == []
    assert await states(conn, job_id) == [("canceled", None)]
