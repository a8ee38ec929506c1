"""A worker whose role or database does not let it work says why, and works once that is mended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from psycopg.sql import SQL, Identifier

from db.diagnosis.fitness import Setup, judge
from db.migrate import MigrateError, migrate
from db.server.embedded import Embedded
from tests.odd_settings import as_role
from tests.pgbouncer import pgbouncer, pooled_url
from tests.support import Workers, connect, run_cli, until_sync
from tests.worker.cli.support import cli_json
from worker.cli.terminal.exit_codes import ExitCode

STATUS = "select status::text from jobsworth.reactive_jobs"


@pytest.fixture
def role(database_url: str) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    name = f"app_{uuid4().hex[:12]}"
    with connect(database_url) as conn:
        conn.execute(SQL("create role {} login").format(Identifier(name)))
        yield name
        conn.execute(SQL("drop owned by {}").format(Identifier(name)))
        conn.execute(SQL("drop role {}").format(Identifier(name)))


def test_a_role_without_rights_is_told_and_works_once_it_has_them(
    database_url: str, role: str, workers: Workers, tmp_path: Path
) -> None:
    (tmp_path / "greeting.py").write_text(
        "from jobsworth import handler\n\n@handler('greet')\ndef greet() -> str:\n    return 'hi'\n"
    )
    url = as_role(database_url, role)
    env = {"JOBSWORTH_HANDLERS": "greeting", "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    worker = workers.start(url, env)
    lost = worker.wait_for("database.lost", 60)
    assert "permission denied for schema jobsworth" in lost["error"]
    assert "jobsworth worker grant" in lost["remedy"]
    address = worker.wait_for("health.listened", 60)
    ready = httpx.get(f"{address['url']}/readyz", timeout=30)
    assert ready.status_code == 503
    assert "permission denied for schema jobsworth" in ready.text
    doctor = run_cli("doctor", url=url)
    assert doctor.returncode == ExitCode.NO
    assert "jobsworth worker grant" in doctor.stdout

    granted = run_cli("worker", "grant", role, url=database_url)
    assert (granted.returncode, granted.stdout) == (
        0,
        f"role {role} may work in schema jobsworth\n",
    )
    worker.wait_for("daemon.ready", 60)
    assert run_cli("enqueue", "greet", url=url).returncode == 0

    def done() -> bool:
        with connect(database_url) as conn:
            row = conn.execute(STATUS).fetchone()
        return row is not None and row["status"] == "done"

    until_sync(done, 60)
    assert not worker.events("claim.failed")
    rights = [one for one in cli_json(url, "doctor")["findings"] if one["subject"] == "rights"]
    assert [one["mark"] for one in rights] == ["ok"]


def test_each_missing_right_is_named(database_url: str, role: str) -> None:
    assert run_cli("worker", "grant", role, url=database_url).returncode == 0
    with connect(database_url) as conn:
        conn.execute(
            SQL("revoke update on sequence jobsworth.idle_workers from {}").format(Identifier(role))
        )
    report = cli_json(as_role(database_url, role), "doctor", code=ExitCode.NO)
    [rights] = [one for one in report["findings"] if one["subject"] == "rights"]
    assert f"role {role} lacks update on sequence idle_workers" in rights["text"]
    assert rights["remedy"].endswith(f"jobsworth worker grant {role}")


def test_a_role_that_does_not_exist_cannot_be_granted_anything(database_url: str) -> None:
    ended = run_cli("worker", "grant", "nobody_such", url=database_url)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert "there is no role 'nobody_such'" in ended.stderr


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_an_encoding_that_cannot_hold_every_text_is_refused(
    server: Embedded, encoding: str
) -> None:
    name = f"test_{uuid4().hex}"
    with connect(server.database_url("postgres")) as conn:
        conn.execute(
            SQL(
                "create database {} encoding "
                + f"'{encoding}' template template0 locale_provider libc locale 'C'"  # type: ignore[arg-type]
            ).format(Identifier(name))
        )
        try:
            url = server.database_url(name)
            ended = run_cli("migrate", url=url)
            assert ended.returncode == ExitCode.SCHEMA
            assert f"database {name} has the encoding {encoding}" in ended.stderr
            assert "encoding 'UTF8'" in ended.stderr
            report = cli_json(url, "doctor", code=ExitCode.NO)
            assert "encoding" in {one["subject"] for one in report["findings"]}
        finally:
            conn.execute(SQL("drop database {} with (force)").format(Identifier(name)))


def test_a_database_that_is_read_only_is_not_migrated(empty_database_url: str) -> None:
    name = urlsplit(empty_database_url).path.removeprefix("/")
    with connect(empty_database_url) as conn:
        conn.execute(
            SQL("alter database {} set default_transaction_read_only = on").format(Identifier(name))
        )
    with pytest.raises(MigrateError, match="is read-only for this role") as caught:
        migrate(empty_database_url, "jobsworth")
    assert "default_transaction_read_only" in caught.value.remedy


def test_a_migration_through_a_pooler_is_refused_with_the_way_to_do_it(
    server: Embedded, empty_database_url: str
) -> None:
    with pgbouncer(server) as folder:
        pooled = pooled_url(folder, urlsplit(empty_database_url).path.removeprefix("/"))
        ended = run_cli("migrate", url=pooled)
        assert ended.returncode == ExitCode.SCHEMA
        assert "JOBSWORTH_LISTEN_URL" in ended.stderr
        env = {"JOBSWORTH_LISTEN_URL": empty_database_url}
        assert run_cli("migrate", url=pooled, env=env).returncode == 0
        report = cli_json(pooled, "doctor", env=env)
        assert {one["subject"]: one["mark"] for one in report["findings"]}["pooler"] == "ok"
        report = cli_json(pooled, "doctor")
        assert {one["subject"]: one["mark"] for one in report["findings"]}["pooler"] == "warning"


def test_more_pools_than_the_server_has_connections_for_are_said_before_they_hurt(
    database_url: str,
) -> None:
    env = {"JOBSWORTH_POOL_MAX": "900", "JOBSWORTH_HANDLER_POOL_MAX": "40"}
    found = {one["subject"]: one for one in cli_json(database_url, "doctor", env=env)["findings"]}
    assert found["connections"]["mark"] == "warning"
    assert "may open 942 connections" in found["connections"]["text"]


def setup(**changes: object) -> Setup:
    facts: dict[str, object] = {
        "role": "app",
        "database": "shop",
        "encoding": "UTF8",
        "replication_role": "origin",
        "isolation": "read committed",
        "statement_milliseconds": 0,
    }
    return Setup.model_validate(facts | changes)


@pytest.mark.parametrize(
    ("changes", "pooled", "named"),
    [
        ({}, True, []),
        ({"replication_role": "replica"}, False, ["session_replication_role"]),
        ({"isolation": "serializable", "statement_milliseconds": 700}, False, []),
        ({"isolation": "serializable"}, True, ["default_transaction_isolation"]),
        ({"statement_milliseconds": 700}, True, ["statement_timeout"]),
        ({"statement_milliseconds": 30_000}, True, []),
    ],
)
def test_settings_that_no_session_can_change_are_named_with_the_statement_that_does(
    changes: dict[str, object], pooled: bool, named: list[str]
) -> None:
    found = judge(setup(**changes), pooled=pooled)
    assert len(found) == len(named)
    for one, name in zip(found, named, strict=True):
        assert name in one.text
        assert f"alter role app in database shop set {name}" in one.remedy


def test_a_worker_that_starts_waits_for_the_database_within_its_limit(workers: Workers) -> None:
    """After it, a supervisor may start it elsewhere; without a limit nobody would notice."""
    nobody = "postgresql://ann:secret@127.0.0.1:1/shop"
    worker = workers.start(nobody, {"JOBSWORTH_DATABASE_WAIT_SECONDS": "1"})
    failed = worker.wait_for("daemon.failed", 120)
    assert "cannot be reached" in failed["error"]
    assert failed["remedy"]
    assert worker.wait(60) == ExitCode.DATABASE
