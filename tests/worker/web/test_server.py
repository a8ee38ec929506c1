"""The endpoint's port: how it is opened, refused and closed, in the loop of its worker."""

from __future__ import annotations

import os
import signal
import socket

import anyio
import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from tests.support import connect
from tests.worker.web.site import site
from worker.web.server import STOP_SECONDS, ListenError, listen, serve

pytestmark = pytest.mark.anyio


async def test_port_0_takes_a_free_one_and_says_which(database_url: str) -> None:
    with capture_logs() as lines:
        async with site(database_url) as here:
            assert (await here.client.get("/healthz")).status_code == 200
            url = str(here.client.base_url)
    assert {"event": "health.listened", "log_level": "info", "url": url} in lines
    assert not url.endswith(":0")


async def test_a_port_in_use_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as refused:
            await listen("127.0.0.1", port)
    assert f"port {port} on 127.0.0.1 is in use" in refused.value.message
    assert "JOBSWORTH_HTTP_PORT" in refused.value.remedy


@pytest.mark.parametrize("host", ["192.0.2.7"])
async def test_an_address_of_another_machine_is_named_with_its_setting(host: str) -> None:
    with pytest.raises(ListenError) as refused:
        await listen(host, 0)
    assert host in refused.value.message
    assert "JOBSWORTH_HTTP_HOST" in refused.value.remedy


async def test_ipv6_is_served() -> None:
    async with anyio.create_task_group() as tasks:
        url = await tasks.start(serve, await listen("::1", 0), FastAPI())
        assert url.startswith("http://[::1]:")
        async with httpx.AsyncClient() as client:
            assert (await client.get(url)).status_code == 404
        tasks.cancel_scope.cancel()


async def test_cancelling_closes_the_port_soon_whatever_the_clients_do(database_url: str) -> None:
    with connect(database_url) as conn, conn.transaction():
        async with site(database_url) as here:
            host, port = here.client.base_url.host, here.client.base_url.port or 0
            idle = await anyio.connect_tcp(host, port)
            slow = await anyio.connect_tcp(host, port)
            await slow.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            conn.execute("lock table jobsworth.alembic_version in access exclusive mode")
            assert (await here.client.get("/readyz")).status_code == 503
            assert _waiting_for_lock(database_url) == 1
            leaving = anyio.current_time()
        assert anyio.current_time() - leaving < STOP_SECONDS + 2
        await idle.aclose()
        await slow.aclose()
    with pytest.raises(OSError, match=r"refused|failed"):
        await anyio.connect_tcp(host, port)


async def test_signals_stay_those_of_the_worker(database_url: str) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with site(database_url) as here:
        after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert after == before
        with anyio.open_signal_receiver(signal.SIGTERM) as received:
            os.kill(os.getpid(), signal.SIGTERM)
            with anyio.fail_after(5):
                assert await anext(received) == signal.SIGTERM
        assert (await here.client.get("/healthz")).status_code == 200


def _waiting_for_lock(url: str) -> int:
    with connect(url) as conn:
        row = conn.execute(
            "select count(*) as n from pg_locks where not granted and database = "
            "(select oid from pg_database where datname = current_database())"
        ).fetchone()
    assert row is not None
    return row["n"]
