"""A process that has imported everything and forks commands, so that a new one costs milliseconds.

In: requests, one JSON document a line. Out: pids and exit codes in the same form. What is born here
is what `jobsworth …` is: it runs the command line in a session, files, a working directory and an
environment of its own. All of them die with the nursery, and the nursery dies with the test run.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import POLL_SECONDS, ROOT, Record, environment

PRELOADED = (
    "genai_prices.data",
    "openai.lib.streaming.chat",
    "pydantic_ai.models.openai",
    "pydantic_ai.providers.openai",
    "worker.modes",
    "worker.cli.installation.doctor",
    "worker.cli.nouns.job",
    "worker.cli.nouns.worker",
    "worker.cli.run",
    "worker.daemon.daemon",
    "worker.llm.agents",
    "worker.web.app",
    "worker.web.server",
)
# A machine that is busy with other things takes this long to import everything.
START_SECONDS = 300.0


@pytest.fixture(scope="session")
def nursery() -> Nursery:
    """Forks daemons for all tests of the run."""
    return the_nursery()


@cache
def the_nursery() -> Nursery:
    """The one of this process; it ends with it."""
    return Nursery()


class Child(NamedTuple):
    """A forked process, by its number: a pid is soon given to another."""

    number: int
    pid: int


class Nursery:
    """The tests' side: asks for processes, and hears of their ends. Any thread may ask."""

    def __init__(self) -> None:
        self._kept = tempfile.TemporaryDirectory(prefix="jobsworth-nursery-")
        self._directory = Path(self._kept.name)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            env=environment(None),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._asking = threading.Lock()
        self._heard = threading.Condition()
        self._born: dict[int, Child] = {}
        self._codes: dict[int, int] = {}
        self._numbers = itertools.count(1)
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, url: str, env: Mapping[str, str]) -> Daemon:
        """Fork a `jobsworth worker` with these settings."""
        log = self._directory / f"{next(self._numbers)}.log"
        child = self.fork(["worker"], environment(url, env), (os.devnull, str(log), str(log)))
        return Daemon(self, child, log)

    def run(
        self, arguments: Sequence[str], env: Mapping[str, str], stdin: str, seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Fork a `jobsworth *arguments`, and wait for its end."""
        number = next(self._numbers)
        read, out, err = (self._directory / f"{number}.{name}" for name in ("in", "out", "err"))
        read.write_text(stdin)
        child = self.fork(arguments, env, (str(read), str(out), str(err)))
        code = self.wait(child, seconds)
        if code is None:
            os.killpg(child.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(arguments), seconds)
        return subprocess.CompletedProcess(list(arguments), code, out.read_text(), err.read_text())

    def fork(
        self, arguments: Sequence[str], env: Mapping[str, str], files: tuple[str, str, str]
    ) -> Child:
        """A new `jobsworth *arguments`, which reads and writes these three files."""
        number = next(self._numbers)
        request = {
            "number": number,
            "arguments": list(arguments),
            "env": dict(env),
            "directory": str(Path.cwd()),
            "files": files,
        }
        with self._asking:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        with self._heard:
            self._heard.wait_for(lambda: number in self._born, START_SECONDS)
            return self._born[number]

    def wait(self, child: Child, seconds: float) -> int | None:
        """The exit code of one of its processes (negative: the signal), None if it still runs."""
        with self._heard:
            self._heard.wait_for(lambda: child.number in self._codes, seconds)
            return self._codes.get(child.number)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._heard:
                if "pid" in said:
                    self._born[said["number"]] = Child(**said)
                else:
                    self._codes[said["number"]] = said["code"]
                self._heard.notify_all()


class Daemon:
    """A daemon out of the nursery: its log as records, and every way to hurt it."""

    def __init__(self, nursery: Nursery, child: Child, log: Path) -> None:
        self.pid = child.pid
        self.log = log
        self._child = child
        self._nursery = nursery
        self._read_bytes = 0
        self._records: list[Record] = []

    @property
    def records(self) -> list[Record]:
        """Its log records so far, oldest first."""
        if self.log.exists():
            with self.log.open("rb") as log:
                log.seek(self._read_bytes)
                whole, end, _ = log.read().rpartition(b"\n")
            self._read_bytes += len(whole) + len(end)
            self._records += [json.loads(line) for line in whole.splitlines() if line[:1] == b"{"]
        return list(self._records)

    def events(self, event: str, **fields: object) -> list[Record]:
        """The records so far of this event with these fields."""
        return [
            record
            for record in self.records
            if record["event"] == event and fields.items() <= record.items()
        ]

    def wait_for(self, event: str, seconds: float = 60, **fields: object) -> Record:
        """The first record of `event` with these fields, waiting for it at most `seconds`."""
        give_up = time.monotonic() + seconds
        while not (found := self.events(event, **fields)):
            assert time.monotonic() < give_up, f"no {event} {fields} in {seconds} s\n{self.tail()}"
            time.sleep(POLL_SECONDS)
        return found[0]

    def wait(self, seconds: float = 30) -> int:
        """Its exit code once it has ended; -9 after SIGKILL."""
        code = self._nursery.wait(self._child, seconds)
        assert code is not None, f"daemon still runs after {seconds} s\n{self.tail()}"
        return code

    @property
    def running(self) -> bool:
        return self._nursery.wait(self._child, 0) is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """SIGTERM; `wait` for what comes of it."""
        os.kill(self.pid, signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP, and wait until it stands still."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill whatever is left of it and of what it started."""
        if self.running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.wait()

    def tail(self) -> str:
        """The end of its log, for the message of a failing test."""
        lines = self.log.read_text(errors="replace").splitlines()
        return f"the last lines of daemon {self.pid}:\n" + "\n".join(lines[-30:])


def main() -> None:
    """The nursery's side: fork for each request, tell of each end, until stdin is closed."""
    for name in PRELOADED:
        importlib.import_module(name)
    _build()
    gc.freeze()
    ends = _pipe_of_ends()
    born: dict[int, int] = {}
    asked = b""
    while True:
        readable, _, _ = select.select([0, ends], [], [])
        if ends in readable:
            os.read(ends, 4096)
            _tell_ends(born)
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, asked = (asked + data).split(b"\n")
            for line in lines:
                _bear(json.loads(line), born)
    for pid in born:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _build() -> None:
    """What pydantic makes at its first use, which is a third of what a short-lived daemon does."""
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    ModelMessagesTypeAdapter.rebuild()
    ChatCompletion.model_rebuild()
    ChatCompletionChunk.model_rebuild()


def _pipe_of_ends() -> int:
    """A file descriptor that becomes readable when a child ends."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGCHLD, _wake)
    return read_end


def _wake(_number: int, _frame: object) -> None:
    """Its byte in the pipe is all that is wanted of the signal."""


def _tell_ends(born: dict[int, int]) -> None:
    while born:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _tell({"number": born.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _bear(request: dict[str, Any], born: dict[int, int]) -> None:
    pid = os.fork()
    if pid:
        born[pid] = request["number"]
        _tell({"number": request["number"], "pid": pid})
        return
    code = 70
    try:
        code = _live(request)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _live(request: dict[str, Any]) -> int:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    read, *written = request["files"]
    os.dup2(os.open(read, os.O_RDONLY), 0)
    for number, name in enumerate(written, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    # Those there are were made for other files.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["directory"])
    # As `python -m` has it.
    sys.path[0] = request["directory"]
    sys.path[1:1] = filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))
    from worker import crash_points
    from worker.cli.run import run

    importlib.reload(crash_points)  # they are armed by the environment at import
    return int(run(request["arguments"]))


def _tell(document: dict[str, int]) -> None:
    os.write(1, json.dumps(document).encode() + b"\n")


if __name__ == "__main__":
    main()
