"""Moves the schema of an installation from revision to revision.

Stage: before any daemon works. In: a database and the name of a schema. Out: that schema at the
wanted revision, or the SQL that would bring it there; for the daemon, what state it is in.

Invariant: one migration at a time per schema (an advisory lock that dies with its connection), each
revision whole or not at all. The revisions are numbered without branches; their files' names say
their order. How they follow from the sources of the schema is in migrations/README.md.

Alembic keeps the books (`alembic_version`, in the schema itself) and runs `migrations/`. It holds
its state in module globals, so a process migrates one database at a time.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow, tuple_row

from db.diagnosis.fitness import NEEDED_ENCODING, wrong_encoding
from db.errors import Conflict, JobsworthError, translated
from db.pool import STATEMENT_SECONDS, bounded
from db.schema import render, schema_name
from db.sessions import connect_parameters

DIRECTORY = Path(__file__).resolve().parent.parent / "migrations"
REVISIONS = tuple(sorted(path.name[:4] for path in DIRECTORY.glob("versions/[0-9]*.py")))
HEAD = REVISIONS[-1]
BASE = "base"

CONNECT_SECONDS_MAX = 10
LOCK_SECONDS_MAX = 600
# A change that waits for a table makes everybody else wait behind it; better to fail soon.
TABLE_LOCK_SECONDS_MAX = 10
WORKERS_NAMED_MAX = 5

COMMAND = "jobsworth migrate"

_one_at_a_time = threading.Lock()


class MigrateError(JobsworthError):
    """The schema stays at the revision it was at."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """The revisions before and after; None is no schema at all."""

    from_: str | None
    to: str | None


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Whether this version can work with a schema, and if not, what to do about it."""

    state: Literal["ok", "missing", "older", "newer"]
    revision: str | None
    message: str = ""


def migrate(
    url: str, schema: str, to: str = "head", *, alive_seconds: float | None = None
) -> Migrated:
    """Bring `schema` up or down to revision `to` ("head", "base" or one of `REVISIONS`).

    Makes the schema and the extension `vector` if they are missing; at "base" the schema is dropped
    if nothing else is in it, the extension stays. On the way down, a worker that has beaten within
    `alive_seconds` is in the way (None: none is looked for). `url` is a libpq URI or DSN, of a
    direct connection (not through PgBouncer). Blocking. Raises `MigrateError`, and `Conflict` for
    workers that are alive.
    """
    goal = _revision(to)
    with _connected(url) as conn, _explained(schema):
        _refuse_unfit(conn)
        _lock(conn, schema_name(schema))
        before = _current(conn, schema)
        if before == goal:
            return Migrated(before, goal)
        _refuse_unknown(schema, before)
        if _place(goal) < _place(before) and alive_seconds is not None:
            _refuse_living_workers(conn, schema, alive_seconds)
        _prepare(conn, schema)
        _run_alembic(conn, schema, before, goal)
        if goal is None:
            _clear(conn, schema)
        return Migrated(before, goal)


def goes_down(url: str, schema: str, to: str, *, alive_seconds: float) -> bool:
    """Whether revision `to` is below the one that `schema` is at. Raises as `migrate` would."""
    goal = _revision(to)
    with _connected(url) as conn, _explained(schema):
        before = _current(conn, schema_name(schema))
        _refuse_unknown(schema, before)
        down = _place(goal) < _place(before)
        if down:
            _refuse_living_workers(conn, schema, alive_seconds)
        return down


def migration_sql(schema: str, to: str = "head", since: str = BASE) -> str:
    """The SQL, for psql, that brings `schema` from revision `since` to `to`.

    On the way to "base" it leaves the empty schema.
    """
    from alembic import command

    goal, start = _revision(to), _revision(since)
    output = io.StringIO()
    config = _config(schema_name(schema), output=output)
    steps = f"{start or BASE}:{goal or BASE}"
    with _one_at_a_time:
        if _place(goal) >= _place(start):
            command.upgrade(config, steps, sql=True)
        else:
            command.downgrade(config, steps, sql=True)
    return output.getvalue() + ("" if goal else f"{render(DROP_VERSION, schema)};\n")


def current(url: str, schema: str) -> str | None:
    """The revision `schema` is at, None if there is no schema. Raises `MigrateError`."""
    with _connected(url) as conn, _explained(schema):
        return _current(conn, schema_name(schema))


async def check(conn: psycopg.AsyncConnection[Any], schema: str) -> SchemaState:
    """Whether this version knows the schema it finds. Raises `db.errors.DatabaseError`."""
    async with bounded(STATEMENT_SECONDS):
        with translated():
            async with conn.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(render(HAS_VERSION, schema))
                revision = None
                if await cursor.fetchone() == (True,):
                    await cursor.execute(render(VERSION, schema))
                    row = await cursor.fetchone()
                    revision = row[0] if row else None
    return _state(schema, revision)


FIT = """
select pg_backend_pid() = %(pid)s as direct, current_setting('server_encoding'),
  current_database()::text, current_setting('transaction_read_only')::boolean
"""


# The lock is held, and the settings are made, by a session; a pooler would give both to others.
def _refuse_unfit(conn: psycopg.Connection[TupleRow]) -> None:
    row = conn.execute(FIT, {"pid": conn.pgconn.backend_pid}).fetchone()
    assert row is not None
    direct, encoding, database, read_only = row
    if not direct:
        raise MigrateError(
            "a pooler (PgBouncer) is in between, which keeps no session for a migration",
            "set JOBSWORTH_LISTEN_URL to the server itself, and migrate again",
        )
    if encoding != NEEDED_ENCODING:
        unfit = wrong_encoding(database, encoding)
        raise MigrateError(unfit.text, unfit.remedy)
    if read_only:
        raise MigrateError(
            f"database {database} is read-only for this role",
            "connect to the primary (target_session_attrs=read-write), or look at "
            "default_transaction_read_only of database and role",
        )


DROP_VERSION = "drop table if exists jobsworth.alembic_version"
HAS_VERSION = "select to_regclass('jobsworth.alembic_version') is not null"
VERSION = "select version_num from jobsworth.alembic_version"


def _state(schema: str, revision: str | None) -> SchemaState:
    if revision == HEAD:
        return SchemaState("ok", revision)
    if revision is None:
        return SchemaState(
            "missing", None, f"the database has no schema {schema} of Jobsworth; run: {COMMAND}"
        )
    if revision in REVISIONS:
        return SchemaState(
            "older",
            revision,
            f"schema {schema} is at revision {revision}, this version needs {HEAD}; run: {COMMAND}",
        )
    return SchemaState(
        "newer",
        revision,
        f"schema {schema} is at revision {revision}, this version knows only up to {HEAD}; "
        f"run a newer version of Jobsworth, or with that one: {COMMAND} --to {HEAD}",
    )


def _revision(name: str) -> str | None:
    if name == BASE:
        return None
    if name == "head":
        return HEAD
    if name not in REVISIONS:
        raise MigrateError(
            f"there is no revision {name!r}", f"use head, base or one of: {', '.join(REVISIONS)}"
        )
    return name


def _place(revision: str | None) -> int:
    return -1 if revision is None else REVISIONS.index(revision)


@contextmanager
def _connected(url: str) -> Generator[psycopg.Connection[TupleRow]]:
    try:
        conn = psycopg.connect(
            url, row_factory=tuple_row, **connect_parameters(COMMAND), **_patience(url)
        )
    except psycopg.Error as error:
        raise MigrateError(
            f"the database cannot be reached: {str(error).strip()}",
            "check that PostgreSQL runs and JOBSWORTH_DATABASE_URL is right",
        ) from error
    with conn:
        yield conn


def _patience(url: str) -> dict[str, Any]:
    try:
        named = "connect_timeout" in conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        named = True  # not a URL at all: connecting says so
    return {} if named else {"connect_timeout": CONNECT_SECONDS_MAX}


@contextmanager
def _explained(schema: str) -> Generator[None]:
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.Error):
            raise
        raise _explanation(schema, error.orig) from error.orig
    except psycopg.Error as error:
        raise _explanation(schema, error) from error


def _explanation(schema: str, error: psycopg.Error) -> MigrateError:
    reason = error.diag.message_primary or str(error).strip()
    match error:
        case psycopg.errors.InsufficientPrivilege():
            remedy = f"migrate as the owner of the schema or database, or give it: {COMMAND} --sql"
        case psycopg.errors.LockNotAvailable():
            remedy = "a transaction uses its tables; stop the daemons, or end it, and try again"
        case psycopg.errors.ReadOnlySqlTransaction():
            remedy = "connect to the primary (target_session_attrs=read-write)"
        case _:
            remedy = error.diag.message_hint or "what was begun is undone; fix that and try again"
    return MigrateError(f"schema {schema}: {reason}", remedy)


LIMITS = """
select set_config('lock_timeout', %(lock_ms)s::text, false),
       set_config('statement_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '0', false)
"""
LOCK = "select pg_advisory_lock(hashtextextended('migrate ' || %(schema)s, 0))"


def _lock(conn: psycopg.Connection[TupleRow], schema: str) -> None:
    conn.execute(LIMITS, {"lock_ms": int(LOCK_SECONDS_MAX * 1000)})
    try:
        conn.execute(LOCK, {"schema": schema})
    except psycopg.errors.LockNotAvailable as busy:
        raise MigrateError(
            f"schema {schema}: another migration has been running for {LOCK_SECONDS_MAX:g} s",
            f"wait for it, or end the session named {COMMAND!r} in pg_stat_activity",
        ) from busy
    conn.execute(LIMITS, {"lock_ms": int(TABLE_LOCK_SECONDS_MAX * 1000)})


def _current(conn: psycopg.Connection[TupleRow], schema: str) -> str | None:
    if conn.execute(render(HAS_VERSION, schema)).fetchone() != (True,):
        return None
    row = conn.execute(render(VERSION, schema)).fetchone()
    return row[0] if row else None


def _refuse_unknown(schema: str, revision: str | None) -> None:
    state = _state(schema, revision)
    if state.state == "newer":
        raise MigrateError(state.message)


LIVING_WORKERS = """
select w.host, w.pid, extract(epoch from now() - w.beaten_at)::float8
from jobsworth.workers w
where w.beaten_at > now() - %(alive_seconds)s * interval '1 second'
order by w.started_at
"""


def _refuse_living_workers(
    conn: psycopg.Connection[TupleRow], schema: str, alive_seconds: float
) -> None:
    values = {"alive_seconds": alive_seconds}
    found = conn.execute(render(LIVING_WORKERS, schema), values).fetchall()
    if not found:
        return
    named = [
        f"process {pid} on {host} (heartbeat {max(seconds, 0):.0f} s ago)"
        for host, pid, seconds in found[:WORKERS_NAMED_MAX]
    ]
    if len(found) > WORKERS_NAMED_MAX:
        named.append(f"and {len(found) - WORKERS_NAMED_MAX} more")
    workers = "a running worker" if len(found) == 1 else f"{len(found)} running workers"
    raise Conflict(
        f"schema {schema} is in use by {workers}: {', '.join(named)}",
        "stop each worker with SIGTERM (systemctl stop jobsworth, docker stop …) and try again; "
        f"a killed one counts as running for {alive_seconds:g} s",
    )


FIND_SCHEMA = "select 1 from pg_namespace where nspname = %(schema)s"


# `create schema if not exists` asks for the right to create one even where it exists.
def _prepare(conn: psycopg.Connection[TupleRow], schema: str) -> None:
    if conn.execute(FIND_SCHEMA, {"schema": schema}).fetchone() is None:
        conn.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
    _create_extension(conn)
    conn.execute(SEE_EXTENSION)


CREATE_EXTENSION = "create extension if not exists vector"
# Two schemas of one database may be migrated at once, and `if not exists` does not wait.
LOCK_EXTENSION = "select pg_advisory_xact_lock(hashtextextended('migrate extension', 0))"
# The revisions name pgvector's types without a schema; it is not always in `public`.
SEE_EXTENSION = """
select set_config('search_path', quote_ident(n.nspname), false)
from pg_extension as e
join pg_namespace as n on n.oid = e.extnamespace
where e.extname = 'vector'
"""


def _create_extension(conn: psycopg.Connection[TupleRow]) -> None:
    try:
        with conn.transaction():
            conn.execute(LOCK_EXTENSION)
            conn.execute(CREATE_EXTENSION)
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as missing:
        raise MigrateError(
            "the server has no extension vector (pgvector)",
            "install pgvector (0.8.4 or newer) on the server, or use the embedded database",
        ) from missing
    except psycopg.errors.InsufficientPrivilege as refused:
        raise MigrateError(
            "this role may not create the extension vector (pgvector)",
            "run once in this database, as its owner or a superuser: create extension vector",
        ) from refused


# The same connection, because it holds the lock.
def _run_alembic(
    conn: psycopg.Connection[TupleRow], schema: str, before: str | None, goal: str | None
) -> None:
    from alembic import command
    from sqlalchemy import StaticPool, create_engine

    conn.autocommit = False
    engine = create_engine("postgresql+psycopg://", creator=lambda: conn, poolclass=StaticPool)
    with _one_at_a_time, engine.connect() as connection:
        config = _config(schema, connection=connection)
        if _place(goal) > _place(before):
            command.upgrade(config, goal or BASE)
        else:
            command.downgrade(config, goal or BASE)
    conn.rollback()
    conn.autocommit = True


def _config(schema: str, **attributes: Any) -> Any:
    from alembic.config import Config

    config = Config(output_buffer=attributes.pop("output", None))
    config.set_main_option("script_location", str(DIRECTORY).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(schema=schema, **attributes)
    return config


def _clear(conn: psycopg.Connection[TupleRow], schema: str) -> None:
    conn.execute(render(DROP_VERSION, schema))
    if schema == "public":
        return
    try:
        conn.execute(sql.SQL("drop schema {}").format(sql.Identifier(schema)))
    except (psycopg.errors.DependentObjectsStillExist, psycopg.errors.InsufficientPrivilege):
        return  # somebody else's things are in it, or it is somebody else's
