"""A worker that is stopped while a claim is on its way to it does not keep those jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db.pool import Connection, Database, execute, fetch_val
from db.queue.enqueue import enqueue
from db.queue.stalled import end_stalled
from db.queue.upkeep import due_work
from tests.db.protocol import add, claim, register, states
from tests.support import until
from worker.daemon import stalled
from worker.daemon.stalled import Stalls

pytestmark = pytest.mark.both

CLAIM = """
select * from jobsworth.claim(
  $1, '{default}'::text[], '{3}'::smallint[], '{0}'::bigint[], '{answer}'::text[], 1000)
"""
WAITS = "select wait_event from pg_stat_activity where pid = %(pid)s"


def noise(size: int, seed: int = 0) -> dict[str, str]:
    """A payload that does not become smaller."""
    text = "".join(sha256(f"{seed} {n}".encode()).hexdigest() for n in range(size // 64))
    return {"noise": text}


async def add_large(conn: Connection, size: int, count: int = 1) -> list[UUID]:
    return [(await enqueue(conn, "answer", noise(size, n))).job_id for n in range(count)]


@pytest.fixture
def frozen(database_url: str) -> Iterator[psycopg.Connection[object]]:
    """A worker's connection, of which nobody reads what the server sends."""
    url = make_conninfo(database_url, application_name="jobsworth worker")
    # Not its own context manager, which would commit.
    with closing(psycopg.Connection[object].connect(url, autocommit=True)) as frozen:
        yield frozen


async def claim_and_freeze(
    frozen: psycopg.Connection[object], conn: Connection, worker_id: UUID
) -> None:
    """A claim whose answer is not read: the server waits for its client in the middle of it."""
    frozen.pgconn.send_query_params(CLAIM.encode(), [str(worker_id).encode()])
    frozen.pgconn.flush()

    async def sending() -> bool:
        pid = frozen.info.backend_pid
        return await fetch_val(conn, WAITS, {"pid": pid}) == "ClientWrite"

    await until(sending)


async def test_jobs_of_a_claim_that_is_not_received_go_to_others(
    frozen: psycopg.Connection[object],
    database: Database,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stalled, "STALLED_SECONDS", 0.0)
    jobs = await add_large(conn, 500_000, 6)
    await claim_and_freeze(frozen, conn, await register(conn))
    other = await register(conn)
    assert (await claim(conn, other)).jobs == []
    assert await states(conn, *jobs) == [("queued", None)] * 6
    await Stalls(database).end(await due_work(conn))

    async def given_back() -> bool:
        return len((await claim(conn, other)).jobs) == 6

    await until(given_back)


async def test_a_wait_counts_from_the_look_that_found_it(
    frozen: psycopg.Connection[object], database: Database, conn: Connection
) -> None:
    await add_large(conn, 500_000, 6)
    await claim_and_freeze(frozen, conn, await register(conn))
    stalls = Stalls(database)
    for _ in range(3):
        await stalls.end(await due_work(conn))
    [found] = (await due_work(conn)).stalled
    assert found.pid == frozen.info.backend_pid
    # Another statement of the same process has not waited yet.
    assert await end_stalled(conn, [found._replace(query_began="earlier")]) == 0
    assert await end_stalled(conn, [found]) == 1


async def test_those_that_wait_for_their_clients_between_statements_are_left_alone(
    database_url: str, conn: Connection
) -> None:
    async with (
        Database(database_url, application_name="jobsworth worker") as own,
        own.connection() as idle,
    ):
        await idle.execute("begin")
        await execute(idle, "create table held (n int)")
        assert (await due_work(conn)).stalled == set()


async def test_a_claim_is_bounded_by_the_size_of_payloads(conn: Connection) -> None:
    jobs = await add_large(conn, 900_000, 8)
    worker_id = await register(conn)
    first = await claim(conn, worker_id)
    assert [job.id for job in first.jobs] == jobs[:5]
    second = await claim(conn, worker_id, beyond=first.positions["default", 3])
    assert [job.id for job in second.jobs] == jobs[5:]


async def test_a_large_payload_is_claimed_alone_at_least(conn: Connection) -> None:
    jobs = [await add(conn), *await add_large(conn, 1_000_000)]
    claimed = await claim(conn, await register(conn))
    assert [job.id for job in claimed.jobs] == jobs
