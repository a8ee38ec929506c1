"""What the database refuses of plain SQL, because the books or a handler rest on it."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID, uuid4

import pytest

from db.approvals import consumption
from db.conversations import threads
from db.diagnosis import violations
from db.errors import Conflict, InvalidInput
from db.pool import Connection, Database, execute, fetch_val
from db.queue.rescue import cancel_requests
from db.runs import runs
from db.runs.runs import RunStatus
from tests.db import protocol, rows
from tests.db.money import budgeting

pytestmark = pytest.mark.both


async def put(conn: Connection, status: str) -> None:
    """Bring the only job into this status, as its functions do."""
    worker_id = await protocol.register(conn)
    job_id = await protocol.add(conn, delay=60 if status == "waiting" else None)
    if status in ("running", "done", "failed"):
        _, lease = await protocol.take(conn, worker_id)
        ends = {"done": protocol.done, "failed": protocol.failed}
        if status in ends:
            await protocol.settle(conn, ends[status](lease))
    elif status == "canceled":
        await protocol.cancel(conn, job_id)


@pytest.mark.parametrize("to", ["done", "failed", "canceled"])
@pytest.mark.parametrize("status", ["queued", "waiting", "running", "done", "failed", "canceled"])
async def test_no_plain_update_ends_a_job(conn: Connection, status: str, to: str) -> None:
    await put(conn, status)
    assert await fetch_val(conn, "select status::text from jobsworth.reactive_jobs") == status
    if status != to:
        with pytest.raises(InvalidInput, match=f"cannot go from {status} to {to} by a plain"):
            await execute(
                conn,
                "update jobsworth.reactive_jobs set status = %(to)s::jobsworth.job_status,"
                " waiting_for = null, finished_at = now()",
                {"to": to},
            )


@pytest.mark.parametrize("status", ["waiting", "running", "done", "failed", "canceled"])
async def test_no_plain_update_queues_a_job_again(conn: Connection, status: str) -> None:
    await put(conn, status)
    with pytest.raises(InvalidInput, match=f"cannot go from {status} to queued by a plain"):
        await execute(
            conn,
            "update jobsworth.reactive_jobs"
            " set status = 'queued', waiting_for = null, finished_at = null",
        )


async def test_a_job_does_not_run_again_under_its_old_lease(conn: Connection) -> None:
    worker_id = await protocol.register(conn)
    await protocol.add(conn)
    _, lease = await protocol.take(conn, worker_id)
    await protocol.settle(conn, protocol.released(lease))
    with pytest.raises(InvalidInput, match="cannot go from queued to running by a plain update"):
        await execute(conn, "update jobsworth.reactive_jobs set status = 'running'")


async def test_what_the_functions_do_is_legal(database: Database, conn: Connection) -> None:
    worker_id = await protocol.register(conn)
    for ending in (
        protocol.done,
        protocol.failed,
        protocol.tried_again,
        protocol.released,
        protocol.canceled,
    ):
        await protocol.add(conn, lane="L")
        _, lease = await protocol.take(conn, worker_id)
        await protocol.settle(conn, ending(lease))
        if ending in (protocol.failed, protocol.canceled):
            assert await protocol.retry(conn, lease.job_id) == "queued"
        await protocol.cancel(conn, lease.job_id)
    assert await violations.list_violations(conn) == []


@pytest.mark.parametrize(
    "change",
    [
        "proposal_text = 'Pay 9?'",
        "options = '{approve,reject,perhaps}'",
        """shown = '{"amount": 9}'""",
        "shown_hash = 'x'",
        """edited = '{"amount": 9}', edited_hash = 'x'""",
    ],
)
async def test_what_was_shown_stays_as_it_is(conn: Connection, change: LiteralString) -> None:
    await approval(conn, uuid4())
    with pytest.raises(InvalidInput, match=r"cannot change|cannot be edited so"):
        await execute(conn, "update jobsworth.approvals set " + change)


async def test_a_yes_to_something_else_is_not_consumed(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    approval_id = await approval(conn, lease.job_id)
    await protocol.resolve(conn, approval_id)
    async with rows.past_the_guards(conn):
        await execute(conn, """update jobsworth.approvals set shown = '{"amount": 9}'""")
    with pytest.raises(Conflict, match="what it shows has changed since it was asked"):
        async with conn.transaction():
            await consumption.consume(conn, lease, approval_id, "pay")
    await execute(conn, "update jobsworth.approvals set consumed_at = now(), consumed_by = 'pay'")
    found = {one.invariant for one in await violations.list_violations(conn)}
    assert "consumed without a yes" in found


async def approval(conn: Connection, job_id: UUID) -> UUID:
    return await fetch_val(
        conn,
        "insert into jobsworth.approvals (job_id, proposal_text, shown, shown_hash, editable)"
        """ values (%(job)s, 'Pay?', '{"amount": 1}', jobsworth.shown_hash("""
        """'Pay?', '{approve,reject}', '{"amount": 1}'), true) returning id""",
        {"job": job_id},
    )


@pytest.mark.parametrize("change", ["sha = 'b2'", "report_text = 'fine'", "environment = 'else'"])
async def test_a_finished_deployment_stays_as_it_is(
    conn: Connection, change: LiteralString
) -> None:
    await execute(
        conn,
        "insert into jobsworth.deployments (environment, sha, status, report_text, finished_at)"
        " values ('live', 'a1', 'failed', 'it broke', now())",
    )
    with pytest.raises(InvalidInput, match="its report are final"):
        await execute(conn, "update jobsworth.deployments set " + change)


@pytest.mark.parametrize(
    "change", ["result = '1'", "finished_at = now() - interval '1 day'", "error = 'x'"]
)
async def test_a_finished_run_stays_as_it_is(conn: Connection, change: LiteralString) -> None:
    run_id = (await runs.upsert(conn, trace_id="t")).run_id
    await runs.set_status(conn, run_id, RunStatus.DONE)
    with pytest.raises(InvalidInput, match="its request, result, error and times are final"):
        await execute(conn, "update jobsworth.runs set " + change)


async def test_a_finished_run_takes_no_more_jobs(conn: Connection) -> None:
    run_id = (await runs.upsert(conn, trace_id="t")).run_id
    await runs.set_status(conn, run_id, RunStatus.DONE)
    with pytest.raises(InvalidInput, match="it takes no more jobs"):
        await execute(
            conn,
            "insert into jobsworth.reactive_jobs (mode, run_id) values ('answer', %(id)s)",
            {"id": run_id},
        )


@pytest.mark.parametrize(
    "table",
    ["token_ledger", "llm_calls", "chat_messages", "approval_decisions", "step_decisions"],
)
async def test_an_append_only_table_is_not_emptied(conn: Connection, table: LiteralString) -> None:
    with pytest.raises(InvalidInput, match=f"{table} is append-only: truncate is refused"):
        await execute(conn, "truncate jobsworth." + table + " cascade")


async def test_an_erasure_names_what_it_erases(database: Database, conn: Connection) -> None:
    kept = (await threads.get_or_create(conn, platform="p", chat_id="kept")).id
    gone = (await threads.get_or_create(conn, platform="p", chat_id="gone")).id
    for thread_id in (kept, gone):
        await execute(
            conn,
            "insert into jobsworth.chat_messages (thread_id, role, text)"
            " values (%(id)s, 'user', 'hello')",
            {"id": thread_id},
        )
    for erased in ("on", str(gone)):
        with pytest.raises(InvalidInput, match="delete is refused"):
            await erase_all_messages(database, erased)
    await threads.erase(conn, gone)
    assert await fetch_val(conn, "select count(*) from jobsworth.chat_messages") == 1


async def erase_all_messages(database: Database, erased: str) -> None:
    async with database.transaction() as conn:
        name = "select set_config('jobsworth.erase', %(erased)s, true)"
        await fetch_val(conn, name, {"erased": erased})
        await execute(conn, "delete from jobsworth.chat_messages")


async def test_a_call_is_not_deleted_and_goes_on_without_its_job(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    await budgeting.settle(conn, await budgeting.started(conn, lease))
    with pytest.raises(InvalidInput, match="llm_calls is append-only: delete is refused"):
        await execute(conn, "delete from jobsworth.llm_calls")
    await execute(conn, "delete from jobsworth.reactive_jobs")
    assert await fetch_val(conn, "select count(*) from jobsworth.llm_calls") == 1
    assert await violations.list_violations(conn) == []
    async with rows.past_the_guards(conn):
        await execute(conn, "delete from jobsworth.llm_calls")
    found = {one.invariant for one in await violations.list_violations(conn)}
    assert found == {"ledger entry without its call"}


@pytest.mark.parametrize(
    "change",
    ["input_tokens = 7", "cost = 0", "status = 'unknown'", "status = 'started', settled_at = null"],
)
async def test_a_settled_call_stays_as_it_is(conn: Connection, change: LiteralString) -> None:
    lease = await rows.running_job(conn)
    await budgeting.settle(conn, await budgeting.started(conn, lease))
    with pytest.raises(InvalidInput, match=r"call .* is settled: it stays as it is"):
        await execute(conn, "update jobsworth.llm_calls set " + change)


@pytest.mark.parametrize("status", ["done", "failed", "canceled", "running"])
async def test_no_plain_insert_has_begun_or_ended(conn: Connection, status: str) -> None:
    with pytest.raises(InvalidInput, match=f"a job is inserted as queued, not as {status}"):
        await execute(
            conn,
            "insert into jobsworth.reactive_jobs (mode, status, finished_at, lease_no, worker_id)"
            " values ('answer', %(status)s::jobsworth.job_status,"
            " case when %(status)s <> 'running' then now() end, 1, jobsworth.uuidv7())",
            {"status": status},
        )


async def test_the_worker_of_a_deleted_job_is_told(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    await execute(conn, 'listen "jobsworth.cancel"')
    await execute(conn, "delete from jobsworth.reactive_jobs")
    assert [note.channel async for note in conn.notifies(timeout=5, stop_after=1)] == [
        "jobsworth.cancel"
    ]
    (asked,) = await cancel_requests(conn, lease.worker_id, [lease.job_id])
    assert (asked["id"], asked["lease_no"]) == (lease.job_id, None)
