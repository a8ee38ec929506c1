"""The end of a transaction: it is committed, or it raises.

In: a connection whose block has ended without an error. Out: a commit. Invariant: a block that
leaves without an error has committed what it did. PostgreSQL answers the COMMIT of a transaction in
which a statement failed with a rollback, which is no error; a driver takes it for success.
"""

from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from db.errors import Refused


async def commit(conn: psycopg.AsyncConnection[Any]) -> None:
    """Commit. Raises `Refused` if the transaction has failed or ended already."""
    status = conn.info.transaction_status
    if status is TransactionStatus.INERROR:
        await conn.rollback()
        raise Refused(
            "the transaction was not committed: a statement in it failed",
            "let its error leave the block, or run that statement in `async with"
            " connection.transaction()`, which rolls back by itself",
            "25P02",
        )
    if status is TransactionStatus.IDLE and not getattr(conn, "committed", False):
        raise Refused(
            "the transaction ended within its block: what came after that was committed at once",
            "leave commit and rollback to the block",
            "25P01",
        )
    await conn.commit()
