"""How errors are told to programs, and that no library speaks for itself."""

import json
import re
from typing import Any

import pytest

from tests.support import run_cli
from tests.worker.cli.support import NOBODY, cli_json, insert_job
from worker.cli.terminal.exit_codes import ExitCode

# Phrases and class names of pydantic, click, psycopg and Python.
LIBRARY = re.compile(
    r"Value error|Input should|<list\[|Traceback|Usage:|pydantic|psycopg|click\b|Invalid value"
    r"|KeyError|ValueError|None\b|\bstr\b"
)


def error_of(*args: str, url: str | None = NOBODY, env: dict[str, str] | None = None) -> Any:
    """The error that a command ends with as JSON, in the last line of stderr."""
    ended = run_cli(*args, "--json", url=url, env=env)
    assert ended.stdout == ""
    error = json.loads(ended.stderr.splitlines()[-1])["error"]
    assert error["exit_code"] == ended.returncode
    return error


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["jbos"], ExitCode.BAD_INPUT, "there is no command jobsworth jbos"),
        (["jobs", "--limit", "0"], ExitCode.BAD_INPUT, "--limit '0'"),
        (["job", "show"], ExitCode.BAD_INPUT, "ID is missing"),
        (["why", "xyz"], ExitCode.BAD_INPUT, "'xyz' is not the id of a job"),
        (["jobs"], ExitCode.DATABASE, "cannot be reached"),
    ],
)
def test_an_error_is_json_with_its_remedy(args: list[str], code: ExitCode, message: str) -> None:
    error = error_of(*args)
    assert error["exit_code"] == code
    assert message in error["message"]
    assert error["remedy"]


def test_an_ambiguous_id_lists_its_candidates_for_programs(database_url: str) -> None:
    twins = {f"01234567-89ab-7000-8000-00000000000{n}" for n in (1, 2)}
    for twin in twins:
        insert_job(database_url, twin)
    assert set(error_of("why", "01234567", url=database_url)["candidates"]) == twins


def test_settings_that_cannot_be_used_are_listed_for_programs() -> None:
    wrong = {"JOBSWORTH_SLOTZ": "3", "JOBSWORTH_POOL_MAX": "many"}
    error = error_of("jobs", env=wrong)
    assert set(error["settings"]) == set(wrong)
    assert "doctor --settings" in error["remedy"]


def test_words_after_a_double_dash_are_no_option() -> None:
    ended = run_cli("why", "--", "--json", url=NOBODY)
    assert ended.stderr.startswith("error: '--json' is not the id of a job")


def test_a_problem_of_the_doctor_is_told_on_stdout(database_url: str) -> None:
    report = cli_json(NOBODY, "doctor", code=ExitCode.NO)
    assert report["ok"] is False


@pytest.mark.parametrize(
    "args",
    [
        ["jobs", "--limit", "many"],
        ["jobs", "--status"],
        ["enqueue", "greet", "--priority", "high"],
        ["enqueue", "greet", "--failures-max", "x"],
        ["enqueue", "greet", '{"a": '],
        ["enqueue"],
        ["signal", "send", "0123456789ab", "paid", "{"],
        ["run", "start", "/no/such/file"],
        ["run", "fork", "0123456789ab", "--change", "x"],
        ["budget", "set", "x", "--money", "much"],
        ["budget", "set", "x", "--money", "1", "--agent", "me"],
        ["limit", "set", "a", "--requests", "-1"],
        ["price", "set", "a", "b", "--input", "1", "--output", "x"],
        ["webhook", "add", "nowhere", "--event", "lunch"],
        ["worker", "--slots", "none"],
        ["approve", "0123456789ab", "--edit", "@/"],
    ],
    ids=" ".join,
)
def test_no_library_speaks_to_the_user(args: list[str]) -> None:
    ended = run_cli(*args, url=NOBODY)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert not LIBRARY.search(ended.stderr), ended.stderr
    assert ended.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOBSWORTH_HANDLERS", '["a"'),
        ("JOBSWORTH_HANDLERS", "a-b"),
        ("JOBSWORTH_QUEUES", "[1, 2]"),
        ("JOBSWORTH_SLOTS", "many"),
        ("JOBSWORTH_SLOTS", "0"),
        ("JOBSWORTH_LOG_LEVEL", "loud"),
        ("JOBSWORTH_SCHEMA", "pg_mine"),
        ("JOBSWORTH_SCHEMA", "Mine!"),
        ("JOBSWORTH_DATABASE_URL", "nonsense"),
        ("JOBSWORTH_MODEL", "gpt"),
        ("JOBSWORTH_WEBHOOK_SECRET", "short"),
        ("JOBSWORTH_INSTRUCTIONS", "x" * 30_000),
    ],
)
def test_no_library_speaks_of_a_setting(name: str, value: str) -> None:
    ended = run_cli("jobs", env={name: value})
    assert ended.returncode == ExitCode.BAD_INPUT
    assert not LIBRARY.search(ended.stderr), ended.stderr
    assert name in ended.stderr
