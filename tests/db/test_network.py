"""Connections that die without a word are found and replaced, whoever is to blame."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import anyio
import psycopg
import pytest
from anyio.abc import TaskStatus
from psycopg.conninfo import conninfo_to_dict

from db import pool as pools
from db import safe_write
from db.conversations import messages, threads
from db.conversations.messages import MessageRole
from db.errors import Unavailable
from db.network import BOUNDS, bounded_url, cut_after
from db.pool import Connection, Database, fetch_val
from db.queue.enqueue import enqueue
from db.queue.signals import send as signal
from db.runs.runs import Node
from db.runs.runs import start as start_run
from tests.proxy import Proxy


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


def test_what_the_url_says_wins() -> None:
    url = bounded_url("postgresql://me@here/there?connect_timeout=60&keepalives_idle=0")
    said = conninfo_to_dict(url)
    assert (said["connect_timeout"], said["keepalives_idle"]) == ("60", "0")
    assert said["tcp_user_timeout"] == str(BOUNDS["tcp_user_timeout"])
    assert (said["user"], said["host"], said["dbname"]) == ("me", "here", "there")
    assert bounded_url("no = connection = string") == "no = connection = string"


async def test_the_kernel_is_told_when_a_silent_connection_is_dead(proxy: Proxy) -> None:
    async with Database(proxy.url) as database, database.connection() as conn:
        end = socket.socket(fileno=conn.fileno())
        try:
            options = [
                end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
                end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            ]
        finally:
            end.detach()
    assert options == [1, 2, 2, 2, 6000]


async def test_silent_connections_are_all_replaced_by_the_first_that_shows_it(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie idle in the pool behind a proxy that swallows; new ones get through."""
    monkeypatch.setattr(pools, "IDLE_SECONDS_UNPROVEN", 0.0)
    monkeypatch.setattr(pools, "PROOF_SECONDS", 0.5)
    async with Database(proxy.url, pool_min=4, pool_max=4) as database:
        async with database.connection(), database.connection(), database.connection():
            before = await database.fetch_val("select pg_backend_pid()")
        proxy.swallow(spare_new=True)
        began = time.monotonic()
        for _ in range(4):
            assert await database.fetch_val("select pg_backend_pid()") != before
        # One proof each would take 2 s, a statement each two minutes.
        assert time.monotonic() - began < 10
        assert database.pool.get_stats()["connections_num"] <= 4 + 4 + 1


async def test_a_statement_without_an_answer_makes_the_next_one_ask_for_a_proof(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PROOF_SECONDS", 0.5)
    async with Database(proxy.url, pool_min=2, pool_max=2, statement_seconds=3) as database:
        async with database.connection():
            assert await database.fetch_val("select 1") == 1
        proxy.swallow(spare_new=True)
        with pytest.raises(Unavailable):
            await database.fetch_val("select 1")
        began = time.monotonic()
        assert await database.fetch_val("select 1") == 1
        assert time.monotonic() - began < 3


async def test_what_is_cut_waits_for_no_connection(database_url: str) -> None:
    """A stopped attempt whose statement is shielded must not wait for a silent network."""
    async with Database(database_url, pool_min=1, pool_max=1) as database:
        async with database.connection(), anyio.create_task_group() as tasks:
            failed = await tasks.start(_uses_shielded, database)
            database.cut()
            with anyio.fail_after(10):
                await failed.wait()
        assert await database.fetch_val("select 1") == 1


async def test_what_is_cut_waits_for_no_proof(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "IDLE_SECONDS_UNPROVEN", 0.0)
    monkeypatch.setattr(pools, "PROOF_SECONDS", 60.0)
    async with Database(proxy.url, pool_min=1, pool_max=1) as database:
        assert await database.fetch_val("select 1") == 1
        proxy.swallow()
        async with anyio.create_task_group() as tasks:
            failed = await tasks.start(_uses_shielded, database)
            database.cut()
            with anyio.fail_after(10):
                await failed.wait()


async def _uses_shielded(database: Database, *, task_status: TaskStatus[anyio.Event]) -> None:
    failed = anyio.Event()
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope(shield=True):
            tasks.start_soon(_tell_once_blocked, task_status, failed)
            with pytest.raises(Unavailable, match="cut"):
                await database.fetch_val("select 1")
        failed.set()


async def _tell_once_blocked(task_status: TaskStatus[anyio.Event], failed: anyio.Event) -> None:
    await anyio.wait_all_tasks_blocked()
    task_status.started(failed)


def test_a_wait_without_an_event_loop_is_cut(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url) as conn:
        proxy.swallow()
        with pytest.raises(psycopg.OperationalError), cut_after(0.2, conn):
            conn.execute("select 1")
        assert conn.closed


def test_a_wait_that_ends_in_time_is_not_cut(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url) as conn:
        with cut_after(0.2, conn):
            conn.execute("select 1")
        assert conn.execute("select 2 from pg_sleep(0.4)").fetchone() == (2,)


# Writes that a client-made id makes harmless.


@pytest.mark.parametrize("lost", [b"jobsworth.enqueue(", b"jobsworth.start_run(", b"send_signal("])
async def test_a_write_whose_answer_is_lost_is_asked_for_again_and_done_once(
    proxy: Proxy, conn: Connection, lost: bytes
) -> None:
    """The server has committed it; the connection is gone before its answer arrives."""
    async with Database(proxy.url, pool_min=1, pool_max=1) as database:
        job = await enqueue(database, "answer")
        proxy.lose_answer_to(lost)
        if b"enqueue" in lost:
            again = await enqueue(database, "other")
            assert again.created
            found = "select count(*) from jobsworth.reactive_jobs where mode = 'other'"
        elif b"start" in lost:
            run = await start_run(database, [Node("one", "answer")], request={"n": 1})
            assert run.created
            found = "select count(*) from jobsworth.runs"
        else:
            await signal(database, job.job_id, "go", {"n": 1})
            found = "select count(*) from jobsworth.signals"
        assert await fetch_val(conn, found) == 1
        assert proxy.lost == 1


async def test_a_message_of_a_platform_is_received_once_though_the_answer_is_lost(
    proxy: Proxy, conn: Connection
) -> None:
    thread = await threads.get_or_create(conn, "telegram", "42")
    async with Database(proxy.url, pool_min=1, pool_max=1) as database:
        for key, words in (("p1", b"COMMIT"), ("p2", b"insert into jobsworth.chat_messages")):
            proxy.lose_answer_to(words)
            received = await messages.receive(
                database, thread.id, "hi", "answer", platform_message_id=key
            )
            assert received.job is not None
            assert received.message.platform_message_id == key
        proxy.lose_answer_to(b"insert into jobsworth.chat_messages")
        with pytest.raises(Unavailable):
            await messages.insert(database, thread.id, MessageRole.USER, "without a key")
    assert proxy.lost == 3
    assert await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs") == 2


async def test_what_cannot_be_repeated_without_harm_fails_at_once(proxy: Proxy) -> None:
    """A read, a caller's own statement, and a write on the caller's own connection."""
    async with Database(proxy.url, pool_min=1, pool_max=1) as database:
        proxy.lose_answer_to(b"select 17")
        with pytest.raises(Unavailable):
            await database.fetch_val("select 17")
        proxy.lose_answer_to(b"jobsworth.enqueue(")

        async def in_my_transaction() -> None:
            async with database.transaction() as connection:
                await enqueue(connection, "mine")

        with pytest.raises(Unavailable):
            await in_my_transaction()
        assert await database.fetch_val("select count(*) from jobsworth.reactive_jobs") == 0
        assert proxy.lost == 2


async def test_a_write_waits_for_a_database_that_comes_back(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Database(proxy.url, pool_min=1, pool_max=1, acquire_seconds=0.2) as database:
        await enqueue(database, "first")
        proxy.cut()

        async def heal() -> None:
            await anyio.sleep(1)
            proxy.heal()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heal)
            assert (await enqueue(database, "second")).created
        proxy.cut()
        monkeypatch.setattr(safe_write, "RETRY_SECONDS_MAX", 0.5)
        with pytest.raises(Unavailable):
            await enqueue(database, "third")
