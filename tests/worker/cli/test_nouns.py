"""A noun alone lists, and every verb that is new with the nouns does what it says."""

from pathlib import Path
from uuid import uuid4

import pytest

from db.money.calls import CallStatus, Usage
from db.money.settlements import Settlement
from tests.support import connect, run_cli
from tests.worker.cli.support import cli_json, insert_job
from worker.cli.terminal.exit_codes import ExitCode
from worker.money.group_commit import Paid
from worker.money.spool_folder import SpoolFolder, folder_of

NOUNS = (
    *("job", "run", "queue", "approval", "webhook", "delivery", "deployment", "environment"),
    *("budget", "limit", "price", "spool", "schedule", "job-limit"),
)
WORKER = """
insert into jobsworth.workers (id, host, pid, modes, queues, slots, version)
values (gen_random_uuid(), 'tower', 7, array['greet'], array['default'], 3, '0')
"""


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_alone_lists(database_url: str, noun: str) -> None:
    assert cli_json(database_url, noun) == cli_json(database_url, noun, "list") == []


def test_a_noun_alone_takes_the_options_of_its_default_verb(database_url: str) -> None:
    insert_job(database_url, mode="a")
    insert_job(database_url, mode="b")
    assert [job["mode"] for job in cli_json(database_url, "job", "--mode", "a")] == ["a"]
    assert cli_json(database_url, "ledger", "--by", "model")["by"] == "model"
    assert cli_json(database_url, "books") == {"balanced": True, "imbalances": []}


def test_workers_are_listed(database_url: str) -> None:
    assert "jobsworth worker" in run_cli("worker", "list", url=database_url).stderr
    with connect(database_url) as conn:
        conn.execute(WORKER)
    [worker] = cli_json(database_url, "worker", "list")
    assert (worker["host"], worker["state"], worker["slots"]) == ("tower", "alive", 3)
    people = run_cli("worker", "list", url=database_url).stdout
    assert "tower:7" in people
    assert "greet" in people


def test_a_job_that_waits_for_its_time_is_run_now(database_url: str) -> None:
    job_id = insert_job(database_url, run_at="2199-01-01T00:00Z")
    now = run_cli("job", "run-now", job_id, url=database_url)
    assert now.stdout == f"job {job_id} is queued\n"
    again = run_cli("job", "run-now", job_id, url=database_url)
    assert again.returncode == ExitCode.CONFLICT
    assert "only a job that waits for its time" in again.stderr


def test_the_steps_of_a_job_are_listed(database_url: str) -> None:
    job_id = insert_job(database_url)
    assert "the job has no steps yet" in run_cli("step", "list", job_id, url=database_url).stderr
    with connect(database_url) as conn:
        conn.execute(
            "insert into jobsworth.steps (job_id, name, output, attempt, finished_at) "
            "values (%s, 'fetch', '[1]', 1, clock_timestamp())",
            [job_id],
        )
    assert cli_json(database_url, "step", "list", job_id)[0]["output"] == [1]
    assert "fetch" in run_cli("step", "list", job_id, url=database_url).stdout


def test_a_deployment_is_shown_with_its_report(database_url: str) -> None:
    with connect(database_url) as conn:
        row = conn.execute(
            "insert into jobsworth.deployments (environment, sha, status, report_text, finished_at)"
            " values ('staging', 'abc', 'failed', 'no such commit', now()) returning id"
        ).fetchone()
    assert row is not None
    shown = run_cli("deployment", "show", str(row["id"])[-12:], url=database_url).stdout
    for words in (str(row["id"]), "failed", "staging", "no such commit"):
        assert words in shown
    unknown = run_cli("deployment", "show", "abcdef", url=database_url)
    assert unknown.returncode == ExitCode.NOT_FOUND


def test_paid_answers_on_this_machine_are_listed(database_url: str, tmp_path: Path) -> None:
    env = {"JOBSWORTH_SPOOL_DIR": str(tmp_path)}
    folder = folder_of(tmp_path, database_url, tmp_path, "jobsworth")
    job_id = uuid4()
    paid = Paid(Settlement(uuid4(), CallStatus.OK, Usage(7, 3)), None)
    name = SpoolFolder(folder, 10_000).write(job_id, paid)
    [answer] = cli_json(database_url, "spool", env=env)
    assert answer == {"job_id": str(job_id), "file": str(folder / name)}
    people = run_cli("spool", url=database_url, env=env)
    assert str(job_id) in people.stdout
    assert "a worker on this machine settles them" in people.stderr
