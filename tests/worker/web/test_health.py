"""The answers of /healthz and /readyz over HTTP for healthy and failing workers and databases."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import LiteralString

import anyio
import pytest
from psycopg import sql

from db.diagnosis.health import Readiness, check_ready
from db.pool import Connection
from db.server.embedded import Embedded
from tests.support import connect, until
from tests.worker.web.site import Site, site
from worker.web import health

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here(database_url: str) -> AsyncGenerator[Site]:
    async with site(database_url) as found:
        yield found


@pytest.mark.both
async def test_a_worker_in_good_health_is_alive_and_ready(here: Site) -> None:
    assert await here.reasons("/healthz") == []
    answer = await here.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "reasons": [], "warnings": []}
    assert answer.headers["cache-control"] == "no-store"


async def test_a_claim_loop_that_hangs_is_neither_ready_nor_alive(here: Site) -> None:
    here.clock.now += 11
    here.vitals.heartbeat_succeeded()
    assert await here.reasons() == ["the claim loop has made no progress for 11 s"]
    assert await here.reasons("/healthz") == []
    here.clock.now += 80
    here.vitals.heartbeat_succeeded()
    assert await here.reasons("/healthz") == ["the claim loop has made no progress for 91 s"]


async def test_a_stale_heartbeat_is_not_ready_but_alive(here: Site) -> None:
    here.clock.now += 9
    here.vitals.claim_loop_progress()
    here.vitals.heartbeat_tried()
    assert await here.reasons() == ["no heartbeat has succeeded for 9 s"]
    assert await here.reasons("/healthz") == []


async def test_a_dead_heartbeat_thread_is_not_alive(here: Site) -> None:
    here.clock.now += 31
    here.vitals.claim_loop_progress()
    assert await here.reasons("/healthz") == ["the heartbeat thread has made no progress for 30 s"]


async def test_a_worker_that_lost_its_database_says_so(here: Site) -> None:
    here.vitals.database_state = "lost"
    assert await here.reasons() == ["this worker has lost its database and is trying again"]


async def test_a_worker_whose_slots_are_all_stuck_is_not_ready(here: Site) -> None:
    here.vitals.stuck = here.vitals.slots - 1
    assert await here.reasons() == []
    here.vitals.stuck = here.vitals.slots
    assert await here.reasons() == ["all 5 slots are held by attempts that do not end"]


async def test_a_draining_worker_is_alive_and_not_ready(here: Site) -> None:
    here.vitals.draining = True
    here.clock.now += 60
    assert await here.reasons() == ["draining"]
    here.vitals.heartbeat_tried()
    assert await here.reasons("/healthz") == []


async def test_a_database_without_schema_is_not_ready(empty_database_url: str) -> None:
    async with site(empty_database_url) as here:
        schema, extension = await here.reasons()
    assert "has no schema jobsworth" in schema
    assert "jobsworth migrate" in schema
    assert "vector" in extension


async def test_a_newer_schema_is_not_ready(here: Site, database_url: str) -> None:
    _run(database_url, "update jobsworth.alembic_version set version_num = '9999'")
    (reason,) = await here.reasons()
    assert "is at revision 9999" in reason
    assert "newer version of Jobsworth" in reason


async def test_a_read_only_database_is_not_ready(database_url: str) -> None:
    with connect(database_url) as conn:
        statement = sql.SQL("alter database {} set default_transaction_read_only = on")
        conn.execute(statement.format(sql.Identifier(conn.info.dbname)))
    async with site(database_url) as here:
        (reason,) = await here.reasons()
    assert reason.startswith("the database is read-only")


async def test_an_old_pgvector_is_a_warning_and_no_reason(here: Site, database_url: str) -> None:
    _run(database_url, "update pg_extension set extversion = '0.8.3' where extname = 'vector'")
    answer = await here.client.get("/readyz")
    assert answer.status_code == 200
    (warning,) = answer.json()["warnings"]
    assert "pgvector is 0.8.3" in warning


@pytest.mark.own_server
async def test_a_stopped_database_is_not_ready_until_it_is_back(
    server: Embedded, database_url: str
) -> None:
    async with site(database_url) as here:
        assert await here.reasons() == []
        server.stop("immediate")
        await until(here.reasons, what="not ready")
        assert "database" in (await here.reasons())[0]
        assert await here.reasons("/healthz") == []
        with ExitStack() as stack:
            server.open()
            stack.callback(server.close)

            async def ready() -> bool:
                return await here.reasons() == []

            await until(ready, 30)


async def test_a_database_that_does_not_answer_is_not_ready_in_time(
    here: Site, database_url: str
) -> None:
    assert await here.reasons() == []
    with connect(database_url) as conn, conn.transaction():
        conn.execute("lock table jobsworth.alembic_version in access exclusive mode")
        await anyio.sleep(health.CACHE_SECONDS)
        with anyio.fail_after(5):
            assert await here.reasons() == ["the database did not answer within 0.9 s"]
            assert await here.reasons("/healthz") == []

    async def ready() -> bool:
        return await here.reasons() == []

    await until(ready)


async def test_a_pool_in_use_is_not_ready_and_says_why(database_url: str) -> None:
    async with site(database_url, pool_max=1) as here, here.database.connection():
        (reason,) = await here.reasons()
    assert "no database connection within 0.8 s" in reason
    assert "all 1 connections are in use (JOBSWORTH_POOL_MAX)" in reason


async def test_a_storm_of_probes_costs_one_check(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = 0

    async def counted(conn: Connection) -> Readiness:
        nonlocal checks
        checks += 1
        return await check_ready(conn)

    monkeypatch.setattr(health, "check_ready", counted)
    statuses: list[int] = []

    async def probe() -> None:
        statuses.append((await here.client.get("/readyz")).status_code)

    began = anyio.current_time()
    async with anyio.create_task_group() as probes:
        for _ in range(100):
            probes.start_soon(probe)
    took = anyio.current_time() - began
    assert statuses == [200] * 100
    assert 1 <= checks <= 1 + took / health.CACHE_SECONDS
    assert here.database.pool.get_stats()["requests_num"] == checks


async def test_head_is_answered_and_other_paths_and_methods_are_refused(here: Site) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        answer = await here.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await here.client.post(path)).status_code == 405
    for path in ("/", "/jobs", "/healthz/", "/docs", "/openapi.json"):
        answer = await here.client.get(path)
        assert answer.status_code == 404
        assert answer.json() == {"detail": "Not Found"}


def _run(url: str, statement: LiteralString) -> None:
    with connect(url) as conn:
        conn.execute(statement)
