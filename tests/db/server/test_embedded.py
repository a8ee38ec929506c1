"""The embedded server: shared by processes, outliving any one of them, never by accident."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from db.errors import ExtraMissing
from db.server.cluster import LOG_BYTES_MAX
from db.server.embedded import Embedded, EmbeddedError, start
from tests.support import connect, environment

FAST = {"fsync": "off", "shared_buffers": "16MB"}

USER = """
import sys
from pathlib import Path
from db.server.embedded import start
import psycopg

server = start(Path(sys.argv[1]), int(sys.argv[2]), {"fsync": "off", "shared_buffers": "16MB"})

def answer():
    with psycopg.connect(server.url) as conn:
        return conn.execute("select 'answered'").fetchone()[0]

print(answer(), flush=True)
for line in sys.stdin:
    if line == "close\\n":
        break
    print(answer(), flush=True)
server.close()
"""

FORKING_USER = """
import os, sys, time
from pathlib import Path
from db.server.embedded import start

server = start(Path(sys.argv[1]), int(sys.argv[2]), {"fsync": "off", "shared_buffers": "16MB"})
child = os.fork()
if child == 0:
    server.close()
    time.sleep(600)
print(child, flush=True)
sys.stdin.read()
"""


class User:
    """Another process that uses the server."""

    def __init__(self, data_dir: Path, major: int, program: str = USER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(data_dir), str(major)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(None),
        )
        self._bound = threading.Timer(60, self.process.kill)
        self._bound.start()

    def line(self) -> str:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline().strip()
        assert line, self.process.stderr.read()
        return line

    def works(self) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return self.line() == "answered"

    def close(self) -> None:
        _, errors = self.process.communicate("close\n", timeout=60)
        assert self.process.returncode == 0, errors

    def kill(self) -> None:
        self._bound.cancel()
        self.process.kill()
        self.process.wait(10)
        # Not `communicate`: a child of it may hold the other ends.
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()


StartUser = Callable[..., User]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="jobsworth-test-", dir="/tmp"))
    yield path
    _stop(path)
    shutil.rmtree(path)


@pytest.fixture
def another(data_dir: Path, major: int) -> Iterator[StartUser]:
    """Starts another process that uses the server."""
    users: list[User] = []

    def start_user(program: str = USER) -> User:
        users.append(User(data_dir, major, program))
        return users[-1]

    yield start_user
    for user in users:
        user.kill()


@pytest.mark.both
def test_what_is_written_is_there_at_the_next_start(data_dir: Path, major: int) -> None:
    with start(data_dir, major, FAST) as server, connect(server.url) as conn:
        conn.execute("create table kept as select 42 as answer")
        assert conn.info.server_version // 10_000 == major
    assert not server.running()
    with start(data_dir, major, FAST) as server, connect(server.url) as conn:
        assert conn.execute("select answer from kept").fetchall() == [{"answer": 42}]


@pytest.mark.both
def test_a_crashed_server_recovers_what_was_committed(data_dir: Path, major: int) -> None:
    with start(data_dir, major, FAST) as server:
        with connect(server.url) as conn:
            conn.execute("create table kept as select generate_series(1, 10000) as n")
        before = _server_pid(server)
        server.restart("immediate")
        assert _server_pid(server) != before
        with connect(server.url) as conn:
            assert conn.execute("select count(*) as n from kept").fetchone() == {"n": 10_000}


def test_a_stopped_server_can_be_started_again(data_dir: Path) -> None:
    with start(data_dir, config=FAST) as server:
        server.stop()
        assert not server.running()
        server.stop()
        server.restart()
        assert server.running()


def test_processes_starting_at_the_same_instant_share_one_server(
    data_dir: Path, another: StartUser
) -> None:
    users = [another() for _ in range(4)]
    assert [user.line() for user in users] == ["answered"] * 4
    for user in users[:-1]:
        user.close()
    assert users[-1].works()
    users[-1].close()
    assert not Embedded(data_dir).running()


def test_kill_9_of_the_one_who_started_it_leaves_the_others_working(
    data_dir: Path, another: StartUser
) -> None:
    first = another()
    assert first.line() == "answered"
    second = another()
    assert second.line() == "answered"
    first.kill()
    assert second.works()
    second.close()
    assert not Embedded(data_dir).running()


def test_a_server_left_by_a_killed_user_is_used_by_the_next(
    data_dir: Path, another: StartUser
) -> None:
    last = another()
    assert last.line() == "answered"
    last.kill()
    left = Embedded(data_dir)
    assert left.running()
    pid = _server_pid(left)
    with start(data_dir, config=FAST) as server:
        assert _server_pid(server) == pid
    assert not server.running()


def test_a_forked_child_neither_keeps_the_server_nor_stops_it(
    data_dir: Path, another: StartUser
) -> None:
    parent = another(FORKING_USER)
    child = int(parent.line())
    try:
        with start(data_dir, config=FAST) as server:
            assert server.running()
        assert server.running(), "the parent still uses it"
        parent.kill()
        with start(data_dir, config=FAST) as server:
            assert server.running()
        assert not server.running(), "the child of a killed user does not"
    finally:
        os.kill(child, signal.SIGKILL)


def test_two_users_in_one_process_count_as_two(data_dir: Path) -> None:
    with start(data_dir, config=FAST) as first:
        with start(data_dir, config=FAST) as second:
            assert second.running()
        assert first.running()
    assert not first.running()
    first.close()


def test_ctrl_c_in_the_terminal_of_its_user_does_not_reach_the_server(data_dir: Path) -> None:
    with start(data_dir, config=FAST) as server:
        assert os.getsid(_server_pid(server)) != os.getsid(0)


def test_it_listens_on_a_private_socket_only(data_dir: Path) -> None:
    with start(data_dir, config=FAST) as server, connect(server.url) as conn:
        row = conn.execute(
            "select current_setting('listen_addresses') as tcp,"
            " current_setting('unix_socket_directories') as directory"
        ).fetchone()
        assert row is not None
        assert row["tcp"] == ""
        assert Path(row["directory"]).stat().st_mode & 0o777 == 0o700


def test_it_brings_a_pgvector_that_does_not_corrupt_its_indexes(data_dir: Path) -> None:
    with start(data_dir, config=FAST) as server, connect(server.url) as conn:
        conn.execute("create extension vector")
        row = conn.execute(
            "select string_to_array(extversion, '.')::int[] >= '{0,8,4}' as good"
            " from pg_extension where extname = 'vector'"
        ).fetchone()
        assert row == {"good": True}


def test_its_programs_take_its_url(data_dir: Path) -> None:
    with start(data_dir, config=FAST) as server:
        done = subprocess.run(
            [server.bin("psql"), server.url, "-Atc", "select current_database()"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "jobsworth\n"
        with pytest.raises(
            EmbeddedError, match=r"program pg_nothing: .* has no program of that name"
        ):
            server.bin("pg_nothing")


@pytest.mark.parametrize("name", ["with space", "it's, odd % é"])
def test_any_data_directory_will_do(data_dir: Path, name: str) -> None:
    with start(data_dir / name, config=FAST) as server, connect(server.url) as conn:
        assert conn.execute("select 1 as one").fetchone() == {"one": 1}
    assert not server.running()


def test_a_path_too_long_for_a_socket_gets_a_short_one_while_it_runs(data_dir: Path) -> None:
    with start(data_dir / ("long-" * 30), config=FAST) as server:
        host = conninfo_to_dict(server.url)["host"]
        assert isinstance(host, str)
        assert Path(host).parent == Path("/tmp")
        assert Path(host).stat().st_mode & 0o777 == 0o700
    assert not Path(host).exists()


def test_the_users_postgres_variables_do_not_reach_it(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGDATABASE": "other"}.items():
        monkeypatch.setenv(name, value)
    with start(data_dir, config=FAST) as server, connect(server.url) as conn:
        assert conn.info.dbname == "jobsworth"


def test_a_pid_file_naming_another_program_does_not_stop_it(data_dir: Path) -> None:
    with start(data_dir, config=FAST) as server:
        pid_file = data_dir / f"pg{server.major}" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        server.stop()
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        pid_file.write_text("\n".join([str(sleeper.pid), *lines[1:]]) + "\n")
        with start(data_dir, config=FAST) as server:
            assert server.running()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_half_made_cluster_is_thrown_away(data_dir: Path) -> None:
    (data_dir / "init-killed").mkdir()
    (data_dir / "init-killed" / "PG_VERSION").write_text("18\n")
    with start(data_dir, config=FAST) as server:
        assert server.running()
    assert not (data_dir / "init-killed").exists()


def test_a_grown_log_is_put_aside_at_the_next_start(data_dir: Path) -> None:
    with start(data_dir, config=FAST):
        pass
    os.truncate(data_dir / "log", LOG_BYTES_MAX + 1)
    with start(data_dir, config=FAST):
        pass
    assert (data_dir / "log").stat().st_size < LOG_BYTES_MAX
    assert (data_dir / "log.old").stat().st_size == LOG_BYTES_MAX + 1


def test_the_log_holds_no_statement_that_failed(data_dir: Path) -> None:
    with start(data_dir, config=FAST) as server, connect(server.url) as conn:
        conn.execute("create table unique_texts (body text unique)")
        conn.execute("insert into unique_texts values ('a secret prompt')")
        with pytest.raises(Exception, match="unique"):
            conn.execute("insert into unique_texts values ('a secret prompt')")
    log = (data_dir / "log").read_text()
    assert "duplicate key" in log
    assert "secret" not in log


def test_a_server_that_does_not_start_shows_its_last_words(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError) as refused:
        start(data_dir, config={"fsync": "off", "shared_buffers": "much"})
    assert "does not start" in str(refused.value)
    assert 'invalid value for parameter "shared_buffers": "much"' in str(refused.value)
    assert str(data_dir / "log") in str(refused.value)
    assert "JOBSWORTH_DATABASE_URL" in refused.value.remedy


def test_data_of_another_version_are_refused(data_dir: Path) -> None:
    (data_dir / "pg16").mkdir()
    (data_dir / "pg16" / "PG_VERSION").write_text("16\n")
    with pytest.raises(
        EmbeddedError, match=r"its data belong to PostgreSQL 16, not 18 \(.*pg_dump"
    ):
        start(data_dir, 18, FAST)
    assert not (data_dir / "pg18").exists()


def test_a_directory_that_cannot_be_written_is_named(data_dir: Path) -> None:
    (data_dir / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"file/db: it cannot be written: Not a directory \("):
        start(data_dir / "file" / "db")


def test_a_directory_that_a_shell_would_misread_is_refused(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match="passes its path to a shell"):
        start(data_dir / "$HOME")


def test_an_unknown_version_is_refused(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"PostgreSQL 9: .*no such version \(use one of 16, 18"):
        start(data_dir, 9)


def test_a_missing_wheel_is_named(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    with pytest.raises(ExtraMissing, match=r"pip install 'jobsworth\[embedded\]'"):
        start(data_dir)


def _server_pid(server: Embedded) -> int:
    pid_file = server.data_dir / f"pg{server.major}" / "postmaster.pid"
    return int(pid_file.read_text().splitlines()[0])


# What a failed test left running; the majors each see only their own.
def _stop(data_dir: Path) -> None:
    for pid_file in data_dir.rglob("postmaster.pid"):
        os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGQUIT)
