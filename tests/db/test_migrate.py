"""Migrations: up, down and up again, one at a time, and every refusal says what to do."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from alembic.script import ScriptDirectory
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

import db.migrate as module
from db.migrate import HEAD, REVISIONS, Migrated, MigrateError, check, current, migrate
from db.migrate import migration_sql as offline
from db.schema import DEFAULT_SCHEMA
from db.server.embedded import Embedded
from migrations import sources
from tests.schema_dump import dump, dump_without_books
from tests.support import connect, environment, until_sync

OTHER_SCHEMA = "second_office"

MIGRATE = """
import sys
from db.migrate import migrate
moved = migrate(sys.argv[1], sys.argv[2])
print(moved.from_, moved.to)
"""


def test_the_revisions_are_one_line_and_their_files_are_named_in_order() -> None:
    script = ScriptDirectory(str(module.DIRECTORY))
    oldest_first = [revision.revision for revision in script.walk_revisions()][::-1]
    assert oldest_first == list(REVISIONS)
    assert script.get_heads() == [HEAD]


@pytest.mark.both
def test_the_revisions_make_what_the_sources_say(
    server: Embedded, database_url: str, empty_database_url: str
) -> None:
    with connect(empty_database_url) as conn:
        conn.execute("create schema jobsworth")
        conn.execute(sources.script())
    upgraded = dump_without_books(server, database_url)
    assert upgraded == dump_without_books(server, empty_database_url), (
        "a change has two halves: the edit of migrations/schema and a revision (its README.md)"
    )


@pytest.mark.both
def test_up_down_and_up_again_gives_the_same_schema(
    server: Embedded, empty_database_url: str
) -> None:
    url = empty_database_url
    assert migrate(url, DEFAULT_SCHEMA) == Migrated(None, HEAD)
    first = dump(server, url)
    assert migrate(url, DEFAULT_SCHEMA, "base") == Migrated(HEAD, None)
    assert migrate(url, DEFAULT_SCHEMA) == Migrated(None, HEAD)
    assert dump(server, url) == first


@pytest.mark.both
def test_each_revision_can_be_undone_and_done_again(empty_database_url: str) -> None:
    url = empty_database_url
    for before, revision in zip((None, *REVISIONS), REVISIONS, strict=False):
        assert migrate(url, DEFAULT_SCHEMA, revision) == Migrated(before, revision)
        assert migrate(url, DEFAULT_SCHEMA, before or "base") == Migrated(revision, before)
        assert migrate(url, DEFAULT_SCHEMA, revision) == Migrated(before, revision)


def test_down_leaves_the_extension_and_no_schema(empty_database_url: str) -> None:
    migrate(empty_database_url, DEFAULT_SCHEMA)
    migrate(empty_database_url, DEFAULT_SCHEMA, "base")
    with connect(empty_database_url) as conn:
        assert _names(conn, "select extname as name from pg_extension") == {"plpgsql", "vector"}
        assert not _has_schema(conn)
    assert current(empty_database_url, DEFAULT_SCHEMA) is None


def test_down_leaves_what_somebody_else_put_into_the_schema(empty_database_url: str) -> None:
    migrate(empty_database_url, DEFAULT_SCHEMA)
    with connect(empty_database_url) as conn:
        conn.execute("create table jobsworth.their_notes ()")
        migrate(empty_database_url, DEFAULT_SCHEMA, "base")
        assert _names(conn, TABLES, "jobsworth") == {"their_notes"}
    assert migrate(empty_database_url, DEFAULT_SCHEMA) == Migrated(None, HEAD)


def test_a_second_migrate_finds_nothing_to_do(database_url: str) -> None:
    assert migrate(database_url, DEFAULT_SCHEMA) == Migrated(HEAD, HEAD)


def test_down_from_nothing_makes_nothing(empty_database_url: str) -> None:
    assert migrate(empty_database_url, DEFAULT_SCHEMA, "base") == Migrated(None, None)
    with connect(empty_database_url) as conn:
        assert not _has_schema(conn)


@pytest.mark.both
def test_of_concurrent_migrates_one_works_and_the_others_find_it_done(
    empty_database_url: str,
) -> None:
    assert sorted(_concurrently(empty_database_url, [DEFAULT_SCHEMA] * 3)) == [
        f"{HEAD} {HEAD}",
        f"{HEAD} {HEAD}",
        f"None {HEAD}",
    ]


def test_two_schemas_of_one_database_can_be_migrated_at_once(empty_database_url: str) -> None:
    moved = _concurrently(empty_database_url, [DEFAULT_SCHEMA, OTHER_SCHEMA])
    assert moved == [f"None {HEAD}"] * 2


def test_a_migrate_waits_for_the_one_that_runs(empty_database_url: str) -> None:
    with connect(empty_database_url) as conn:
        conn.execute(module.LOCK, {"schema": DEFAULT_SCHEMA})
        second = _start(empty_database_url, DEFAULT_SCHEMA)
        until_sync(lambda: conn.execute(WAITING).fetchone(), what="waiting for the lock")
        assert not _has_schema(conn)
    assert second.communicate(timeout=60)[0] == f"None {HEAD}\n"


def test_a_migrate_does_not_wait_for_ever(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS_MAX", 0.2)
    with connect(empty_database_url) as conn:
        conn.execute(module.LOCK, {"schema": DEFAULT_SCHEMA})
        with pytest.raises(MigrateError, match=r"another migration has been running for 0\.2 s"):
            migrate(empty_database_url, DEFAULT_SCHEMA)


def test_a_table_in_use_is_not_waited_for_long(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TABLE_LOCK_SECONDS_MAX", 0.2)
    migrate(database_url, DEFAULT_SCHEMA, "0001")
    with connect(database_url) as conn, conn.transaction():
        conn.execute("select count(*) from jobsworth.reactive_jobs")
        with pytest.raises(MigrateError, match=r"lock timeout \(a transaction uses its tables"):
            migrate(database_url, DEFAULT_SCHEMA, "base")
    assert current(database_url, DEFAULT_SCHEMA) == "0001"


def test_two_schemas_in_one_database_are_alike_and_apart(
    server: Embedded, database_url: str, empty_database_url: str
) -> None:
    url = empty_database_url
    expected = dump(server, database_url)
    migrate(url, OTHER_SCHEMA)
    with connect(url) as conn:
        assert not _has_schema(conn), "nothing may name the default schema"
    assert dump(server, url, OTHER_SCHEMA) == expected
    migrate(url, DEFAULT_SCHEMA)
    migrate(url, OTHER_SCHEMA, "base")
    assert current(url, DEFAULT_SCHEMA) == HEAD
    assert current(url, OTHER_SCHEMA) is None
    assert dump(server, url) == expected


def test_a_revision_that_fails_leaves_nothing_behind(empty_database_url: str) -> None:
    with connect(empty_database_url) as conn:
        conn.execute("create schema jobsworth")
        conn.execute("create view jobsworth.violations as select 1 as in_the_way")
        with pytest.raises(
            MigrateError, match='schema jobsworth: relation "violations" already exists'
        ):
            migrate(empty_database_url, DEFAULT_SCHEMA)
        assert _names(conn, TABLES, "jobsworth") <= {"violations", "alembic_version"}
        assert current(empty_database_url, DEFAULT_SCHEMA) is None
        conn.execute("drop view jobsworth.violations")
    assert migrate(empty_database_url, DEFAULT_SCHEMA) == Migrated(None, HEAD)


def test_pgvector_may_live_in_any_schema(empty_database_url: str) -> None:
    with connect(empty_database_url) as conn:
        conn.execute("create schema extensions")
        conn.execute("create extension vector schema extensions")
    assert migrate(empty_database_url, DEFAULT_SCHEMA) == Migrated(None, HEAD)


def test_the_sql_it_writes_does_what_it_does(
    server: Embedded, database_url: str, empty_database_url: str
) -> None:
    url = empty_database_url
    _psql(server, url, offline(DEFAULT_SCHEMA))
    assert dump(server, url) == dump(server, database_url)
    assert current(url, DEFAULT_SCHEMA) == HEAD
    assert migrate(url, DEFAULT_SCHEMA) == Migrated(HEAD, HEAD)


def test_the_sql_it_writes_for_the_way_down_undoes_it(
    server: Embedded, empty_database_url: str
) -> None:
    migrate(empty_database_url, OTHER_SCHEMA)
    _psql(server, empty_database_url, offline(OTHER_SCHEMA, "base", since=HEAD))
    with connect(empty_database_url) as conn:
        assert _names(conn, TABLES, OTHER_SCHEMA) == set()
    assert current(empty_database_url, OTHER_SCHEMA) is None


async def test_the_daemon_knows_a_current_schema(database_url: str) -> None:
    state = await _check(database_url)
    assert (state.state, state.revision, state.message) == ("ok", HEAD, "")


async def test_the_daemon_is_told_how_to_make_a_missing_schema(empty_database_url: str) -> None:
    state = await _check(empty_database_url)
    assert (state.state, state.revision) == ("missing", None)
    assert state.message.endswith("run: jobsworth migrate")


async def test_the_daemon_is_told_how_to_move_an_older_schema(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REVISIONS", (*REVISIONS, "9999"))
    monkeypatch.setattr(module, "HEAD", "9999")
    state = await _check(database_url)
    assert (state.state, state.revision) == ("older", HEAD)
    assert "needs 9999; run: jobsworth migrate" in state.message


async def test_a_newer_schema_is_left_alone(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute("update jobsworth.alembic_version set version_num = '9999'")
    state = await _check(database_url)
    assert (state.state, state.revision) == ("newer", "9999")
    assert f"jobsworth migrate --to {HEAD}" in state.message
    with pytest.raises(MigrateError, match="is at revision 9999, this version knows only up to"):
        migrate(database_url, DEFAULT_SCHEMA)
    assert current(database_url, DEFAULT_SCHEMA) == "9999"


def test_an_unknown_revision_is_refused_with_those_there_are(database_url: str) -> None:
    with pytest.raises(MigrateError, match=rf"no revision '9999' \(use head, base or .*{HEAD}"):
        migrate(database_url, DEFAULT_SCHEMA, "9999")


def test_a_dsn_is_as_good_as_a_url(empty_database_url: str) -> None:
    dsn = make_conninfo(empty_database_url, application_name="a test")
    assert not dsn.startswith("postgresql:")
    assert migrate(dsn, DEFAULT_SCHEMA) == Migrated(None, HEAD)


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@127.0.0.1:9/db", "postgresql://me:secret@/db?host=/nowhere"]
)
def test_an_unreachable_database_is_named_without_its_password(url: str) -> None:
    with pytest.raises(MigrateError, match="database cannot be reached: .*failed") as refused:
        migrate(url, DEFAULT_SCHEMA)
    assert "JOBSWORTH_DATABASE_URL" in refused.value.remedy
    assert "secret" not in str(refused.value)


def test_what_is_no_url_at_all_is_refused() -> None:
    with pytest.raises(MigrateError, match="database cannot be reached"):
        current("my database", DEFAULT_SCHEMA)


def test_a_role_that_may_not_make_a_schema_is_told_so(outsider_url: str) -> None:
    with pytest.raises(MigrateError, match=r"schema jobsworth: permission denied.*--sql"):
        migrate(outsider_url, DEFAULT_SCHEMA)


def test_a_role_that_may_not_make_the_extension_is_told_how_to_get_it(
    outsider_url: str, empty_database_url: str
) -> None:
    outsider = urlsplit(outsider_url).username
    assert outsider is not None
    with connect(empty_database_url) as conn:
        conn.execute(SQL("create schema jobsworth authorization {}").format(Identifier(outsider)))
        with pytest.raises(MigrateError, match=r"may not create the extension.*create extension"):
            migrate(outsider_url, DEFAULT_SCHEMA)
        conn.execute("create extension vector")
    assert migrate(outsider_url, DEFAULT_SCHEMA) == Migrated(None, HEAD)


TABLES = """
select c.relname as name
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %s and c.relkind in ('r', 'v')
"""
WAITING = """
select 1
from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'
"""


@pytest.fixture
def outsider_url(server: Embedded, empty_database_url: str) -> Iterator[str]:
    """The same empty database, as a role without rights."""
    name = f"outsider_{uuid.uuid4().hex}"
    with connect(server.database_url("postgres")) as conn:
        conn.execute(SQL("create role {} login").format(Identifier(name)))
    parts = urlsplit(empty_database_url)
    yield urlunsplit(parts._replace(netloc=f"{name}@"))
    with connect(empty_database_url) as conn:
        conn.execute(SQL("drop owned by {} cascade").format(Identifier(name)))
        conn.execute(SQL("drop role {}").format(Identifier(name)))


async def _check(url: str) -> module.SchemaState:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        return await check(conn, DEFAULT_SCHEMA)


def _start(url: str, schema: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MIGRATE, url, schema],
        env=environment(None),
        stdout=subprocess.PIPE,
        text=True,
    )


def _concurrently(url: str, schemas: list[str]) -> list[str]:
    processes = [_start(url, schema) for schema in schemas]
    return [process.communicate(timeout=120)[0].strip() for process in processes]


def _psql(server: Embedded, url: str, script: str) -> None:
    done = subprocess.run(
        [server.bin("psql"), url, "-v", "ON_ERROR_STOP=1", "--quiet", "--no-psqlrc", "--file=-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _has_schema(conn: psycopg.Connection[dict[str, object]]) -> bool:
    return conn.execute("select 1 from pg_namespace where nspname = 'jobsworth'").rowcount == 1


def _names(
    conn: psycopg.Connection[dict[str, object]], query: str, *parameters: str
) -> set[object]:
    rows = conn.execute(query.encode(), parameters or None).fetchall()
    return {row["name"] for row in rows}
