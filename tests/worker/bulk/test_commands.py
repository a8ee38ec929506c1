"""`job cancel`, `retry`, `run-now`, `move` and `reprioritize` with a filter in place of an id."""

import pytest

from tests.support import connect, run_cli
from tests.worker.cli.support import cli_json, insert_job
from worker.cli.terminal.exit_codes import ExitCode

OPERATION = "select payload, priority from jobsworth.reactive_jobs where mode = 'bulk_operation'"


def test_a_dry_run_counts_shows_and_changes_nothing(database_url: str) -> None:
    ids = [insert_job(database_url, queue="q") for _ in range(12)]
    seen = run_cli("job", "cancel", "--queue", "q", "--dry-run", url=database_url)
    assert seen.stdout.startswith("12 jobs would be canceled\n")
    assert sum(job_id[-12:] in seen.stdout for job_id in ids) == 10
    document = cli_json(database_url, "job", "retry", "--queue", "q", "--dry-run")
    assert (document["jobs"], document["refused"]) == (0, {"is queued": 12})
    with connect(database_url) as conn:
        assert conn.execute(OPERATION).fetchall() == []


def test_a_filter_becomes_a_job(database_url: str) -> None:
    insert_job(database_url, queue="q")
    begun = cli_json(database_url, "job", "move", "--queue", "q", "--since", "1h", "--to", "r")
    assert (begun["jobs"], begun["status"]) == (1, "queued")
    with connect(database_url) as conn:
        [found] = conn.execute(OPERATION).fetchall()
    payload = found["payload"]
    assert (payload["operation"], payload["queue"], payload["expected"]) == ("move", "r", 1)
    assert set(payload["filter"]) == {"queue", "since"}


def test_one_job_is_changed_at_once(database_url: str) -> None:
    job_id = insert_job(database_url)
    moved = cli_json(database_url, "job", "reprioritize", job_id, "--to", "1")
    assert moved == {"id": job_id, "queue": "default", "priority": 1}
    again = run_cli("job", "reprioritize", job_id, "--to", "1", url=database_url)
    assert again.returncode == ExitCode.CONFLICT
    assert "has that priority already" in again.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["cancel"], "neither an id nor a filter is given"),
        (["cancel", "0123456789ab", "--mode", "x"], "both given"),
        (["retry", "--since", "-1h"], "-1h"),
        (["retry", "--since", "nan"], "nan"),
        (["retry", "--since", "99999999d"], "more than 100 years"),
        (["retry", "--payload", "[1]"], "JSON object"),
        (["retry", "--payload", "{}"], "the filter is empty"),
        (["retry", "--error", " "], "error is empty"),
        (["move", "--mode", "x", "--to", " "], "queue is empty"),
        (["reprioritize", "--mode", "x", "--to", "9"], "priority 9 is not 1 to 4"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(database_url: str, args: list[str], says: str) -> None:
    ended = run_cli("job", *args, url=database_url)
    assert (ended.returncode, says in ended.stderr) == (ExitCode.BAD_INPUT, True), ended.stderr
    assert "→" in ended.stderr


def test_a_mode_nobody_knows_is_named(database_url: str) -> None:
    ended = run_cli("job", "retry", "--mode", "nope", url=database_url)
    assert ended.returncode == 0
    assert "no job has the mode nope, and no living worker knows it" in ended.stderr
