"""Fixtures of this chapter's tests."""

from __future__ import annotations

from uuid import UUID

import pytest

from db.pool import Connection
from tests.db.protocol import (
    register,
)


@pytest.fixture
async def worker_id(conn: Connection) -> UUID:
    return await register(conn)
