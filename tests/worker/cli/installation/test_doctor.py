"""`jobsworth doctor`: findings, their marks and their remedies."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from db.diagnosis.checkup import Server
from db.money.calls import CallStatus, Usage
from db.money.settlements import Settlement
from tests.support import connect, run_cli
from tests.worker.cli.support import cli_json, insert_job
from worker.cli.installation.database_checks import check_database
from worker.cli.installation.server_checks import judge_server
from worker.cli.terminal.exit_codes import ExitCode
from worker.money.group_commit import Paid
from worker.money.spool_folder import SpoolFolder, folder_of
from worker.settings import load_settings, settings_reference


def findings(
    url: str, subject: str, code: int = 0, env: Mapping[str, str] | None = None
) -> list[dict[str, str]]:
    """What the doctor finds about one subject; it must end with `code`."""
    report = cli_json(url, "doctor", code=code, env=env)
    assert report["ok"] == (code == 0)
    return [each for each in report["findings"] if each["subject"] == subject]


@pytest.mark.both
def test_a_sound_installation_has_no_problem(database_url: str) -> None:
    report = cli_json(database_url, "doctor")
    assert report["ok"] is True
    marks = {each["subject"]: each["mark"] for each in report["findings"]}
    assert marks == {
        **dict.fromkeys(
            (
                *("settings", "model", "database", "server", "pgvector", "clock", "snapshots"),
                *("schema", "spool"),
                *("rights", "connections"),
                *("writes", "modes", "violations", "books", "memory", "webhooks"),
            ),
            "ok",
        ),
        "workers": "warning",
    }


def test_people_see_a_mark_a_reason_and_a_remedy(database_url: str) -> None:
    ended = run_cli("doctor", url=database_url)
    assert ended.returncode == 0
    assert "✓  violations   none" in ended.stdout
    assert (
        "!  workers      no worker is alive\n                → start one: jobsworth worker"
        in ended.stdout
    )
    assert ended.stdout.endswith("no problems, 1 warning\n")


def test_an_unknown_setting_is_a_problem_and_the_rest_is_still_looked_at(database_url: str) -> None:
    report = cli_json(database_url, "doctor", code=ExitCode.NO, env={"JOBSWORTH_SLOTZ": "3"})
    marks = {each["subject"]: each["mark"] for each in report["findings"]}
    assert marks["settings"] == "problem"
    assert marks["violations"] == "ok"


def test_unusable_settings_end_the_check_before_the_database(database_url: str) -> None:
    report = cli_json(database_url, "doctor", code=ExitCode.NO, env={"JOBSWORTH_SLOTS": "many"})
    assert [each["subject"] for each in report["findings"]] == ["settings", "database"]
    assert "cannot be used" in report["findings"][1]["text"]


def test_ready_jobs_of_an_unknown_mode_are_named(database_url: str) -> None:
    insert_job(database_url, mode="dance")
    [mode] = findings(database_url, "modes")
    assert mode["mark"] == "warning"
    assert "1 job of mode dance" in mode["text"]


def test_a_silent_worker_is_named(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute(
            "insert into jobsworth.workers "
            "(id, host, pid, version, modes, queues, slots, beaten_at) "
            "values (gen_random_uuid(), 'tower', 7, '1', '{}', '{}', 1, now() - interval '1 hour')"
        )
    found = findings(database_url, "workers")
    assert "no worker is alive" in found[0]["text"]
    assert "tower, process 7, has been silent for 60 min" in found[1]["text"]


def test_a_missing_extension_is_a_problem(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute("drop extension vector cascade")
    [pgvector] = findings(database_url, "pgvector", code=ExitCode.NO)
    assert pgvector["mark"] == "problem"
    assert "not created in this database" in pgvector["text"]


def test_books_that_do_not_balance_are_a_problem(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute(
            "insert into jobsworth.llm_calls (provider, model, request_id) values ('a', 'b', 'c')"
        )
    [books] = findings(database_url, "books", code=ExitCode.NO)
    assert "a call has one reservation" in books["text"]


def test_texts_that_fail_to_be_embedded_are_a_warning(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute("insert into jobsworth.memories (source_kind, text) values ('note', 'x')")
        conn.execute("update jobsworth.embedding_outbox set last_error = 'no route'")
    [memory] = findings(database_url, "memory")
    assert memory["mark"] == "warning"
    assert "1 of them were put off" in memory["text"]


def test_paid_answers_on_this_machine_are_counted(database_url: str, tmp_path: Path) -> None:
    env = {"JOBSWORTH_SPOOL_DIR": str(tmp_path / "spool")}
    [spool] = findings(database_url, "spool", env=env)
    assert (spool["mark"], spool["text"]) == ("ok", "no paid answer waits on this machine")
    assert list(tmp_path.iterdir()) == []

    here = folder_of(tmp_path / "spool", database_url, tmp_path, "jobsworth")
    other = folder_of(tmp_path / "spool", database_url, tmp_path, "other")
    for folder in (here, other):
        paid = Paid(Settlement(uuid4(), CallStatus.OK, Usage(7, 3)), None)
        SpoolFolder(folder, 10_000).write(uuid4(), paid)
    (here / "notes.txt").touch()
    answers, strange, elsewhere = findings(database_url, "spool", env=env)
    assert f"1 paid answer in {here} not in the database yet" in answers["text"]
    assert "notes.txt does not belong to the spool" in strange["text"]
    assert f"{other} holds paid answers for another database or schema" in elsewhere["text"]
    assert {each["mark"] for each in (answers, strange, elsewhere)} == {"warning"}


def test_a_spool_that_cannot_be_written_is_a_warning(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [spool] = findings(database_url, "spool", env={"JOBSWORTH_SPOOL_DIR": f"{tmp_path}/file/x"})
    assert spool["mark"] == "warning"
    assert "cannot be written" in spool["text"]


async def test_an_old_transaction_is_named_with_its_process(database_url: str) -> None:
    settings = load_settings(database_url=database_url)
    with psycopg.connect(database_url, application_name="night report") as conn:
        conn.execute("select 1")
        report = await check_database(settings, transaction_seconds_max=0.0)
        [snapshots] = [each for each in report if each.subject == "snapshots"]
        assert snapshots.mark == "warning"
        assert (
            f"process {conn.info.backend_pid}, night report, idle in transaction" in snapshots.text
        )
        assert str(conn.info.backend_pid) in snapshots.remedy


def server(**changes: object) -> Server:
    facts: dict[str, object] = {
        "version": "18.1",
        "version_number": 180_001,
        "database": "d",
        "role": "r",
        "in_recovery": False,
        "read_only": False,
        "pgvector": "0.8.4",
        "pgvector_available": "0.8.4",
        "clock": datetime.now(UTC),
    }
    return Server.model_validate(facts | changes)


@pytest.mark.parametrize(
    ("changes", "subject", "mark"),
    [
        ({"version_number": 160_000}, "server", "ok"),
        ({"version": "15.9", "version_number": 150_009}, "server", "problem"),
        ({"pgvector": "0.8.4"}, "pgvector", "ok"),
        ({"pgvector": "0.10.0"}, "pgvector", "ok"),
        ({"pgvector": "0.8.3"}, "pgvector", "warning"),
        ({"pgvector": None}, "pgvector", "problem"),
        ({"pgvector": None, "pgvector_available": None}, "pgvector", "problem"),
        ({"clock": datetime.now(UTC) - timedelta(days=1)}, "clock", "warning"),
        ({"clock": datetime.now(UTC) + timedelta(days=1)}, "clock", "warning"),
        ({}, "clock", "ok"),
    ],
)
def test_servers_are_judged(changes: dict[str, object], subject: str, mark: str) -> None:
    """Servers that a test cannot start: too old, without pgvector, with another clock."""
    found = judge_server(server(**changes), "postgresql://h/d", embedded=False)
    assert {each.subject: each.mark for each in found}[subject] == mark


def test_the_reference_has_every_setting(database_url: str) -> None:
    reference = cli_json(database_url, "doctor", "--settings")
    assert [each["env_name"] for each in reference] == [
        each.env_name for each in settings_reference()
    ]
    people = run_cli("doctor", "--settings").stdout
    for each in settings_reference():
        assert each.env_name in people
