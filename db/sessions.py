"""What each of our sessions says to the server before its first statement.

In: a new connection. Out: the same connection, whose session does not depend on what the server,
the database or the role has set. Invariant: a pooler that shares its server connections between
clients (PgBouncer in transaction mode) passes on everything that is said here.

Three ways lead through such a pooler. `client_encoding` goes with the start of the session.
`DateStyle` and `standard_conforming_strings` are set once: PgBouncer sees them change and takes
them along to each server connection. What else is set on a server connection would stay there for
the next client, so behind a pooler a transaction sets it for itself (`begin_text`), and
`db.diagnosis.fitness` refuses what single statements would need. Sent as a startup parameter,
`options` would make PgBouncer refuse the session.

A pooler is found by the process id: PgBouncer tells the client another one than the server's own.
There, nothing is prepared: before its version 1.21, one client met the statements of another.
"""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

from db.echo import Echo, telling

# Wins over PGCLIENTENCODING and what the URL, the database and the role say.
ENCODING = "UTF8"

# A shorter one than our own bound would end statements that we still wait for; a longer one stays.
TIMEOUTS = (
    "statement_timeout",
    "lock_timeout",
    "transaction_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
)


def connect_parameters(application_name: str, echo: Echo | None = None) -> dict[str, Any]:
    """What every connection of ours is made with, beside its URL; `echo` only on async ones."""
    parameters: dict[str, Any] = {
        "autocommit": True,
        "application_name": application_name,
        "client_encoding": ENCODING,
    }
    return parameters if echo is None else {**parameters, "cursor_factory": telling(echo)}


async def begin_session(conn: psycopg.AsyncConnection[Any], seconds: float) -> bool:
    """Set what our statements need; False if a pooler is in between.

    No timeout of the server's will be shorter than `seconds`. Raises `psycopg.Error`.
    """
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(*_statement(conn, seconds), prepare=False)
        return _begun(conn, await cursor.fetchone())


def begin_session_sync(conn: psycopg.Connection[Any], seconds: float) -> bool:
    """`begin_session` on a blocking connection."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(*_statement(conn, seconds), prepare=False)
        return _begun(conn, cursor.fetchone())


def begin_text(begin: LiteralString) -> LiteralString:
    """How a transaction begins behind a pooler: `begin`, with what no session could keep there."""
    first, _, rest = begin.partition(";")
    isolated = "" if "isolation" in first else "set transaction isolation level read committed; "
    return f"{first}; {isolated}set local statement_timeout = 0; set local lock_timeout = 0; {rest}"


# `jit` compiles for longer than our statements take; the others change what values mean. A search
# path is a user's own and stays, but nothing may come before the functions of PostgreSQL. Each name
# is asked for by itself: the view `pg_settings` costs ten times what the rest of a session's begin
# does, and every connection would pay it.
SESSION: LiteralString = """
with session as (select pg_catalog.pg_backend_pid() = %(pid)s as direct)
select s.direct,
  pg_catalog.set_config('DateStyle', 'ISO', false),
  pg_catalog.set_config('standard_conforming_strings', 'on', false),
  (select pg_catalog.count(pg_catalog.set_config(o.name, o.wanted, false))
   from (
     values ('default_transaction_isolation', 'read committed'), ('IntervalStyle', 'postgres'),
       ('bytea_output', 'hex'), ('extra_float_digits', '1'), ('array_nulls', 'on'),
       ('transform_null_equals', 'off'), ('jit', 'off')
     union all
     select 'search_path', 'pg_catalog, ' || pg_catalog.current_setting('search_path')
     where pg_catalog.current_setting('search_path') like '%%pg_catalog%%'
     union all
     select t.name, '0'
     from pg_catalog.unnest(%(timeouts)s::text[]) as t (name)
     where 1000 * extract(epoch from pg_catalog.current_setting(t.name, true)::interval)
       between 1 and %(milliseconds)s - 1) as o (name, wanted)
   where s.direct)
from session s
"""


def _statement(
    conn: psycopg.BaseConnection[Any], seconds: float
) -> tuple[LiteralString, dict[str, Any]]:
    values = {
        "pid": conn.pgconn.backend_pid,
        "timeouts": list(TIMEOUTS),
        "milliseconds": int(seconds * 1000),
    }
    return SESSION, values


def _begun(conn: psycopg.BaseConnection[Any], row: tuple[Any, ...] | None) -> bool:
    direct = row is not None and bool(row[0])
    if not direct:
        conn.prepare_threshold = None
    return direct
