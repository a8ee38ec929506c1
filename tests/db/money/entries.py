"""Calls entered into the books one statement at a time, as tests of something else need them.

The product starts and settles calls in batches, within the transaction of a group commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from db.fence import Lease
from db.money.settlements import SettledBatch, Settlement, settle_statement
from db.money.starts import CallStarted, Starting, Verdict, start_call, start_statement
from db.pool import Connection, run_last


async def start(conn: Connection, lease: Lease | None, **fields: Any) -> UUID:
    """Start a call, which nothing refuses; committed on return. `fields` as of `Starting`."""
    verdict = await start_call(conn, Starting(lease, **fields))
    assert isinstance(verdict, CallStarted), verdict
    return verdict.call_id


async def start_all(conn: Connection, calls: Sequence[Starting]) -> dict[str, Verdict]:
    """Start calls in the caller's transaction, which begins with `PINNED`; verdicts by request."""
    return (await run_last(conn, start_statement(calls), prepare=True)).verdicts


async def settle(conn: Connection, call_id: UUID, **fields: Any) -> bool:
    """Settle a call; committed on return. False if it was settled before, or is unknown."""
    ended = settle_statement([Settlement(call_id, **fields)])
    return bool((await run_last(conn, ended, prepare=False)).calls)


async def settle_all(conn: Connection, settlements: Sequence[Settlement]) -> SettledBatch:
    """Settle calls in the caller's transaction, which begins with `PINNED`."""
    return await run_last(conn, settle_statement(settlements), prepare=True)
