"""Settings of a server that no session of ours may depend on, and places where they may be set."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Literal
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

from psycopg.sql import SQL, Identifier
from psycopg.sql import Literal as Quoted

from tests.support import connect

Place = Literal["database", "role"]

# Each alone; the timeouts are shorter than the statements of a job with a large file.
ODD: tuple[tuple[str, str], ...] = (
    ("DateStyle", "SQL, DMY"),
    ("DateStyle", "German"),
    ("DateStyle", "Postgres, YMD"),
    ("IntervalStyle", "sql_standard"),
    ("IntervalStyle", "iso_8601"),
    ("IntervalStyle", "postgres_verbose"),
    ("TimeZone", "Asia/Kathmandu"),
    ("TimeZone", "<+03:30>-03:30"),
    ("client_encoding", "LATIN1"),
    ("client_encoding", "SQL_ASCII"),
    ("bytea_output", "escape"),
    ("search_path", ""),
    ("search_path", "nowhere, pg_temp"),
    ("search_path", "decoy, pg_catalog"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_isolation", "repeatable read"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "40ms"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "5ms"),
    ("idle_session_timeout", "20ms"),
    ("transaction_timeout", "40ms"),
    ("jit", "on"),
    ("jit_above_cost", "0"),
    ("standard_conforming_strings", "off"),
    ("extra_float_digits", "-15"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("backslash_quote", "off"),
    ("plan_cache_mode", "force_custom_plan"),
    ("row_security", "off"),
    ("lc_messages", "C"),
)

# What is searched first where `search_path` says so: nothing of ours may find it.
DECOY = """
create schema decoy;
create table decoy.reactive_jobs (id int);
create function decoy.now() returns timestamptz language sql
  as $$ select timestamptz 'epoch' $$;
create function decoy.nextval(text) returns bigint language sql as $$ select 1::bigint $$;
grant usage on schema decoy to public;
"""


# No setting has more odd values than this.
BUNDLES = 3


def bundle(number: int) -> dict[str, str]:
    """One value of each setting."""
    values: dict[str, list[str]] = {}
    for name, value in ODD:
        values.setdefault(name, []).append(value)
    return {name: found[number % len(found)] for name, found in values.items()}


@contextmanager
def odd(url: str, settings: Mapping[str, str], place: Place) -> Generator[str]:
    """The URL of a superuser in this database, with these settings of the database or the role."""
    role = f"odd_{uuid4().hex[:12]}"
    name = urlsplit(url).path.removeprefix("/")
    with connect(url) as conn:
        conn.execute(SQL("create role {} login superuser").format(Identifier(role)))
        target = SQL("role {}").format(Identifier(role))
        if place == "database":
            target = SQL("database {}").format(Identifier(name))
        try:
            for setting, value in settings.items():
                # Quoted as one, a list would be one strange name.
                to = SQL(value) if setting == "search_path" and value else Quoted(value)  # type: ignore[arg-type]
                conn.execute(SQL("alter {} set {} = {}").format(target, Identifier(setting), to))
            yield as_role(url, role)
        finally:
            conn.execute(SQL("alter database {} reset all").format(Identifier(name)))
            conn.execute(SQL("drop role {}").format(Identifier(role)))


def as_role(url: str, role: str) -> str:
    """The same database, as another role."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(role)}@{host}"))
