"""Edited documents, who asked, escalated deadlines, and hashes that SQL and Python agree on."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.approvals import approvals, consumption, questions
from db.approvals.approvals import ApprovalStatus, shown_hash
from db.diagnosis import violations
from db.errors import Conflict, InvalidInput
from db.pool import Connection, Database, execute, fetch_one, fetch_val
from db.queue import effects
from db.queue.effects import Origin
from tests.db import rows
from tests.db.approvals.consent import (
    PASS_DEADLINE,
    QUEUED,
    WAITING,
    ask,
    question,
    status,
    vote,
)
from tests.db.protocol import blocking
from tests.support import connect

pytestmark = pytest.mark.both


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
