"""Mistakes of users: each ends in a message with the thing and the remedy."""

import json
from pathlib import Path

import pytest

from tests.support import connect, run_cli
from tests.worker.cli.support import NOBODY, insert_approval, insert_job
from worker.cli.terminal.exit_codes import ExitCode

JOBS = "select count(*) as jobs from jobsworth.reactive_jobs"

# The arguments, stdin, and what the message has to say.
REFUSED = {
    "broken JSON": (
        ["enqueue", "greet", '{"a": 1,\n "b": }'],
        "",
        ["not JSON", "line 2", "column"],
    ),
    "no JSON": (["enqueue", "greet", "hello"], "", ["not JSON", "write an object"]),
    "empty payload": (["enqueue", "greet", " "], "", ["is empty"]),
    "a list": (["enqueue", "greet", "[1]"], "", ["must be a JSON object, not list"]),
    "a number": (["enqueue", "greet", "7"], "", ["must be a JSON object, not int"]),
    "no key": (
        ["enqueue", "greet", "--unique-for", "1h"],
        "",
        ["--unique-for is given without --unique-key"],
    ),
    "a NUL character": (["enqueue", "greet", '{"a": "\\u0000"}'], "", ["NUL", "base64"]),
    "a NUL byte": (["enqueue", "greet", "-"], '{"a":\n "\0"}', ["NUL byte", "line 2"]),
    "10 MB": (
        ["enqueue", "greet", "-"],
        json.dumps({"a": "x" * 10_000_000}),
        ["10,000,008 bytes", "at most 1,000,000", "artifact"],
    ),
    "no file": (["enqueue", "greet", "@/no/such"], "", ["/no/such", "No such file"]),
    "a folder": (["enqueue", "greet", "@/"], "", ["cannot be read", "Is a directory"]),
    "empty mode": (["enqueue", " "], "", ["mode is empty"]),
    "priority": (["enqueue", "greet", "--priority", "9"], "", ["priority 9", "1 is urgent"]),
    "no number": (["enqueue", "greet", "--priority", "high"], "", ["--priority"]),
    "no zone": (["enqueue", "greet", "--run-at", "2026-02-01T09:00"], "", ["no time zone"]),
    "no span": (["enqueue", "greet", "--delay", "soon"], "", ["--delay 'soon'", "1h30m"]),
    "both times": (
        ["enqueue", "greet", "--delay", "5", "--run-at", "2026-02-01T09:00Z"],
        "",
        ["--run-at and delay"],
    ),
    "no thread": (["enqueue", "greet", "--thread", "mine"], "", ["--thread 'mine'", "UUID"]),
    "failures": (["enqueue", "greet", "--failures-max", "0"], "", ["--failures-max 0"]),
    "timeout": (["enqueue", "greet", "--timeout", "0"], "", ["--timeout"]),
    "short id": (["why", "01a2"], "", ["too short", "at least 6 digits"]),
    "no id": (["job", "show", "the-last-one"], "", ["not the id of a job", "jobsworth job list"]),
    "long id": (["job", "show", "0" * 33], "", ["not the id of a job"]),
    "no status": (["jobs", "--status", "lost"], "", ["'lost' is not one of", "queued"]),
    "no policy": (["thread", "policy", "0" * 32, "now"], "", ["POLICY 'now' is not one of"]),
    "fair key": (["enqueue", "greet", "--fair-key", ""], "", ["fair_key is empty"]),
    "limit": (["jobs", "--limit", "100000"], "", ["--limit", "from 1 to 1,000"]),
    "since": (["ledger", "--since", "once"], "", ["--since 'once'", "7d"]),
    "no text": (["memory", "search", " "], "", ["is empty"]),
    "no environment": (["deployment", "start", "", "abc"], "", ["ENVIRONMENT ''"]),
    "watch as JSON": (["status", "--watch", "--json"], "", ["--watch and --json"]),
    "revision": (["migrate", "--to", "0815"], "", ["no revision '0815'", "head, base or one of"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_refused_before_the_database_is_asked(case: str) -> None:
    args, stdin, words = REFUSED[case]
    ended = run_cli(*args, url=NOBODY, stdin=stdin)
    assert ended.returncode == ExitCode.BAD_INPUT, ended.stderr
    assert ended.stdout == ""
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_queue_without_a_name_is_refused(database_url: str) -> None:
    ended = run_cli("queue", "pause", " ", url=database_url)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert "is not the name of a queue" in ended.stderr


def test_a_payload_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "payload.json"
    path.write_bytes(b'{"a":\n"\xff"}')
    ended = run_cli("enqueue", "greet", f"@{path}", url=NOBODY)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert f"{path} is not UTF-8 text: byte 8, in line 2" in ended.stderr


def test_the_payload_limit_is_a_setting() -> None:
    payload = json.dumps({"a": "x" * 2_000})
    env = {"JOBSWORTH_PAYLOAD_BYTES_MAX": "1000"}
    ended = run_cli("enqueue", "greet", payload, url=NOBODY, env=env)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert "at most 1,000 are allowed" in ended.stderr


@pytest.mark.parametrize(
    "command",
    ["why", "job show", "job cancel", "job retry", "job run-now", "approve", "reject", "run show"],
)
def test_an_unknown_id_is_not_found(database_url: str, command: str) -> None:
    ended = run_cli(*command.split(), "0123456789ab", url=database_url)
    assert ended.returncode == ExitCode.NOT_FOUND
    assert "0123456789ab" in ended.stderr
    assert "list them: jobsworth" in ended.stderr


def test_an_unknown_job_after_which_to_run_is_not_found(database_url: str) -> None:
    ended = run_cli("enqueue", "greet", "--after", "0123456789ab", url=database_url)
    assert ended.returncode == ExitCode.NOT_FOUND
    with connect(database_url) as conn:
        assert conn.execute(JOBS).fetchone() == {"jobs": 0}


def test_an_ambiguous_beginning_lists_the_candidates(database_url: str) -> None:
    twins = [f"01234567-89ab-7000-8000-00000000000{n}" for n in (1, 2)]
    for twin in twins:
        insert_job(database_url, twin)
    ended = run_cli("why", "01234567-89", url=database_url)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert "2 jobs have an id that begins or ends with 01234567-89" in ended.stderr
    for twin in twins:
        assert twin in ended.stderr
    assert "give more digits" in ended.stderr


@pytest.mark.usefixtures("unguarded")
def test_a_job_in_another_state_is_a_conflict(database_url: str) -> None:
    ended = "2026-02-01T09:00Z"
    job_id = insert_job(database_url)
    with connect(database_url) as conn:
        conn.execute(
            "update jobsworth.reactive_jobs set status = 'done', finished_at = %s", [ended]
        )
    for command in ("cancel", "retry"):
        refused = run_cli("job", command, job_id, url=database_url)
        assert refused.returncode == ExitCode.CONFLICT
        assert f"job {job_id} is done" in refused.stderr


def test_an_approval_is_decided_once(database_url: str) -> None:
    approval_id = insert_approval(database_url)
    assert run_cli("reject", approval_id, url=database_url).returncode == 0
    again = run_cli("approve", approval_id, url=database_url)
    assert again.returncode == ExitCode.CONFLICT
    assert "it is already rejected" in again.stderr


def test_a_decision_after_the_deadline_does_not_count(database_url: str) -> None:
    approval_id = insert_approval(database_url, deadline="2020-01-01T00:00Z")
    late = run_cli("approve", approval_id, url=database_url)
    assert late.returncode == ExitCode.CONFLICT
    assert "its deadline has passed, and reject was chosen" in late.stderr
    with connect(database_url) as conn:
        row = conn.execute("select status::text from jobsworth.approvals").fetchone()
    assert row == {"status": "expired"}


def test_one_of_several_ways_to_say_yes_must_be_named(database_url: str) -> None:
    approval_id = insert_approval(database_url, options=["small", "large", "reject"])
    unnamed = run_cli("approve", approval_id, url=database_url)
    assert unnamed.returncode == ExitCode.BAD_INPUT
    assert "several ways to say yes: small, large" in unnamed.stderr
    wrong = run_cli("approve", approval_id, "--option", "huge", url=database_url)
    assert wrong.returncode == ExitCode.BAD_INPUT
    assert "small, large, reject" in wrong.stderr
    assert run_cli("approve", approval_id, "--option", "large", url=database_url).returncode == 0


def test_every_wrong_setting_is_named_at_once() -> None:
    env = {"JOBSWORTH_SLOTZ": "3", "JOBSWORTH_POOL_MAX": "many"}
    ended = run_cli("jobs", url=NOBODY, env=env)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert "JOBSWORTH_SLOTZ: no such setting; did you mean JOBSWORTH_SLOTS?" in ended.stderr
    assert "JOBSWORTH_POOL_MAX=many" in ended.stderr
    assert "doctor --settings" in ended.stderr


def test_a_refused_setting_is_a_record_in_the_log_of_a_worker() -> None:
    ended = run_cli("worker", url=NOBODY, env={"JOBSWORTH_SLOTZ": "3"})
    assert ended.returncode == ExitCode.BAD_INPUT
    record = json.loads(ended.stderr.splitlines()[0])
    assert record["event"] == "settings.refused"
    assert "JOBSWORTH_SLOTZ" in record["problems"][0]


def test_an_environment_that_is_not_configured_is_refused(
    database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "deploy.toml"
    file.write_text(
        '[environments.staging]\nrepository = "/srv/site.git"\n'
        '[environments.staging.probe]\nurl = "http://127.0.0.1:1/"\n'
    )
    env = {"JOBSWORTH_DEPLOY_FILE": str(file)}
    ended = run_cli("deployment", "start", "stagging", "abc", url=database_url, env=env)
    assert ended.returncode == ExitCode.NOT_FOUND
    assert "'stagging' is not configured; known are: staging" in ended.stderr
    started = run_cli("deployment", "start", "staging", "abc", url=database_url, env=env)
    assert started.returncode == 0


def test_a_broken_deploy_toml_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "deploy.toml"
    file.write_text('[environments.staging]\nrepository = "/srv/site.git"\nbuild = "make"\n')
    ended = run_cli(
        *("deployment", "start", "staging", "abc"),
        url=NOBODY,
        env={"JOBSWORTH_DEPLOY_FILE": str(file)},
    )
    assert ended.returncode == ExitCode.BAD_INPUT
    assert f"{file}:3:" in ended.stderr
