"""Signals: kept until they are read, and never missed by a job that waits."""

from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from db.errors import Conflict, InvalidInput, NotFound
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs, signals
from tests.db.racing import until_blocked

pytestmark = pytest.mark.both


async def added(conn: Connection, **options: Any) -> UUID:
    return (await jobs.enqueue(conn, "answer", **options)).job_id


async def park(conn: Connection, job_id: UUID, name: str = "paid") -> None:
    await execute(
        conn,
        """
        update jobsworth.reactive_jobs
        set status = 'waiting', waiting_for = 'signal', waiting_detail = %s where id = %s
        """,
        [name, job_id],
    )


async def status(conn: Connection, job_id: UUID) -> str:
    return (await jobs.get_by_id(conn, job_id)).status


async def test_a_signal_is_kept_with_its_payload(conn: Connection) -> None:
    team = uuid4()
    job_id = await added(conn, team_id=team)
    payloads: list[Any] = [None, {"amount": 5}, [1], "a\0b", 0]
    sent = [await signals.send(conn, job_id, "paid", payload) for payload in payloads]

    rows = await fetch_all(
        conn,
        """
        select s.id, s.team_id, s.job_id, s.name, s.payload, s.received_at
        from jobsworth.signals s order by s.id
        """,
    )
    assert [row["id"] for row in rows] == sent
    assert [row["payload"] for row in rows] == [None, {"amount": 5}, [1], "a␀b", 0]
    for row in rows:
        assert (row["team_id"], row["job_id"], row["name"]) == (team, job_id, "paid")
        assert row["received_at"] is None


async def test_a_signal_resumes_the_job_that_waits_for_it(conn: Connection) -> None:
    job_id = await added(conn)
    await park(conn, job_id)
    await signals.send(conn, job_id, "other")
    assert await status(conn, job_id) == "waiting"
    await signals.send(conn, job_id, "paid")
    assert await status(conn, job_id) == "queued"


async def test_a_signal_resumes_its_job_in_the_same_transaction(
    database: Database, conn: Connection
) -> None:
    job_id = await added(conn)
    await park(conn, job_id)
    async with database.connection() as other:
        async with conn.transaction():
            await signals.send(conn, job_id, "paid")
            assert await status(other, job_id) == "waiting"
        assert await status(other, job_id) == "queued"


async def test_a_signal_that_comes_during_the_park_is_not_missed(
    database: Database, conn: Connection
) -> None:
    """The parking transaction is open when the signal is sent: the sender waits, then resumes."""
    job_id = await added(conn)

    async def send(other: Connection) -> None:
        await signals.send(other, job_id, "paid")

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await park(conn, job_id)
        tasks.start_soon(send, other)
        await until_blocked(database, other)
    assert await status(conn, job_id) == "queued"


async def test_a_signal_before_the_park_is_found_by_it(conn: Connection) -> None:
    job_id = await added(conn)
    await signals.send(conn, job_id, "paid")
    await park(conn, job_id)
    await fetch_val(conn, "select jobsworth.unblock(array[%s]::uuid[])", [job_id])
    assert await status(conn, job_id) == "queued"


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("final", ["done", "failed", "canceled"])
async def test_a_job_that_has_ended_takes_no_signal(conn: Connection, final: str) -> None:
    job_id = await added(conn)
    await execute(
        conn,
        """
        update jobsworth.reactive_jobs
        set status = %s::jobsworth.job_status, finished_at = now() where id = %s
        """,
        [final, job_id],
    )
    with pytest.raises(Conflict, match=f"job {job_id} is already {final}: it will not read"):
        await signals.send(conn, job_id, "paid")
    assert await fetch_val(conn, "select count(*) from jobsworth.signals") == 0


async def test_a_signal_to_nobody_is_not_found(conn: Connection) -> None:
    unknown = uuid4()
    with pytest.raises(NotFound, match=f"there is no job {unknown}"):
        await signals.send(conn, unknown, "paid")


@pytest.mark.parametrize("name", ["", " ", "a\0"])
async def test_a_signal_needs_a_name(conn: Connection, name: str) -> None:
    with pytest.raises(InvalidInput, match="is not the name of a signal"):
        await signals.send(conn, uuid4(), name)


async def test_a_payload_that_is_no_json_is_refused(conn: Connection) -> None:
    with pytest.raises(InvalidInput, match="the payload of signal paid cannot be written as JSON"):
        await signals.send(conn, await added(conn), "paid", object())
