"""What a transaction sees: one team's rows, or one session's.

In: a connection, and a team. Out: a transaction in which row-level security shows that team's rows
alone (`policies.sql`). Invariant: the scope ends with the transaction, so a pooler, or the next who
borrows the connection, meets none of it; a role that sees everything is refused, not scoped in
vain.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from db.arguments import check_connection
from db.errors import InvalidInput, Refused
from db.pool import execute, fetch_val
from db.transactions import transaction

ENTER: LiteralString = """
select set_config('jobsworth.team', %(team)s::text, true) is not null
  and set_config('jobsworth.session', coalesce(%(session)s::text, ''), true) is not null
  and row_security_active('jobsworth.reactive_jobs')
  and not exists (
    select 1 from pg_catalog.pg_policy p
    cross join unnest(p.polroles) as r (role)
    where p.polrelid = 'jobsworth.reactive_jobs'::regclass and r.role <> 0
      and pg_has_role(r.role, 'usage'))
"""

SET_ROLE: LiteralString = "select set_config('role', %(role)s, true)"


@asynccontextmanager
async def scoped(
    conn: AsyncConnection[Any], team: UUID, session: UUID | None = None, role: str | None = None
) -> AsyncGenerator[None]:
    """A transaction that sees and writes the rows of one team, or of one session of it.

    `role`: a database role to be in meanwhile, like `jobsworth_api` (`jobsworth roles`); the
    connection's own must be a member of it. Raises `InvalidInput` within a transaction, whose scope
    would go on after the block, and `Refused` if the role sees every row.
    """
    check_connection(conn)
    if conn.info.transaction_status is not TransactionStatus.IDLE:
        raise InvalidInput(
            "the connection is in a transaction", "begin it by scoped(…), which commits at its end"
        )
    async with transaction(conn):
        if role is not None:
            await fetch_val(conn, SET_ROLE, {"role": role})
        if not await fetch_val(conn, ENTER, {"team": team, "session": session}):
            raise Refused(
                f"role {role or conn.info.user} sees every row, whatever the team",
                "pass role=, or connect as one of the roles of: jobsworth roles",
                "42501",
            )
        yield


READ_ONLY: LiteralString = "set transaction read only"


@asynccontextmanager
async def reading(conn: AsyncConnection[Any], team: UUID | None, role: str) -> AsyncGenerator[None]:
    """A read-only transaction that sees the rows of one team, in this role; without a team, those
    that the connection sees. Raises as `scoped` does.
    """
    within = transaction(conn) if team is None else scoped(conn, team, role=role)
    async with within:
        await execute(conn, READ_ONLY)
        yield
