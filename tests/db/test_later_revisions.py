"""A later release: a copy of this one with its schema kept, an edit of `schema/` and a revision.

The copy is what migrations/README.md tells a maintainer to do. Its revision adds a column, a table
and a function's new body, and is moved up and down by the command line, as an operator would.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from db.migrate import HEAD, Migrated, MigrateError, current, migrate
from db.schema import DEFAULT_SCHEMA
from db.server.embedded import Embedded
from tests.schema_dump import dump, dump_without_books
from tests.support import ROOT, connect, environment
from worker.cli.terminal.exit_codes import ExitCode

NEXT = f"{int(HEAD) + 1:04}"

UP = """
alter table jobsworth.queues add column note text;
create table jobsworth.toys (id int primary key);
select jobsworth.isolate('jobsworth.toys');
create or replace function jobsworth.touch() returns trigger language plpgsql as $$
begin
  new.updated_at := clock_timestamp();
  return new;
end $$;
"""
DOWN = """
create or replace function jobsworth.touch() returns trigger language plpgsql as $$
begin
  new.updated_at := now();
  return new;
end $$;
drop table jobsworth.toys;
alter table jobsworth.queues drop column note;
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A tree of `db/` and `migrations/`, which goes before ours; the command line is ours."""

    root: Path

    def run(self, *args: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
        """`python args`, in the tree."""
        path = os.pathsep.join([str(self.root), str(ROOT)])
        return subprocess.run(
            [sys.executable, *args],
            env=environment(url, {"PYTHONPATH": path}),
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def cli(self, url: str, *args: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "worker.cli", "migrate", *args, url=url)

    def migrate(self, url: str, *args: str) -> Migrated:
        ended = self.cli(url, *args, "--json")
        assert ended.returncode == 0, ended.stderr
        moved = json.loads(ended.stdout)
        return Migrated(moved["from"], moved["to"])

    def sources(self) -> str:
        """The schema as its sources say it."""
        ended = self.run("-m", "migrations.sources")
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def install_sources(self, url: str) -> None:
        with connect(url) as conn:
            conn.execute("create schema jobsworth")
            conn.execute(self.sources().encode())


@pytest.fixture
def released(tmp_path: Path) -> Release:
    """This release, with the copy of its schema that the first release keeps."""
    for package in ("db", "migrations"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    release = Release(tmp_path)
    kept = tmp_path / "migrations/versions/0001_schema.sql"
    if not kept.exists():
        kept.write_text(release.sources())
    return release


@pytest.fixture
def later(released: Release) -> Release:
    """The release after it: one change, in its two halves."""
    _edit_schema(released)
    _add_revision(released, UP, DOWN)
    return released


def _edit_schema(release: Release) -> None:
    schema = release.root / "migrations/schema"
    _replace(
        schema / "queue/queues.sql",
        "changed_at jobsworth.changed_at not null default now()\n",
        "changed_at jobsworth.changed_at not null default now(),\n  note text\n",
    )
    _replace(schema / "base/rows.sql", "updated_at := now()", "updated_at := clock_timestamp()")
    (schema / "queue/toys.sql").write_text("create table jobsworth.toys (id int primary key);\n")
    _replace(schema / "order.txt", "queue/queues.sql\n", "queue/queues.sql\nqueue/toys.sql\n")


def _add_revision(release: Release, up: str, down: str) -> None:
    script = ScriptDirectory(str(release.root / "migrations"))
    made = script.generate_revision(NEXT, "toys")
    assert made is not None
    path = Path(made.path)
    assert path.name == f"{NEXT}_toys.py"
    _replace(path, 'UP = """\n"""', f'UP = """{up}"""')
    _replace(path, 'DOWN = """\n"""', f'DOWN = """{down}"""')


def _replace(path: Path, text: str, becomes: str) -> None:
    before = path.read_text()
    assert before.count(text) == 1, f"{path} does not have this once: {text}"
    path.write_text(before.replace(text, becomes))


@pytest.mark.both
def test_an_old_installation_is_upgraded_to_what_the_sources_say(
    server: Embedded, later: Release, database_url: str, empty_database_url: str
) -> None:
    _insert(database_url)
    assert later.migrate(database_url) == Migrated(HEAD, NEXT)
    later.install_sources(empty_database_url)
    upgraded = dump_without_books(server, database_url)
    assert upgraded == dump_without_books(server, empty_database_url)
    assert "jobsworth.toys" in upgraded
    assert _rows(database_url) == [("default", True)]


@pytest.mark.both
def test_a_fresh_installation_is_what_an_upgraded_one_is(
    server: Embedded, later: Release, database_url: str, empty_database_url: str
) -> None:
    assert later.migrate(empty_database_url) == Migrated(None, NEXT)
    assert later.migrate(database_url) == Migrated(HEAD, NEXT)
    assert dump(server, empty_database_url) == dump(server, database_url)


@pytest.mark.both
def test_the_way_down_gives_the_old_schema_with_its_rows_and_up_again_the_new_one(
    server: Embedded, later: Release, database_url: str
) -> None:
    _insert(database_url)
    old = dump(server, database_url)
    later.migrate(database_url)
    new = dump(server, database_url)
    assert later.migrate(database_url, "--to", HEAD, "--yes") == Migrated(NEXT, HEAD)
    assert dump(server, database_url) == old
    assert later.migrate(database_url) == Migrated(HEAD, NEXT)
    assert dump(server, database_url) == new
    assert _rows(database_url) == [("default", True)]
    assert later.migrate(database_url, "--to", "base", "--yes") == Migrated(NEXT, None)


def test_the_first_revision_installs_what_it_installed_whatever_becomes_of_the_sources(
    server: Embedded, later: Release, database_url: str, empty_database_url: str
) -> None:
    assert later.migrate(empty_database_url, "--to", "0001") == Migrated(None, "0001")
    migrate(database_url, DEFAULT_SCHEMA, "0001")
    assert dump(server, empty_database_url) == dump(server, database_url)


def test_an_edit_without_its_revision_is_found_and_so_is_a_revision_without_its_edit(
    server: Embedded, released: Release, database_url: str, empty_database_url: str
) -> None:
    before = dump_without_books(server, database_url)
    _edit_schema(released)
    released.install_sources(empty_database_url)
    edited = dump_without_books(server, empty_database_url)
    assert released.migrate(database_url) == Migrated(HEAD, HEAD)
    assert edited != before == dump_without_books(server, database_url)
    _add_revision(released, UP.replace("create table", "create unlogged table"), DOWN)
    released.migrate(database_url)
    assert dump_without_books(server, database_url) != edited


def test_a_revision_that_fails_leaves_the_one_before_it_whole(
    server: Embedded, later: Release, database_url: str
) -> None:
    with connect(database_url) as conn:
        conn.execute("create view jobsworth.toys as select 1 as in_the_way")
        before = dump(server, database_url)
        ended = later.cli(database_url)
        assert ended.returncode == ExitCode.SCHEMA
        assert 'relation "toys" already exists' in ended.stderr
        assert current(database_url, DEFAULT_SCHEMA) == HEAD
        assert dump(server, database_url) == before
        conn.execute("drop view jobsworth.toys")
    assert later.migrate(database_url) == Migrated(HEAD, NEXT)


def test_the_older_release_refuses_the_schema_of_the_later_one(
    later: Release, database_url: str
) -> None:
    later.migrate(database_url)
    for to in ("head", "base"):
        with pytest.raises(MigrateError, match=f"revision {NEXT}, this version knows only up to"):
            migrate(database_url, DEFAULT_SCHEMA, to)
    assert current(database_url, DEFAULT_SCHEMA) == NEXT


def test_the_sql_from_a_revision_on_is_that_of_the_later_ones(
    server: Embedded, later: Release, database_url: str, empty_database_url: str
) -> None:
    ended = later.cli(database_url, "--sql", "--since", HEAD)
    assert "jobsworth.toys" in ended.stdout
    assert "create table jobsworth.reactive_jobs" not in ended.stdout
    with connect(database_url) as conn:
        conn.execute(re.sub(r"(?m)^--.*$", "", ended.stdout).encode())
    later.migrate(empty_database_url)
    assert dump(server, database_url) == dump(server, empty_database_url)
    assert later.migrate(database_url) == Migrated(NEXT, NEXT)


def test_the_way_to_an_older_revision_is_not_gone_without_a_yes(
    later: Release, database_url: str
) -> None:
    later.migrate(database_url)
    ended = later.cli(database_url, "--to", HEAD)
    assert ended.returncode == ExitCode.CONFLICT
    assert f"the revisions after {HEAD} have added" in ended.stderr
    assert "--yes" in ended.stderr
    assert current(database_url, DEFAULT_SCHEMA) == NEXT


def _insert(url: str) -> None:
    with connect(url) as conn:
        conn.execute("insert into jobsworth.queues (name, paused) values ('default', true)")


def _rows(url: str) -> list[tuple[object, ...]]:
    with connect(url) as conn:
        rows = conn.execute("select name, paused from jobsworth.queues").fetchall()
    return [tuple(row.values()) for row in rows]
