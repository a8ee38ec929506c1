"""Decisions about unsafe steps: once, under the job's row, kept for ever, and refused in time."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from db.errors import Conflict, InvalidInput, NotFound
from db.fence import Lease, LeaseLost
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs
from db.steps import steps, unsafe
from tests.db.protocol import (
    blocking,
    breaches,
    cancel,
    die,
    done,
    parked,
    register,
    rescue,
    retry,
    running,
    settle,
    state,
    take,
)

pytestmark = pytest.mark.both

COUNT_DECISIONS = "select count(*) from jobsworth.step_decisions"

DECISIONS = """
select d.step_name, d.decision, d.attempt, d.begun_by, d.error, d.decided_by
from jobsworth.step_decisions d
where d.job_id = %(job_id)s
order by d.id
"""


async def _waiting(conn: Connection, *names: str) -> Lease:
    """A job that waits for a person to decide these steps."""
    lease = await running(conn)
    for name in names or ("pay",):
        assert await steps.begin(conn, lease, name, attempt=1, effect="unsafe")
    await settle(conn, parked(lease, "person"))
    assert await state(conn, lease.job_id) == ("waiting", "person")
    return lease


async def _decide(conn: Connection, job_id: UUID, decision: Any, **said: Any) -> str:
    return await unsafe.decide(conn, job_id, said.pop("name", "pay"), decision, **said)


async def test_a_decision_moves_the_job_in_the_same_transaction(
    database: Database, conn: Connection
) -> None:
    lease = await _waiting(conn)
    async with database.connection() as other:
        await other.execute("begin")
        assert await _decide(other, lease.job_id, "done", output=[1]) == "queued"
        assert await state(conn, lease.job_id) == ("waiting", "person")
        await other.execute("rollback")
    assert await fetch_val(conn, COUNT_DECISIONS) == 0
    assert await _decide(conn, lease.job_id, "done", output=[1]) == "queued"
    [step] = await steps.list_for_job(conn, lease.job_id)
    assert (step.output, step.finished_at is None) == ([1], False)


async def test_who_decided_and_what_was_known_is_kept(conn: Connection) -> None:
    lease = await running(conn)
    await steps.begin(conn, lease, "pay", attempt=1, effect="unsafe")
    await unsafe.blame(conn, lease, "pay", "TimeoutError")
    await settle(conn, parked(lease, "person"))
    await _decide(conn, lease.job_id, "again", decided_by="Ann")
    [decision] = await fetch_all(conn, DECISIONS, {"job_id": lease.job_id})
    assert decision == {
        "step_name": "pay",
        "decision": "again",
        "attempt": 1,
        "begun_by": "here, process 1",
        "error": "TimeoutError",
        "decided_by": "Ann",
    }
    for change in (
        "update jobsworth.step_decisions set decided_by = 'Bob'",
        "delete from jobsworth.step_decisions",
    ):
        with pytest.raises(InvalidInput, match="append-only"):
            await execute(conn, change)


async def test_a_job_with_two_open_steps_waits_for_both(conn: Connection) -> None:
    lease = await _waiting(conn, "pay", "mail")
    assert await _decide(conn, lease.job_id, "done") == "waiting"
    assert await _decide(conn, lease.job_id, "again", name="mail") == "queued"
    assert await breaches(conn) == []


async def test_nothing_is_decided_while_the_job_runs(conn: Connection) -> None:
    lease = await running(conn)
    await steps.begin(conn, lease, "pay", attempt=1, effect="unsafe")
    with pytest.raises(Conflict, match="attempt 1 may still record step pay"):
        await _decide(conn, lease.job_id, "again")
    assert await fetch_val(conn, COUNT_DECISIONS) == 0


@pytest.mark.parametrize(("first", "second"), [("done", "again"), ("again", "done")])
async def test_a_second_decision_is_told_of_the_first(
    conn: Connection, first: str, second: str
) -> None:
    lease = await _waiting(conn)
    await _decide(conn, lease.job_id, first, decided_by="Ann")
    with pytest.raises(Conflict, match=f"is not open: Ann said {first} at 20"):
        await _decide(conn, lease.job_id, second, decided_by="Bob")
    assert await fetch_val(conn, COUNT_DECISIONS) == 1


async def test_what_cannot_be_decided_is_refused_with_its_reason(conn: Connection) -> None:
    lease = await running(conn)
    await steps.begin(conn, lease, "nap", attempt=1, kind="sleep")
    await steps.begin(conn, lease, "switch", attempt=1, kind="phase", effect="unsafe")
    await steps.record(conn, lease, "fetch", "1", attempt=1)
    await steps.begin(conn, lease, "pay", attempt=1, effect="unsafe")
    await settle(conn, parked(lease, "person"))
    job_id = lease.job_id
    with pytest.raises(NotFound, match="no step mail") as error:
        await _decide(conn, job_id, "done", name="mail")
    assert "Its open steps: pay" in str(error.value)
    with pytest.raises(Conflict, match="fetch .* is not open: it is recorded"):
        await _decide(conn, job_id, "done", name="fetch")
    for name in ("nap", "switch"):
        with pytest.raises(Conflict, match="needs no decision"):
            await _decide(conn, job_id, "done", name=name)
    with pytest.raises(InvalidInput, match="maybe is no decision"):
        await _decide(conn, job_id, "maybe")
    with pytest.raises(InvalidInput, match="has no output yet"):
        await _decide(conn, job_id, "again", output=1)
    with pytest.raises(NotFound, match="there is no job"):
        await _decide(conn, uuid4(), "done")
    assert await state(conn, job_id) == ("waiting", "person")


async def test_a_decision_that_waits_for_a_claim_finds_the_job_running(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    await steps.begin(conn, lease, "pay", attempt=1, effect="unsafe")
    await die(conn, lease.worker_id)
    await rescue(conn)
    async with database.connection() as claimer:
        await claimer.execute("begin")
        await take(claimer, await register(claimer))
        async with blocking(database, conn, _decide(conn, lease.job_id, "again")) as result:
            await claimer.execute("commit")
    assert isinstance(result[0], Conflict)
    assert len(await steps.list_for_job(conn, lease.job_id)) == 1


async def test_of_two_decisions_at_once_one_counts(database: Database, conn: Connection) -> None:
    lease = await _waiting(conn)
    async with database.connection() as first:
        await first.execute("begin")
        await _decide(first, lease.job_id, "done", output="first", decided_by="Ann")
        second = _decide(conn, lease.job_id, "again", decided_by="Bob")
        async with blocking(database, conn, second) as result:
            await first.execute("commit")
    assert isinstance(result[0], Conflict)
    [step] = await steps.list_for_job(conn, lease.job_id)
    assert step.output == "first"
    [decision] = await fetch_all(conn, DECISIONS, {"job_id": lease.job_id})
    assert decision["decided_by"] == "Ann"


async def test_a_decision_and_a_cancel_at_once_both_count(
    database: Database, conn: Connection
) -> None:
    lease = await _waiting(conn)
    async with database.connection() as canceler:
        await canceler.execute("begin")
        await cancel(canceler, lease.job_id)
        async with blocking(database, conn, _decide(conn, lease.job_id, "done")) as result:
            await canceler.execute("commit")
    assert result == ["canceled"]
    assert await retry(conn, lease.job_id) == "queued"
    [step] = await steps.list_for_job(conn, lease.job_id)
    assert step.finished_at is not None


async def test_a_late_worker_neither_removes_nor_blames_a_step(conn: Connection) -> None:
    lease = await running(conn)
    await steps.begin(conn, lease, "pay", attempt=1, effect="unsafe")
    await die(conn, lease.worker_id)
    await rescue(conn)
    await take(conn, await register(conn))
    with pytest.raises(LeaseLost):
        await unsafe.forget(conn, lease, "pay")
    with pytest.raises(LeaseLost):
        await unsafe.blame(conn, lease, "pay", "late")
    [step] = await steps.list_for_job(conn, lease.job_id)
    assert (step.finished_at, step.error) == (None, None)


async def test_a_late_worker_records_nothing_over_a_decision(conn: Connection) -> None:
    lease = await _waiting(conn)
    await _decide(conn, lease.job_id, "done", output="by hand")
    _, theirs = await take(conn, await register(conn))
    with pytest.raises(LeaseLost):
        await steps.record(conn, lease, "pay", '"late"', attempt=1)
    assert await steps.record(conn, theirs, "pay", '"again"', attempt=2) == (False, "by hand")
    await settle(conn, done(theirs))


async def test_why_quotes_a_name_for_the_shell(conn: Connection) -> None:
    lease = await _waiting(conn, "pay Ann's bill")
    said = await jobs.why(conn, lease.job_id)
    assert f"jobsworth step again {lease.job_id} 'pay Ann'\\''s bill'" in str(said.remedy)
