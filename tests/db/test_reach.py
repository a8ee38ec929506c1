"""A server that refuses a session: its reason and the remedy, at once, without a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from db.errors import ConnectionRefused, Unavailable
from db.pool import Database
from db.reach import reason_of, unreachable
from tests.odd_settings import as_role
from tests.support import connect


@contextmanager
def a_role(url: str, options: str) -> Iterator[str]:
    name = f"some_{uuid4().hex[:12]}"
    with connect(url) as conn:
        conn.execute(SQL("create role {} " + options).format(Identifier(name)))  # type: ignore[arg-type]
        try:
            yield name
        finally:
            conn.execute(SQL("drop role {}").format(Identifier(name)))


async def refusal(url: str) -> ConnectionRefused:
    """What the pool says; waiting for a connection would take longer than the test may."""
    with anyio.fail_after(60):
        async with Database(url, acquire_seconds=600.0) as pool:
            with pytest.raises(ConnectionRefused) as first:
                await pool.fetch_val("select 1")
            with pytest.raises(ConnectionRefused) as again:
                await pool.fetch_val("select 1")
    assert first.value.message == again.value.message
    assert "secret" not in str(first.value)
    return first.value


async def test_a_role_that_does_not_exist(database_url: str) -> None:
    refused = await refusal(as_role(database_url, "nobody_such").replace("@/", ":secret@/"))
    assert 'role "nobody_such" does not exist' in refused.message
    assert "create the role" in refused.remedy


async def test_a_database_that_does_not_exist(database_url: str) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    refused = await refusal(database_url.replace(name, "nosuch"))
    assert 'database "nosuch" does not exist' in refused.message
    assert "JOBSWORTH_DATABASE_URL" in refused.remedy


async def test_a_role_that_may_not_log_in(database_url: str) -> None:
    with a_role(database_url, "nologin") as role:
        refused = await refusal(as_role(database_url, role))
    assert "is not permitted to log in" in refused.message
    assert refused.remedy.endswith("login")


async def test_a_right_to_connect_that_is_missing(database_url: str) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    with connect(database_url) as conn, a_role(database_url, "login") as role:
        conn.execute(SQL("revoke connect on database {} from public").format(Identifier(name)))
        refused = await refusal(as_role(database_url, role))
    assert "permission denied for database" in refused.message
    assert "grant connect" in refused.remedy


async def test_a_server_out_of_connections_is_waited_for_and_then_named(database_url: str) -> None:
    with a_role(database_url, "login connection limit 0") as role:
        async with Database(as_role(database_url, role), acquire_seconds=0.5) as pool:
            with pytest.raises(Unavailable, match="too many connections for role") as caught:
                await pool.fetch_val("select 1")
    assert not isinstance(caught.value, ConnectionRefused)
    assert "JOBSWORTH_POOL_MAX" in caught.value.remedy


async def test_a_pool_goes_on_once_the_server_lets_it_in(database_url: str) -> None:
    with a_role(database_url, "nologin") as role, connect(database_url) as conn:
        async with Database(as_role(database_url, role), acquire_seconds=30) as pool:
            with pytest.raises(ConnectionRefused):
                await pool.fetch_val("select 1")
            conn.execute(SQL("alter role {} login").format(Identifier(role)))
            with anyio.fail_after(60):
                while True:
                    try:
                        assert await pool.fetch_val("select 1") == 1
                        break
                    except ConnectionRefused:
                        await anyio.sleep(0.1)


def test_a_server_that_is_not_there_is_unavailable_not_refusing() -> None:
    url = "postgresql://ann:secret@127.0.0.1:1/shop"
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(url)
    error = unreachable(url, caught.value)
    assert type(error) is Unavailable
    assert "postgresql://ann@127.0.0.1:1/shop cannot be reached" in error.message
    assert reason_of(caught.value).startswith("Connection refused")


def test_a_refusal_in_another_language_is_still_told() -> None:
    said = psycopg.OperationalError(
        'connection failed: connection to server at "::1", port 5432 failed: ВАЖНО:  роль не та'
    )
    error = unreachable("postgresql://ann@db/shop", said)
    assert isinstance(error, ConnectionRefused)
    assert "роль не та" in error.message
