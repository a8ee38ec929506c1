"""Connections to the database of the test."""

from collections.abc import AsyncGenerator

import pytest

from db.pool import Connection, Database


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    async with Database(database_url, pool_min=1, pool_max=5) as database:
        yield database


@pytest.fixture
async def conn(database: Database) -> AsyncGenerator[Connection]:
    async with database.connection() as connection:
        yield connection
