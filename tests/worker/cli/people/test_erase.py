"""`jobsworth erase`: it shows first, and proves afterwards."""

import re
import signal

import pytest

from db.server.embedded import Embedded
from tests.support import WorkerProcess, connect, environment, run_cli, until_sync
from tests.worker.cli.support import cli_json
from worker.cli.terminal.exit_codes import ExitCode


def test_an_erasure_is_shown_first_and_proven_afterwards(database_url: str) -> None:
    cli_json(database_url, "user", "save", "telegram:4711", "--name", "Ada")
    opened = cli_json(database_url, "session", "create", "--user", "telegram:4711")
    asked = '{"question": "a question that nobody else would ask"}'
    job = cli_json(database_url, "enqueue", "answer", asked, "--session", opened["id"])
    shown = run_cli("erase", "user", "telegram:4711", url=database_url)
    assert (shown.returncode, "nothing is erased yet" in shown.stderr) == (0, True)
    assert [line.split() for line in shown.stdout.splitlines()[1:]] == [
        ["reactive_jobs", "1", "leave"],
        ["sessions", "1", "leave"],
        ["users", "1", "leave"],
    ]
    copy = cli_json(database_url, "enqueue", "answer", asked)
    done = run_cli("erase", "user", "telegram:4711", "--yes", url=database_url)
    assert done.returncode == ExitCode.NO, done  # another's job has the same words
    assert "not looked for  Ada (too short)" in done.stdout
    assert " columns of " in done.stdout
    assert done.stdout.splitlines()[-1] == f"  reactive_jobs.payload: 1 row: {copy['id']}"
    left = {each["id"] for each in cli_json(database_url, "jobs")}
    assert (job["id"] in left, copy["id"] in left) == (False, True)
    for words, message, code in (
        (("user", "telegram:4711"), "there is no user 'telegram:4711'", ExitCode.NOT_FOUND),
        (("session", opened["id"]), "and nothing that names it", ExitCode.NOT_FOUND),
        (("thread", "nonsense"), "THREAD 'nonsense' is not a UUID", ExitCode.BAD_INPUT),
    ):
        refused = run_cli("erase", *words, "--yes", url=database_url)
        assert (refused.returncode, message in refused.stderr) == (code, True), refused.stderr


def test_an_erasure_that_is_killed_after_its_commit_is_proven_by_the_next_one(
    database_url: str,
) -> None:
    cli_json(database_url, "user", "save", "telegram:4711", "--name", "Ada Lovelace")
    opened = cli_json(database_url, "session", "create", "--user", "telegram:4711")
    asked = '{"question": "a question that nobody else would ask"}'
    cli_json(database_url, "enqueue", "answer", asked, "--session", opened["id"])
    again = ("erase", "user", "telegram:4711")
    at = {"JOBSWORTH_CRASH_POINT": "erase.committed"}
    killed = run_cli(*again, "--yes", url=database_url, env=at)
    assert killed.returncode == -signal.SIGKILL, killed
    with connect(database_url) as conn:
        left = conn.execute("select count(*) as left from jobsworth.users").fetchone()
        assert left == {"left": 0}
        # Somebody else wrote it down before the proof.
        copy = cli_json(database_url, "enqueue", "answer", asked)
        shown = run_cli(*again, url=database_url)
        assert (shown.returncode, "without its proof" in shown.stderr) == (ExitCode.CONFLICT, True)
        assert "without its proof" in run_cli("doctor", url=database_url).stdout
        proven = run_cli(*again, "--yes", url=database_url)
        assert proven.returncode == ExitCode.NO, proven
        assert proven.stdout.splitlines()[-1] == f"  reactive_jobs.payload: 1 row: {copy['id']}"
        for table in ("reactive_jobs", "sessions", "users"):
            assert re.search(rf"^{table} +1  left$", proven.stdout, re.MULTILINE), proven.stdout
        assert conn.execute("select from jobsworth.unproven_erasures").fetchall() == []
    gone = run_cli(*again, "--yes", url=database_url)
    assert gone.returncode == ExitCode.NOT_FOUND


@pytest.mark.own_server
def test_an_erasure_comes_to_its_proof_though_the_database_stops_in_between(
    database_url: str, server: Embedded
) -> None:
    cli_json(database_url, "user", "save", "telegram:4711", "--name", "Ada")
    older, conn = connect(database_url), connect(database_url)
    older.execute("begin; select pg_current_xact_id()")
    command = WorkerProcess(["erase", "user", "telegram:4711", "--yes"], environment(database_url))
    users = "select count(*) as left from jobsworth.users"
    until_sync(lambda: conn.execute(users).fetchone() == {"left": 0})
    server.restart()
    try:
        assert command.wait(120) == ExitCode.OK
        assert "it is erased; the proof waits for the database" in command.tail(5)
    finally:
        command.end()
