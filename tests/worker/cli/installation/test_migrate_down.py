"""The way down drops data: a person confirms it, a script says --yes, no worker may be running."""

import os
import pty
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from db.migrate import HEAD, current
from db.schema import DEFAULT_SCHEMA
from tests.chaos.nursery import the_nursery
from tests.support import Workers, connect, environment, run_cli
from tests.worker.cli.support import NOBODY, cli_json, insert_job
from worker import events
from worker.cli.terminal.exit_codes import ExitCode

DOWN = ("migrate", "--to", "base")


def test_without_a_terminal_it_is_refused_with_the_remedy(database_url: str) -> None:
    job_id = insert_job(database_url)
    ended = run_cli(*DOWN, url=database_url)
    assert ended.returncode == ExitCode.CONFLICT
    assert "nothing was changed" in ended.stderr
    assert "every table of schema jobsworth" in ended.stderr
    assert "--yes" in ended.stderr
    assert ended.stdout == ""
    assert [job["id"] for job in cli_json(database_url, "jobs")] == [job_id]


def test_an_answer_out_of_a_pipe_is_no_persons_answer(database_url: str) -> None:
    ended = run_cli(*DOWN, url=database_url, stdin="jobsworth\n")
    assert ended.returncode == ExitCode.CONFLICT
    assert current(database_url, DEFAULT_SCHEMA) == HEAD


def test_without_a_terminal_yes_does_it(database_url: str) -> None:
    assert cli_json(database_url, *DOWN, "--yes") == {
        "schema": "jobsworth",
        "from": HEAD,
        "to": None,
    }
    assert current(database_url, DEFAULT_SCHEMA) is None


def test_nothing_is_asked_where_nothing_is_dropped(
    database_url: str, empty_database_url: str
) -> None:
    assert run_cli(*DOWN, url=empty_database_url).stdout == (
        "schema jobsworth is at nothing: nothing to do\n"
    )
    assert run_cli("migrate", "--to", HEAD, url=empty_database_url).returncode == 0
    assert run_cli("migrate", "--to", HEAD, url=database_url).returncode == 0


def test_on_a_terminal_the_name_of_the_schema_does_it(database_url: str, tmp_path: Path) -> None:
    with _asked(database_url, tmp_path) as (process, question):
        assert "This drops every table of schema jobsworth" in question
        process.say(b"jobsworth\n")
        assert process.wait() == (0, f"schema jobsworth went from revision {HEAD} to nothing\n")
    assert current(database_url, DEFAULT_SCHEMA) is None


@pytest.mark.parametrize("answer", [b"\n", b"yes\n", b"jobswort\n", b"\x04"])
def test_on_a_terminal_any_other_answer_changes_nothing(
    database_url: str, tmp_path: Path, answer: bytes
) -> None:
    with _asked(database_url, tmp_path) as (process, _):
        process.say(answer)
        assert process.wait() == (ExitCode.CONFLICT, "")
        assert "nothing was changed" in process.read(until="confirm")
    assert current(database_url, DEFAULT_SCHEMA) == HEAD


def test_ctrl_c_at_the_question_ends_it_at_once(database_url: str, tmp_path: Path) -> None:
    with _asked(database_url, tmp_path) as (process, _):
        process.interrupt()
        assert process.wait() == (ExitCode.INTERRUPTED, "")
    assert current(database_url, DEFAULT_SCHEMA) == HEAD


def test_on_a_terminal_yes_is_not_asked_again(database_url: str, tmp_path: Path) -> None:
    with _on_a_terminal(database_url, tmp_path, *DOWN, "--yes") as process:
        assert process.wait()[0] == 0
    assert current(database_url, DEFAULT_SCHEMA) is None


def test_a_running_worker_is_in_the_way_until_it_has_stopped(
    database_url: str, workers: Workers
) -> None:
    worker = workers.start(database_url)
    worker.wait_for(events.DAEMON_READY)
    for extra in ([], ["--yes"]):
        ended = run_cli(*DOWN, *extra, url=database_url)
        assert ended.returncode == ExitCode.CONFLICT
        assert "schema jobsworth is in use by a running worker" in ended.stderr
        assert f"process {worker.pid} on {os.uname().nodename}" in ended.stderr
        assert "SIGTERM" in ended.stderr
    assert current(database_url, DEFAULT_SCHEMA) == HEAD
    worker.terminate()
    assert worker.wait() == 0
    assert run_cli(*DOWN, "--yes", url=database_url).returncode == 0


def test_a_worker_counts_as_running_for_as_long_as_it_is_not_rescued(database_url: str) -> None:
    _insert_worker(database_url, seconds_ago=20)
    patient = {"JOBSWORTH_RESCUE_SECONDS": "60"}
    ended = run_cli(*DOWN, "--yes", url=database_url, env=patient)
    assert ended.returncode == ExitCode.CONFLICT
    assert "counts as running for 60 s" in ended.stderr
    assert run_cli(*DOWN, "--yes", url=database_url).returncode == 0


def test_of_many_workers_some_are_named_and_all_are_counted(database_url: str) -> None:
    for _ in range(7):
        _insert_worker(database_url)
    ended = run_cli(*DOWN, "--yes", url=database_url)
    assert "in use by 7 running workers" in ended.stderr
    assert ended.stderr.count("on far.example") == 5
    assert "and 2 more" in ended.stderr


def test_the_way_up_does_not_mind_workers(database_url: str) -> None:
    _insert_worker(database_url)
    assert run_cli("migrate", url=database_url).returncode == 0


def test_the_sql_of_the_way_down_is_only_printed() -> None:
    ended = run_cli(*DOWN, "--sql", "--since", HEAD, url=NOBODY)
    assert ended.returncode == 0
    assert "drop table" in ended.stdout.lower()


def _insert_worker(url: str, seconds_ago: float = 0) -> None:
    with connect(url) as conn:
        conn.execute(
            """
            insert into jobsworth.workers
              (id, host, pid, version, modes, queues, slots, beaten_at)
            values (%s, 'far.example', 7, '1', '{}', '{}', 1, now() - %s * interval '1 second')
            """,
            [uuid4(), seconds_ago],
        )


class Asked:
    """`jobsworth *args` whose standard input and error are a terminal."""

    def __init__(self, url: str, args: Sequence[str], folder: Path) -> None:
        self._nursery = the_nursery()
        self._person, self._program = pty.openpty()
        self._out = folder / "out"
        terminal = os.ttyname(self._program)
        self._child = self._nursery.fork(
            args, environment(url), (terminal, str(self._out), terminal)
        )

    def read(self, until: str) -> str:
        """What it says on the terminal up to these words."""
        seen = b""
        while until not in seen.decode():
            assert select.select([self._person], [], [], 60)[0], seen
            seen += os.read(self._person, 65_536)
        return seen.decode()

    def say(self, answer: bytes) -> None:
        os.write(self._person, answer)

    def interrupt(self) -> None:
        os.kill(self._child.pid, signal.SIGINT)

    def wait(self) -> tuple[int | None, str]:
        """Its exit code, and what it wrote to its standard output."""
        return self._nursery.wait(self._child, 60), self._out.read_text()

    def end(self) -> None:
        if self._nursery.wait(self._child, 0) is None:
            os.killpg(self._child.pid, signal.SIGKILL)
        os.close(self._program)
        os.close(self._person)


@contextmanager
def _asked(url: str, folder: Path) -> Iterator[tuple[Asked, str]]:
    """The process, and what it has said up to the question."""
    with _on_a_terminal(url, folder, *DOWN) as process:
        yield process, process.read(until="to go on: ")


@contextmanager
def _on_a_terminal(url: str, folder: Path, *args: str) -> Iterator[Asked]:
    process = Asked(url, args, folder)
    try:
        yield process
    finally:
        process.end()
