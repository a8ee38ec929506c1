"""Transactions: a block that leaves without an error has committed what it did.

In: a connection, and a block of SQL. Out: a commit, or one of our errors. PostgreSQL answers the
COMMIT of a transaction in which a statement failed with a rollback, which is no error; the driver
takes it for success.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from db.arguments import check_connection
from db.errors import Refused, translated


@asynccontextmanager
async def transaction(conn: psycopg.AsyncConnection[Any]) -> AsyncGenerator[None]:
    """A transaction, or a savepoint within the caller's; an exception rolls back.

    Raises `Refused` if it has failed already, and what a COMMIT raises.
    """
    check_connection(conn)
    with translated():
        async with conn.transaction():
            yield
            if conn.info.transaction_status is TransactionStatus.INERROR:
                raise _failed()


async def commit(conn: psycopg.AsyncConnection[Any]) -> None:
    """Commit. Raises `Refused` if the transaction has failed or ended already."""
    status = conn.info.transaction_status
    if status is TransactionStatus.INERROR:
        await conn.rollback()
        raise _failed()
    if status is TransactionStatus.IDLE and not getattr(conn, "committed", False):
        raise Refused(
            "the transaction ended within its block: what came after that was committed at once",
            "leave commit and rollback to the block",
            "25P01",
        )
    await conn.commit()


def _failed() -> Refused:
    return Refused(
        "the transaction was not committed: a statement in it failed",
        "let its error leave the block, or run that statement in `async with"
        " connection.transaction()`, which rolls back by itself",
        "25P02",
    )
