"""Votes: how many it takes, how long a no counts, and which step a yes is for."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import pytest

from db.approvals import approvals, consumption
from db.approvals.approvals import ApprovalStatus
from db.diagnosis import violations
from db.errors import Conflict, InvalidInput
from db.fence import Lease, LeaseLost
from db.pool import Connection, Database, execute, fetch_all
from db.steps import steps
from tests.db import rows
from tests.db.approvals.consent import (
    PASS_DEADLINE,
    QUEUED,
    WAITING,
    ask,
    status,
    vote,
)
from tests.db.protocol import blocking

pytestmark = pytest.mark.both

STEPS: LiteralString = "select name, effect::text, finished_at from jobsworth.steps"


# Votes.


async def test_as_many_people_as_are_needed_must_say_yes(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await ask(conn, job_id, votes=2)
    first = await vote(conn, approval_id, "ann")
    assert (first.accepted, first.status) == (True, ApprovalStatus.PENDING)
    assert await rows.status(conn, job_id) == WAITING
    again = await vote(conn, approval_id, " ANN ")
    assert (again.accepted, again.status) == (False, ApprovalStatus.PENDING)
    with pytest.raises(Conflict, match="another person"):
        again.require_accepted()
    second = await vote(conn, approval_id, "bob")
    assert (second.accepted, second.status) == (True, ApprovalStatus.APPROVED)
    assert await rows.status(conn, job_id) == QUEUED
    said = await approvals.votes(conn, approval_id)
    assert [(one.decided_by, one.option) for one in said] == [
        ("ann", "approve"),
        ("bob", "approve"),
    ]
    assert (await approvals.get_by_id(conn, approval_id)).decided_by == "bob"


@pytest.mark.parametrize("twin", ["JOS\u00e9 ", "jose\u0301", "Jos\u00e9\u00a0", "\tjos\u00e9\n"])
async def test_one_person_is_one_vote_however_the_name_is_spelt(
    conn: Connection, twin: str
) -> None:
    approval_id = await ask(conn, votes=2, asked_by="Bot")
    await vote(conn, approval_id, "jos\u00e9", channel="cli")
    assert not (await vote(conn, approval_id, twin, channel="telegram")).accepted
    with pytest.raises(Conflict, match="cannot say yes"):
        await vote(conn, approval_id, "\uff22\uff2f\uff34\u3000")  # in wide letters


async def test_nobody_votes_as_the_deadline(conn: Connection) -> None:
    """Or the deadline's own vote would be a second one of that person."""
    approval_id = await ask(conn, votes=2, deadline_seconds=60, on_timeout="approve")
    with pytest.raises(InvalidInput, match="decides by itself"):
        await vote(conn, approval_id, " Deadline")
    await execute(conn, PASS_DEADLINE, {"id": approval_id})
    assert await approvals.expire(conn, 10) == 1
    assert await status(conn, approval_id) is ApprovalStatus.EXPIRED


async def test_votes_for_different_options_do_not_add_up(conn: Connection) -> None:
    approval_id = await ask(conn, options=("left", "right", "reject"), votes=2)
    await vote(conn, approval_id, "ann", "left")
    await vote(conn, approval_id, "bob", "right")
    assert await status(conn, approval_id) is ApprovalStatus.PENDING
    await vote(conn, approval_id, "cem", "right")
    assert (await approvals.get_by_id(conn, approval_id)).chosen_option == "right"


async def test_who_thinks_again_moves_their_vote(conn: Connection) -> None:
    """Or two people who began with different options could never agree."""
    approval_id = await ask(conn, options=("left", "right", "reject"), votes=2)
    await vote(conn, approval_id, "ann", "left")
    await vote(conn, approval_id, "bob", "right")
    said = await vote(conn, approval_id, "ann", "right")
    assert (said.accepted, said.status) == (True, ApprovalStatus.APPROVED)
    other = await ask(conn, options=("left", "right", "reject"), votes=2)
    for option in ("left", "right", "left"):
        assert (await vote(conn, other, "ann", option)).status is ApprovalStatus.PENDING
    assert not (await vote(conn, other, "Ann ", "left")).accepted
    assert (await vote(conn, other, "bob", "right")).status is ApprovalStatus.PENDING


async def test_a_decision_is_found_without_reading_those_of_others(conn: Connection) -> None:
    approval_id = await ask(conn)
    await vote(conn, approval_id, "ann")
    await execute(
        conn,
        "insert into jobsworth.approval_decisions (approval_id, option, decided_by, channel)"
        " select jobsworth.uuidv7(), 'approve', 'bob', 'sql' from generate_series(1, 5000)",
    )
    await execute(conn, "analyze jobsworth.approval_decisions")
    plan = await fetch_all(
        conn,
        "explain select a.decided_by from jobsworth.approvals_decided a where a.id = %(id)s",
        {"id": approval_id},
    )
    assert "decisions_of_approval" in str(plan)


async def test_one_no_is_enough_however_many_yes_are_needed(conn: Connection) -> None:
    approval_id = await ask(conn, votes=3)
    await vote(conn, approval_id, "ann")
    assert (await vote(conn, approval_id, "bob", "reject")).status is ApprovalStatus.REJECTED
    assert not (await vote(conn, approval_id, "cem")).accepted


async def test_the_last_two_votes_at_once_approve_once(
    database: Database, conn: Connection
) -> None:
    approval_id = await ask(conn, await rows.parked_job(conn), votes=2)
    async with database.connection() as first, database.connection() as second:
        await first.execute("begin")
        await vote(first, approval_id, "ann")
        async with blocking(database, second, vote(second, approval_id, "bob")) as late:
            await first.execute("commit")
    assert late[0].status is ApprovalStatus.APPROVED


# The last word.


async def test_a_no_counts_until_the_yes_is_consumed(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await ask(conn, job_id)
    await vote(conn, approval_id, "ann")
    changed = await vote(conn, approval_id, "ann", "reject", comment="oh no")
    assert (changed.accepted, changed.status) == (True, ApprovalStatus.REJECTED)
    lease = await rows.take(conn, job_id)
    with pytest.raises(Conflict, match="rejected"):
        await consumption.consume(conn, lease, approval_id, "ship")
    stands = await approvals.get_by_id(conn, approval_id)
    assert (stands.decided_by, stands.comment, stands.consumed_at) == ("ann", "oh no", None)


async def test_a_no_after_the_consumption_comes_too_late(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    approval_id = await ask(conn, lease.job_id)
    await vote(conn, approval_id, "ann")
    await consumption.consume(conn, lease, approval_id, "ship")
    late = await vote(conn, approval_id, "bob", "reject")
    assert (late.accepted, late.status) == (False, ApprovalStatus.APPROVED)
    with pytest.raises(Conflict, match="already approved"):
        late.require_accepted()


async def test_of_a_no_and_a_consumption_at_once_the_second_sees_the_first(
    database: Database, conn: Connection
) -> None:
    for no_first in (True, False):
        lease = await rows.running_job(conn)
        approval_id = await ask(conn, lease.job_id)
        await vote(conn, approval_id, "ann")
        async with database.connection() as first, database.connection() as second:

            def no(on: Connection, asked: UUID = approval_id) -> Any:
                return vote(on, asked, "bob", "reject")

            def use(on: Connection, asked: UUID = approval_id, held: Lease = lease) -> Any:
                return consumption.consume(on, held, asked, "ship")

            await first.execute("begin")
            await (no if no_first else use)(first)
            async with blocking(database, second, (use if no_first else no)(second)) as late:
                await first.execute("commit")
        if no_first:
            assert isinstance(late[0], Conflict)
        else:
            assert not late[0].accepted


async def test_a_no_also_takes_back_what_the_deadline_had_approved(conn: Connection) -> None:
    approval_id = await ask(conn, deadline_seconds=60, on_timeout="approve")
    await execute(conn, PASS_DEADLINE, {"id": approval_id})
    assert await approvals.expire(conn, 10) == 1
    assert (await vote(conn, approval_id, "ann", "reject")).status is ApprovalStatus.REJECTED


# Consumption.


async def test_an_approval_is_used_by_one_step_only(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    approval_id = await ask(conn, lease.job_id)
    with pytest.raises(Conflict, match="pending"):
        await consumption.consume(conn, lease, approval_id, "ship")
    await vote(conn, approval_id, "ann")
    first = await consumption.consume(conn, lease, approval_id, "ship")
    assert first.consumed_by == "ship"
    again = await consumption.consume(conn, lease, approval_id, "ship")
    assert again.consumed_at == first.consumed_at
    with pytest.raises(Conflict, match="for the step ship"):
        await consumption.consume(conn, lease, approval_id, "ship.twice")
    other = await rows.running_job(conn)
    with pytest.raises(Conflict, match="not for job"):
        await consumption.consume(conn, other, approval_id, "ship")


async def test_a_worker_that_lost_its_job_consumes_nothing(conn: Connection) -> None:
    late = await rows.running_job(conn)
    approval_id = await ask(conn, late.job_id)
    await vote(conn, approval_id, "ann")
    await rows.take(conn, late.job_id)
    with pytest.raises(LeaseLost):
        await consumption.consume(conn, late, approval_id, "ship")
    assert (await approvals.get_by_id(conn, approval_id)).consumed_at is None


async def test_a_step_begins_with_its_approval_or_not_at_all(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    approval_id = await ask(conn, lease.job_id)

    async def begin() -> bool:
        async with conn.transaction():
            await consumption.consume(conn, lease, approval_id, "ship")
            return await steps.begin(
                conn, lease, "ship", attempt=1, effect="unsafe", input_hash="h"
            )

    with pytest.raises(Conflict):
        await begin()
    assert await fetch_all(conn, STEPS) == []
    await vote(conn, approval_id, "ann")
    assert await begin()
    assert not await begin()
    assert await fetch_all(conn, STEPS) == [
        {"name": "ship", "effect": "unsafe", "finished_at": None}
    ]
    assert await violations.list_violations(conn) == []
