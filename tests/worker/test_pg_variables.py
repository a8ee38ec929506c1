"""Variables that libpq reads: the embedded database takes none, a URL what it leaves out."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import pq

from db.reach import shown_url
from db.server.embedded import Embedded, EmbeddedError
from tests.support import run_cli
from worker.cli.terminal.exit_codes import ExitCode
from worker.settings import SettingsError, load_settings
from worker.settings.problems import NAMES_A_SERVER

# What a shell that is set up for another server may hold.
FOREIGN = {
    "PGHOST": "db.example.org",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "6000",
    "PGDATABASE": "shop",
    "PGUSER": "ann",
    "PGPASSWORD": "secret",
    "PGPASSFILE": "/nowhere",
    "PGOPTIONS": "-c no_such_setting=1",
    "PGAPPNAME": "shop",
    "PGCLIENTENCODING": "LATIN1",
    "PGCONNECT_TIMEOUT": "soon",
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "/nowhere",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLCERTMODE": "require",
    "PGREQUIREPEER": "nobody",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGCHANNELBINDING": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "maybe",
    "PGGSSENCMODE": "require",
    "PGMINPROTOCOLVERSION": "3.2",
    "PGMAXPROTOCOLVERSION": "latest",
    "PGSSLMINPROTOCOLVERSION": "TLSv9",
    "PGSSLMAXPROTOCOLVERSION": "TLSv9",
    "PGSSLSNI": "no",
    "PGDATESTYLE": "German",
    "PGTZ": "Asia/Kathmandu",
    "PGGEQO": "off",
}


@pytest.fixture(autouse=True)
def nothing_else_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in pq.Conninfo.get_defaults():
        if option.envvar is not None:
            monkeypatch.delenv(option.envvar.decode(), raising=False)
    monkeypatch.delenv("JOBSWORTH_DATABASE_URL", raising=False)


@pytest.mark.parametrize("variable", FOREIGN)
def test_the_embedded_database_takes_nothing_from_the_environment(
    server: Embedded, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, FOREIGN[variable])
    assert server.running()
    with psycopg.connect(server.database_url("postgres")) as conn:
        row = conn.execute("select current_user, current_database(), inet_server_addr()").fetchone()
    assert row == ("postgres", "postgres", None)


def test_a_service_that_would_lead_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSERVICE", "prod")
    with pytest.raises(EmbeddedError, match="PGSERVICE"):
        Embedded(tmp_path).open()


def test_commands_work_on_the_embedded_database_whatever_is_set(tmp_path: Path) -> None:
    env = {**FOREIGN, "JOBSWORTH_DATA_DIR": str(tmp_path), "JOBSWORTH_DATABASE_URL": "embedded"}
    ended = run_cli("psql", "-Atc", "select current_user", env=env, seconds=120)
    assert (ended.stdout, ended.returncode) == ("postgres\n", 0), ended.stderr
    ended = run_cli("jobs", env=env, seconds=120)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("variable", NAMES_A_SERVER)
def test_a_variable_that_names_a_database_is_not_passed_over(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "5433")
    monkeypatch.setenv("JOBSWORTH_DATA_DIR", str(tmp_path))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    [problem] = caught.value.problems
    assert problem.name == variable
    assert "postgresql:///" in problem.remedy
    assert "embedded" in problem.remedy
    monkeypatch.setenv("JOBSWORTH_DATABASE_URL", "embedded")
    assert load_settings().database_url is None
    monkeypatch.setenv("JOBSWORTH_DATABASE_URL", "postgresql:///")
    assert load_settings().database_url == "postgresql:///"


def test_what_a_url_leaves_out_comes_from_the_variables(database_url: str) -> None:
    parts = urlsplit(database_url)
    options = dict(each.split("=") for each in parts.query.split("&"))
    env = {
        "PGHOST": options["host"].replace("%2F", "/"),
        "PGPORT": options["port"],
        "PGUSER": "postgres",
        "PGDATABASE": parts.path.removeprefix("/"),
    }
    ended = run_cli("jobs", url="postgresql:///", env=env)
    assert ended.returncode == 0, ended.stderr
    ended = run_cli("doctor", url="postgresql:///", env=env)
    assert f"/{env['PGDATABASE']}" in ended.stdout


def test_an_address_beside_the_host_of_the_url_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    monkeypatch.setenv("JOBSWORTH_DATABASE_URL", "postgresql://db.example.org/shop")
    with pytest.raises(SettingsError, match="PGHOSTADDR: would send connections"):
        load_settings()
    monkeypatch.setenv("JOBSWORTH_DATABASE_URL", "postgresql:///shop?hostaddr=192.0.2.7")
    load_settings()


def test_a_value_that_the_server_refuses_is_told_with_the_variable(database_url: str) -> None:
    ended = run_cli("jobs", url=database_url, env={"PGTZ": "nowhere"})
    assert ended.returncode == ExitCode.DATABASE
    assert "unset PGTZ" in ended.stderr
    ended = run_cli("jobs", url=database_url, env={"PGDATESTYLE": "German"})
    assert ended.returncode == 0, ended.stderr


def test_the_address_that_is_shown_is_the_one_that_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOST", "db.example.org")
    monkeypatch.setenv("PGPASSWORD", "secret")
    assert shown_url("postgresql:///shop") == "postgresql://db.example.org/shop"
