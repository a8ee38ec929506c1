"""Consent in full: votes, the last word, successors, edits, escalation, and consumption once."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.approvals import approvals, consumption, questions
from db.approvals.approvals import ApprovalStatus, Resolution, shown_hash
from db.diagnosis import violations
from db.errors import Conflict, InvalidInput
from db.fence import Lease, LeaseLost
from db.pool import Connection, Database, execute, fetch_all, fetch_one, fetch_val
from db.queue import effects, promote
from db.queue.effects import ApprovalEffect, Origin
from db.steps import steps
from tests.db import rows
from tests.db.protocol import blocking, cancel, retry
from tests.support import connect

pytestmark = pytest.mark.both

QUEUED = ("queued", None)
WAITING = ("waiting", "approval")

PASS_DEADLINE: LiteralString = """
update jobsworth.approvals
set created_at = now() - interval '1 hour', deadline = now() - interval '1 second'
where id = %(id)s
"""

STEPS: LiteralString = "select name, effect::text, finished_at from jobsworth.steps"


async def ask(conn: Connection, job_id: UUID | None = None, **options: Any) -> UUID:
    return (await approvals.create(conn, "Ship it?", job_id=job_id, **options)).id


async def vote(
    conn: Connection, approval_id: UUID, who: str, option: str = "approve", **options: Any
) -> Resolution:
    return await approvals.resolve(conn, approval_id, option, who, **options)


def question(proposal: str = "Ship it?", shows: object = None, **options: Any) -> ApprovalEffect:
    choices = ("approve", "reject")
    return ApprovalEffect(
        key="approval:ship",
        proposal_text=proposal,
        options=choices,
        shown=None if shows is None else questions.canonical(shows),
        shown_hash=shown_hash(proposal, choices, shows),
        deadline_seconds=None,
        on_timeout="reject",
        **options,
    )


async def park(conn: Connection, lease: Lease, asked: ApprovalEffect) -> approvals.Approval:
    """What a finishing transaction does with a job that asks."""
    async with conn.transaction():
        await rows.park(conn, lease.job_id)
        await effects.write(conn, [(Origin(lease.job_id), asked)])
    await fetch_val(conn, "select jobsworth.unblock(array[%s::uuid])", [lease.job_id])
    found = await approvals.get_by_effect(conn, lease.job_id, asked.key)
    assert found is not None
    return found


async def status(conn: Connection, approval_id: UUID) -> ApprovalStatus:
    return await approvals.check_status(conn, approval_id)


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


# Successors.


async def test_a_changed_question_supersedes_the_one_before(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    first = await park(conn, lease, question(shows={"files": ["a"]}))
    lease = await rows.take(conn, lease.job_id)
    assert (await park(conn, lease, question(shows={"files": ["a"]}))).id == first.id
    lease = await rows.take(conn, lease.job_id)
    second = await park(conn, lease, question(shows={"files": ["a", "b"]}))
    old = await approvals.get_by_id(conn, first.id)
    assert (old.status, old.superseded_by) == (ApprovalStatus.SUPERSEDED, second.id)
    assert second.supersedes == first.id
    assert '+    "b"' in (second.difference or "")
    assert not (await vote(conn, first.id, "ann")).accepted
    assert await rows.status(conn, lease.job_id) == WAITING
    await vote(conn, second.id, "ann")
    assert await rows.status(conn, lease.job_id) == QUEUED
    assert await violations.list_violations(conn) == []


async def test_a_yes_to_the_old_question_never_counts_for_the_new_one(
    database: Database, conn: Connection
) -> None:
    """Said while the job parks with the new one: it waits for the job, and comes too late."""
    lease = await rows.running_job(conn)
    old = await park(conn, lease, question())
    lease = await rows.take(conn, lease.job_id)
    async with database.connection() as parking, database.connection() as person:
        await parking.execute("begin")
        await rows.park(parking, lease.job_id)
        await effects.write(parking, [(Origin(lease.job_id), question("Ship them all?"))])
        async with blocking(database, person, vote(person, old.id, "ann")) as late:
            await parking.execute("commit")
    assert (late[0].accepted, late[0].status) == (False, ApprovalStatus.SUPERSEDED)
    assert await rows.status(conn, lease.job_id) == WAITING


async def test_a_yes_just_before_the_change_is_superseded_with_its_question(
    conn: Connection,
) -> None:
    lease = await rows.running_job(conn)
    old = await park(conn, lease, question())
    lease = await rows.take(conn, lease.job_id)
    await vote(conn, old.id, "ann")
    new = await park(conn, lease, question("Ship them all?"))
    assert new.status is ApprovalStatus.PENDING
    assert await rows.status(conn, lease.job_id) == WAITING
    lease = await rows.take(conn, lease.job_id)
    with pytest.raises(Conflict, match="superseded"):
        await consumption.consume(conn, lease, old.id, "ship")


async def test_a_question_that_its_jobs_end_closed_is_asked_again(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    old = await park(conn, lease, question())
    await cancel(conn, lease.job_id)
    await promote.unblock(conn, [lease.job_id])
    assert await status(conn, old.id) is ApprovalStatus.SUPERSEDED
    await retry(conn, lease.job_id)
    new = await park(conn, await rows.take(conn, lease.job_id), question())
    assert (new.status, new.supersedes, new.difference) == (
        ApprovalStatus.PENDING,
        old.id,
        None,
    )


async def test_a_successor_by_hand_answers_the_question_if_it_may_be_edited(
    conn: Connection,
) -> None:
    for editable in (True, False):
        lease = await rows.running_job(conn)
        old = await park(conn, lease, question(editable=editable, asked_by="bot"))
        new = await approvals.create(conn, "Ship half of it?")
        if not editable:
            with pytest.raises(InvalidInput, match="exactly what it asked"):
                await approvals.supersede(conn, old.id, new.id)
            continue
        await approvals.supersede(conn, old.id, new.id)
        current = await approvals.get_by_effect(conn, lease.job_id, "approval:ship")
        assert current is not None
        assert (current.id, current.answers, current.asked_by) == (new.id, old.shown_hash, "bot")
        assert await rows.status(conn, lease.job_id) == WAITING


async def test_a_successor_by_hand_is_decided_after_it_took_its_place(conn: Connection) -> None:
    """Not before, by fewer people or by who asked: its yes would count for the job at once."""
    job_id = await rows.parked_job(conn)
    old = await ask(conn, job_id, votes=2, asked_by="ann")
    for votes in (1, 2):
        new = await ask(conn, job_id, votes=votes)
        await vote(conn, new, "ann")
        with pytest.raises(Conflict, match="decided already"):
            await approvals.supersede(conn, old, new)
        assert await status(conn, old) is ApprovalStatus.PENDING


def test_of_very_long_documents_the_first_lines_are_compared() -> None:
    """All of them would hold up the transaction that parks the job, for minutes."""
    before, now = (["same"] * 4_000 + [word] * 200_000 for word in ("old", "new"))
    changed = questions.difference(("Print?", before), ("Print?", now))
    assert changed.startswith("(of 204,003 and 204,003 lines, the first 5,000 each)\n--- before")
    assert changed.count("\n-  ") < 1_001
    assert questions.difference(("Print?", before), ("Print?", list(before))) == ""


async def test_a_chain_of_three_ends_in_one_open_approval(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    chain = [await park(conn, lease, question(shows={"n": n})) for n in (1, 2, 3)]
    read = [await approvals.get_by_id(conn, one.id) for one in chain]
    assert [one.superseded_by for one in read] == [chain[1].id, chain[2].id, None]
    assert [one.supersedes for one in read] == [None, chain[0].id, chain[1].id]
    assert '+  "n": 3' in (read[2].difference or "")
    assert not (await vote(conn, chain[0].id, "ann")).accepted
    assert not (await vote(conn, chain[1].id, "ann", "reject")).accepted
    assert (await vote(conn, chain[2].id, "ann")).status is ApprovalStatus.APPROVED
    assert await rows.status(conn, lease.job_id) == QUEUED
    assert await violations.list_violations(conn) == []


@pytest.mark.parametrize("how", ["vote", "deadline"])
async def test_who_runs_a_job_again_after_a_no_has_its_question_asked_again(
    conn: Connection, how: str
) -> None:
    lease = await rows.running_job(conn)
    old = await park(conn, lease, question())
    if how == "vote":
        await vote(conn, old.id, "ann", "reject")
    else:
        await execute(conn, PASS_DEADLINE, {"id": old.id})
        await approvals.expire(conn, 10)
    await execute(conn, "update jobsworth.reactive_jobs set status = 'failed', finished_at = now()")
    await retry(conn, lease.job_id)
    new = await park(conn, await rows.take(conn, lease.job_id), question())
    assert (new.id != old.id, new.status) == (True, ApprovalStatus.PENDING)
    said = await approvals.get_by_id(conn, old.id)
    assert (said.chosen_option, said.superseded_by) == ("reject", None)
    assert await violations.list_violations(conn) == []


# Edits.


@pytest.mark.parametrize("document", ["1e309", "[-1e400]", "[" * 250 + "]" * 250])
async def test_what_no_program_could_read_back_is_no_edit(conn: Connection, document: str) -> None:
    approval_id = await ask(conn, editable=True, votes=2)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="too deep"):
        await conn.execute(
            "select * from jobsworth.resolve(%s, 'approve', 'ann', edited => %s::jsonb)",
            [approval_id, document],
        )
    await conn.execute(
        "select * from jobsworth.resolve(%s, 'approve', 'ann', edited => %s::jsonb)",
        [approval_id, '{"n": [1e308, 5e-324, {"": null}]}'],
    )
    [found] = await approvals.get_pending(conn)
    hashed = shown_hash(found.proposal_text, found.options, found.document)
    assert hashed == found.edited_hash


async def test_a_deadline_never_approves_what_one_person_made_of_it(conn: Connection) -> None:
    approval_id = await ask(conn, votes=2, editable=True, deadline_seconds=60, on_timeout="approve")
    await vote(conn, approval_id, "ann", edited={"to": "everybody"})
    await execute(conn, PASS_DEADLINE, {"id": approval_id})
    await approvals.expire(conn, 10)
    found = await approvals.get_by_id(conn, approval_id)
    assert (found.status, found.chosen_option) == (ApprovalStatus.EXPIRED, "reject")


async def test_an_edit_approves_another_document_under_the_same_approval(
    conn: Connection,
) -> None:
    approval_id = await ask(conn, shown={"to": "all"}, editable=True)
    done = await vote(conn, approval_id, "ann", edited={"to": "some"})
    assert done.status is ApprovalStatus.APPROVED
    found = await approvals.get_by_id(conn, approval_id)
    assert (found.shown, found.document) == ({"to": "all"}, {"to": "some"})
    assert found.edited_hash == shown_hash("Ship it?", found.options, {"to": "some"})
    assert found.edited_hash != found.shown_hash


async def test_an_edit_voids_the_yes_of_others(conn: Connection) -> None:
    approval_id = await ask(conn, shown={"n": 1}, editable=True, votes=2)
    await vote(conn, approval_id, "ann")
    edited = await vote(conn, approval_id, "bob", edited={"n": 2})
    assert edited.status is ApprovalStatus.PENDING
    seen = shown_hash("Ship it?", ("approve", "reject"), {"n": 1})
    with pytest.raises(Conflict, match="changed since"):
        await vote(conn, approval_id, "cem", seen_hash=seen)
    assert (await vote(conn, approval_id, "ann")).status is ApprovalStatus.APPROVED


async def test_of_an_edit_a_vote_and_a_successor_at_once_the_vote_is_for_nothing_unseen(
    database: Database, conn: Connection
) -> None:
    """The vote waits for the edit with the hash of before; the successor waits behind both."""
    job_id = await rows.parked_job(conn)
    old = await ask(conn, job_id, editable=True, votes=2, shown={"n": 1})
    new = await ask(conn, job_id)
    seen = (await approvals.get_by_id(conn, old)).document_hash
    async with database.connection() as first, database.connection() as second:
        await first.execute("begin")
        await vote(first, old, "ann", edited={"n": 2})
        late_vote = vote(second, old, "bob", seen_hash=seen)
        replacing = approvals.supersede(conn, old, new)
        async with (
            blocking(database, second, late_vote) as said,
            blocking(database, conn, replacing) as replaced,
        ):
            await first.execute("commit")
    assert "has changed since it was seen" in str(said[0])
    assert replaced == [None]
    assert [one.decided_by for one in await approvals.votes(conn, old)] == ["ann"]
    assert await status(conn, old) is ApprovalStatus.SUPERSEDED
    assert await rows.status(conn, job_id) == WAITING


async def test_a_vote_that_had_to_wait_is_judged_by_the_deadline_of_after(
    database: Database, conn: Connection
) -> None:
    approval_id = await ask(conn, await rows.parked_job(conn), deadline_seconds=60)
    async with database.connection() as first, database.connection() as second:
        await first.execute("begin")
        await execute(first, PASS_DEADLINE, {"id": approval_id})
        async with blocking(database, second, vote(second, approval_id, "ann")) as late:
            await first.execute("commit")
    assert (late[0].accepted, late[0].status) == (False, ApprovalStatus.EXPIRED)


async def test_what_may_not_be_edited_is_approved_as_it_is_or_not(conn: Connection) -> None:
    fixed, editable = await ask(conn), await ask(conn, editable=True)
    for approval_id, option in ((fixed, "approve"), (editable, "reject")):
        with pytest.raises(InvalidInput, match="with changes"):
            await vote(conn, approval_id, "ann", option, edited={"n": 2})
        assert await status(conn, approval_id) is ApprovalStatus.PENDING


# Who asked.


async def test_who_asked_may_say_no_and_not_yes(conn: Connection) -> None:
    own = await ask(conn, asked_by="Ann")
    with pytest.raises(Conflict, match="cannot say yes"):
        await vote(conn, own, "ann ")
    assert (await vote(conn, own, "ann", "reject")).accepted
    allowed = await ask(conn, asked_by="Ann", self_approval=True)
    assert (await vote(conn, allowed, "Ann")).accepted


async def test_the_actor_of_the_run_is_who_asked(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    run_id = await fetch_val(conn, "insert into jobsworth.runs (actor) values ('zoe') returning id")
    async with conn.transaction():
        origin = Origin(lease.job_id, run_id=run_id)
        await effects.write(conn, [(origin, question())])
    found = await approvals.get_by_effect(conn, lease.job_id, "approval:ship")
    assert found is not None
    assert found.asked_by == "zoe"
    await execute(conn, "update jobsworth.reactive_jobs set run_id = %s", [run_id])
    by_hand = await approvals.create(conn, "And this?", job_id=lease.job_id)
    assert by_hand.asked_by == "zoe"


# Escalation.


async def test_an_escalated_approval_has_its_time_once_more(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await ask(conn, job_id, deadline_seconds=60, on_timeout="escalate")
    await execute(conn, PASS_DEADLINE, {"id": approval_id})
    assert await approvals.expire(conn, 10) == 1
    found = await approvals.get_by_id(conn, approval_id)
    assert found.status is ApprovalStatus.PENDING
    assert found.escalated_at is not None
    assert found.deadline is not None
    assert 3590 < (found.deadline - found.escalated_at).total_seconds() < 3610
    assert await rows.status(conn, job_id) == WAITING
    await execute(conn, PASS_DEADLINE, {"id": approval_id})
    assert await approvals.expire(conn, 10) == 1
    found = await approvals.get_by_id(conn, approval_id)
    assert (found.status, found.chosen_option) == (ApprovalStatus.EXPIRED, "reject")
    assert await rows.status(conn, job_id) == QUEUED


async def test_a_vote_that_comes_before_the_sweep_escalates_and_counts(conn: Connection) -> None:
    approval_id = await ask(conn, deadline_seconds=60, on_timeout="escalate")
    await execute(conn, PASS_DEADLINE, {"id": approval_id})
    assert (await vote(conn, approval_id, "ann")).status is ApprovalStatus.APPROVED


# The hash.


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(JSON)
def test_sql_and_python_agree_on_the_hash(database_url: str, shown: Any) -> None:
    with connect(database_url) as plain:
        row = plain.execute(
            "select jobsworth.shown_hash('a é \" \\ \u007f', '{b,reject}', %s::jsonb) as hash",
            [questions.canonical(shown)],
        ).fetchone()
    assert row == {"hash": shown_hash('a é " \\ \u007f', ("b", "reject"), shown)}


# Broken invariants.


async def test_what_breaks_consent_is_listed(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    asked = await ask(conn, lease.job_id)
    await vote(conn, asked, "ann")
    await consumption.consume(conn, lease, asked, "ship")
    gone = await ask(conn)
    await execute(
        conn,
        "update jobsworth.approvals set status = 'superseded', closed_at = now(),"
        " superseded_by = %s where id = %s",
        [lease.job_id, gone],
    )
    await execute(conn, "drop index jobsworth.approvals_effect")
    for _ in range(2):
        twin = await ask(conn, lease.job_id)
        await execute(conn, "update jobsworth.approvals set effect_key = 'k' where id = %s", [twin])
    broken = {one.invariant for one in await violations.list_violations(conn)}
    assert broken == {
        "consumed by a step that does not exist",
        "superseded without its successor",
        "two approvals for one question",
    }
    await execute(
        conn,
        "update jobsworth.approvals set status = 'rejected', chosen_option = 'reject'"
        " where id = %s",
        [asked],
    )
    broken = {one.invariant for one in await violations.list_violations(conn)}
    assert "consumed without a yes" in broken


async def test_nobody_decides_nothing(conn: Connection) -> None:
    approval_id = await ask(conn)
    with pytest.raises(InvalidInput, match="nobody"):
        await fetch_one(conn, "select * from jobsworth.resolve(%s, 'approve', ' ')", [approval_id])
