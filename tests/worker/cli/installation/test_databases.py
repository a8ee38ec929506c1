"""Databases that cannot be used as they are: unreachable, read-only, of another schema …"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from db.migrate import HEAD
from tests.support import connect, run_cli
from tests.worker.cli.support import NOBODY, cli_json
from worker.cli.terminal.exit_codes import ExitCode


@pytest.mark.parametrize("command", ["jobs", "status", "ledger", "enqueue", "migrate"])
def test_an_unreachable_database_is_named_without_its_password(command: str) -> None:
    args = [command, "greet"] if command == "enqueue" else [command]
    ended = run_cli(*args, url=NOBODY)
    assert ended.returncode == ExitCode.DATABASE
    assert "postgresql://ann@127.0.0.1:1/shop" in ended.stderr
    assert "Connection refused" in ended.stderr
    assert "JOBSWORTH_DATABASE_URL" in ended.stderr
    assert "secret" not in ended.stderr
    assert ended.stdout == ""


def test_a_host_that_does_not_answer_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        ended = run_cli(
            "jobs",
            url=f"postgresql://127.0.0.1:{port}/shop",
            env={"JOBSWORTH_CONNECT_SECONDS": "1"},
            seconds=30,
        )
    assert ended.returncode == ExitCode.DATABASE
    assert f"postgresql://127.0.0.1:{port}/shop" in ended.stderr


def test_a_database_that_is_not_there_is_told(database_url: str) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    ended = run_cli("jobs", url=database_url.replace(name, "nosuch"))
    assert ended.returncode == ExitCode.DATABASE
    assert 'database "nosuch" does not exist' in ended.stderr


def test_doctor_reports_with_the_database_down() -> None:
    report = cli_json(NOBODY, "doctor", code=ExitCode.NO)
    assert report["ok"] is False
    marks = {each["subject"]: each["mark"] for each in report["findings"]}
    assert marks["settings"] == "ok"
    assert marks["database"] == "problem"
    assert "secret" not in str(report)


def test_a_read_only_database_can_be_read_and_says_why_it_cannot_be_written(
    database_url: str,
) -> None:
    with connect(database_url) as conn:
        name = conn.info.dbname
        conn.execute(
            SQL("alter database {} set default_transaction_read_only = on").format(Identifier(name))
        )
    assert run_cli("jobs", url=database_url).returncode == 0
    for args in (["enqueue", "greet"], ["queue", "pause", "default"]):
        ended = run_cli(*args, url=database_url)
        assert ended.returncode == ExitCode.DATABASE
        assert "the database is read-only" in ended.stderr
        assert "target_session_attrs=read-write" in ended.stderr
    report = cli_json(database_url, "doctor", code=ExitCode.NO)
    [writes] = [each for each in report["findings"] if each["subject"] == "writes"]
    assert writes["mark"] == "problem"
    assert "read-only" in writes["text"]


@pytest.mark.both
def test_a_missing_schema_is_told_with_the_command_that_makes_it(empty_database_url: str) -> None:
    for command in ("jobs", "status"):
        ended = run_cli(command, url=empty_database_url)
        assert ended.returncode == ExitCode.SCHEMA
        assert "has no schema jobsworth" in ended.stderr
        assert "run: jobsworth migrate" in ended.stderr
    report = cli_json(empty_database_url, "doctor", code=ExitCode.NO)
    problems = {each["subject"] for each in report["findings"] if each["mark"] == "problem"}
    assert problems == {"schema", "pgvector"}
    assert run_cli("migrate", url=empty_database_url).returncode == 0
    assert run_cli("jobs", url=empty_database_url).returncode == 0


def test_a_newer_schema_is_told_with_the_way_back(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute("update jobsworth.alembic_version set version_num = '9999'")
    for command in ("jobs", "migrate"):
        ended = run_cli(command, url=database_url)
        assert ended.returncode == ExitCode.SCHEMA
        assert "revision 9999" in ended.stderr
        assert "newer version of Jobsworth" in ended.stderr
    report = cli_json(database_url, "doctor", code=ExitCode.NO)
    [schema] = [each for each in report["findings"] if each["subject"] == "schema"]
    assert schema["mark"] == "problem"
    assert "--to" in schema["remedy"]


def test_an_older_schema_is_told_with_the_command_that_raises_it() -> None:
    from db.migrate import SchemaState
    from worker.cli.terminal.database import schema_mismatch
    from worker.cli.terminal.problems import exit_code_of

    # There is only one revision to be at yet, so the state is made by hand.
    message = (
        "schema jobsworth is at revision 0000, this version needs 0001; run: jobsworth migrate"
    )
    mismatch = schema_mismatch(SchemaState("older", "0000", message))
    assert mismatch.message == "schema jobsworth is at revision 0000, this version needs 0001"
    assert mismatch.remedy == "run: jobsworth migrate"
    assert exit_code_of(mismatch) == ExitCode.SCHEMA


def test_a_role_that_may_not_create_the_extension_is_told_who_may(empty_database_url: str) -> None:
    with _role(empty_database_url, "cli_poor") as url:
        with connect(empty_database_url) as conn:
            conn.execute("create schema jobsworth authorization cli_poor")
        ended = run_cli("migrate", url=url)
        assert ended.returncode == ExitCode.SCHEMA
        assert "may not create the extension vector" in ended.stderr
        assert "create extension vector" in ended.stderr
        report = cli_json(url, "doctor", code=ExitCode.NO)
        [pgvector] = [each for each in report["findings"] if each["subject"] == "pgvector"]
        assert pgvector["mark"] == "problem"
        assert pgvector["remedy"] == "run: jobsworth migrate"
        with connect(empty_database_url) as conn:
            conn.execute("drop schema jobsworth cascade")


def test_a_role_without_rights_is_told_what_it_may_not_do(database_url: str) -> None:
    with _role(database_url, "cli_reader") as url:
        with connect(database_url) as conn:
            conn.execute("grant usage on schema jobsworth to cli_reader")
            conn.execute("grant select on all tables in schema jobsworth to cli_reader")
        assert run_cli("jobs", url=url).returncode == 0
        ended = run_cli("queue", "pause", "default", url=url)
        assert ended.returncode == ExitCode.DATABASE
        assert "permission denied for table queues" in ended.stderr
        report = cli_json(url, "doctor", code=ExitCode.NO)
        [writes] = [each for each in report["findings"] if each["subject"] == "writes"]
        assert "permission denied" in writes["text"]
        with connect(database_url) as conn:
            conn.execute("drop owned by cli_reader")


def test_migrate_goes_to_a_revision_and_says_so(empty_database_url: str) -> None:
    assert cli_json(empty_database_url, "migrate") == {
        "schema": "jobsworth",
        "from": None,
        "to": HEAD,
    }
    again = run_cli("migrate", url=empty_database_url)
    assert again.stdout == f"schema jobsworth is at revision {HEAD}: nothing to do\n"
    down = run_cli("migrate", "--to", "base", "--yes", url=empty_database_url)
    assert down.stdout == f"schema jobsworth went from revision {HEAD} to nothing\n"


def test_migrate_prints_sql_without_any_database() -> None:
    env = {"JOBSWORTH_SCHEMA": "second"}
    ended = run_cli("migrate", "--sql", url=NOBODY, env=env)
    assert ended.returncode == 0
    assert "create table second.reactive_jobs" in ended.stdout.lower()


def test_two_installations_in_one_database_are_apart(database_url: str) -> None:
    second = {"JOBSWORTH_SCHEMA": "second"}
    assert run_cli("migrate", url=database_url, env=second).returncode == 0
    assert run_cli("enqueue", "greet", url=database_url, env=second).returncode == 0
    assert len(cli_json(database_url, "jobs", env=second)) == 1
    assert cli_json(database_url, "jobs") == []


def test_without_a_url_the_embedded_database_is_started_migrated_and_stopped(
    tmp_path: Path,
) -> None:
    env = {"JOBSWORTH_DATA_DIR": str(tmp_path / "data")}
    first = run_cli("enqueue", "greet", env=env, seconds=120)
    assert first.returncode == 0, first.stderr
    assert f"starting the embedded database in {tmp_path / 'data'}" in first.stderr
    job_id = first.stdout.strip()
    assert [job["id"] for job in cli_json_embedded(env)] == [job_id]
    assert not list((tmp_path / "data").glob("pg*/postmaster.pid"))


def cli_json_embedded(env: dict[str, str]) -> list[dict[str, str]]:
    import json

    ended = run_cli("jobs", "--json", env=env, seconds=120)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@contextmanager
def _role(url: str, name: str) -> Iterator[str]:
    """The same database for a role of that name, which may only connect."""
    with connect(url) as conn:
        conn.execute(SQL("drop role if exists {}").format(Identifier(name)))
        conn.execute(SQL("create role {} login").format(Identifier(name)))
    try:
        yield url.replace("//postgres@", f"//{name}@")
    finally:
        with connect(url) as conn:
            conn.execute(SQL("drop owned by {} cascade").format(Identifier(name)))
            conn.execute(SQL("drop role {}").format(Identifier(name)))


def test_a_role_is_really_another_one(database_url: str) -> None:
    with (
        _role(database_url, "cli_other") as url,
        psycopg.connect(url) as conn,
    ):
        assert conn.info.user == "cli_other"
