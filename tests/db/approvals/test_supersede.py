"""Questions that change: the approval before is superseded, and its votes do not count."""

from __future__ import annotations

import pytest

from db.approvals import approvals, consumption, questions
from db.approvals.approvals import ApprovalStatus
from db.diagnosis import violations
from db.errors import Conflict, InvalidInput
from db.fence import Lease
from db.pool import Connection, Database, execute, fetch_val
from db.queue import effects, promote
from db.queue.effects import ApprovalEffect, Origin
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
from tests.db.protocol import blocking, cancel, retry

pytestmark = pytest.mark.both


async def park(conn: Connection, lease: Lease, asked: ApprovalEffect) -> approvals.Approval:
    """What a finishing transaction does with a job that asks."""
    async with conn.transaction():
        await rows.park(conn, lease.job_id)
        await effects.write(conn, [(Origin(lease.job_id), asked)])
    await fetch_val(conn, "select jobsworth.unblock(array[%s::uuid])", [lease.job_id])
    found = await approvals.get_by_effect(conn, lease.job_id, asked.key)
    assert found is not None
    return found


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


@pytest.mark.usefixtures("unguarded")
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
