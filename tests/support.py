"""What tests share: bounded waiting, plain connections, the CLI and the daemon as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import anyio
import psycopg
from psycopg.rows import DictRow, dict_row

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.02
# What takes long is asked for less often: the asking would be half of what a machine does.
POLL_SECONDS_MAX = 0.1

T = TypeVar("T")
Record = dict[str, Any]


async def until(
    check: Callable[[], Awaitable[T]], seconds: float = 60, what: str | None = None
) -> T:
    """The first truthy answer of `check`; fails with the last one after `seconds`."""
    give_up = time.monotonic() + seconds
    while not (answer := await check()):
        if time.monotonic() > give_up:
            raise AssertionError(_late(what or _name(check), seconds, answer))
        await anyio.sleep(_pause(give_up - seconds))
    return answer


def until_sync(check: Callable[[], T], seconds: float = 60, what: str | None = None) -> T:
    """The first truthy answer of `check`; fails with the last one after `seconds`."""
    give_up = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > give_up:
            raise AssertionError(_late(what or _name(check), seconds, answer))
        time.sleep(_pause(give_up - seconds))
    return answer


def _pause(began: float) -> float:
    return min(POLL_SECONDS_MAX, POLL_SECONDS + (time.monotonic() - began) / 20)


def connect(url: str) -> psycopg.Connection[DictRow]:
    """A plain connection to the server itself: every statement commits, rows are dicts.

    A statement that waits for a lock of its own event loop's fails instead of waiting for ever.
    """
    return psycopg.Connection[DictRow].connect(
        direct_url(url), autocommit=True, row_factory=dict_row, options="-c lock_timeout=60s"
    )


def direct_url(url: str) -> str:
    """The same database without the PgBouncer of a test in between."""
    host = dict(parse_qsl(urlsplit(url).query)).get("host", "")
    address = Path(host) / "server"
    if "jobsworth-pgbouncer" not in host:
        return url
    return urlunsplit(urlsplit(url)._replace(query=address.read_text()))


def environment(url: str | None, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The surroundings of a process under test: no settings but `url` and those in `env`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JOBSWORTH_", "PG"))}
    clean["PYTHONPATH"] = str(ROOT)
    clean["JOBSWORTH_SPOOL_DIR"] = _spool_dir().name
    if url is not None:
        clean["JOBSWORTH_DATABASE_URL"] = url
    return clean | dict(env or {})


@cache
def _spool_dir() -> tempfile.TemporaryDirectory[str]:
    """Of this process and those it starts: none writes into the home of whoever runs the tests."""
    return tempfile.TemporaryDirectory(prefix="jobsworth-spool-")


def run_cli(
    *args: str,
    url: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """`jobsworth *args` in a process of its own, to its end."""
    from tests.chaos.nursery import the_nursery  # which is made of what is here

    return the_nursery().run(args, environment(url, env), stdin or "", seconds)


def start_worker(
    url: str | None,
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
) -> WorkerProcess:
    """`jobsworth worker` as a process; use the `workers` fixture, which also ends it.

    Its health endpoint takes any free port (`JOBSWORTH_HTTP_PORT=0`) unless `env` names one.
    """
    return WorkerProcess(
        ["worker", *args], environment(url, {"JOBSWORTH_HTTP_PORT": "0"} | dict(env or {}))
    )


class WorkerProcess:
    """A daemon under test: its log as records, and every way to hurt it."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        from tests.chaos.nursery import the_nursery  # which is made of what is here

        self._folder = tempfile.TemporaryDirectory(prefix="jobsworth-worker-")
        self._stderr = Path(self._folder.name) / "stderr"
        os.mkfifo(self._stderr)
        self._nursery = the_nursery()
        # A session of its own, so `end` reaches what it started and Ctrl-C reaches only pytest.
        files = (os.devnull, os.devnull, str(self._stderr))
        self._child = self._nursery.fork(arguments, env, files)
        self.pid = self._child.pid
        self._lines: list[str] = []
        self._records: list[Record] = []
        self._changed = threading.Condition()
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def lines(self) -> list[str]:
        """Everything it wrote to stderr so far, as it stands."""
        with self._changed:
            return list(self._lines)

    @property
    def records(self) -> list[Record]:
        """Its log records so far, oldest first."""
        with self._changed:
            return list(self._records)

    def events(self, event: str, **fields: object) -> list[Record]:
        """The records so far of this event with these fields."""
        return [record for record in self.records if _matches(record, event, fields)]

    def wait_for(self, event: str, seconds: float = 60, since: int = 0, **fields: object) -> Record:
        """The first record of `event` with these fields, waiting for it at most `seconds`.

        `since` skips that many records: pass `len(worker.records)` to wait for a later one.
        """
        give_up = time.monotonic() + seconds
        with self._changed:
            while True:
                for record in self._records[since:]:
                    if _matches(record, event, fields):
                        return record
                left = give_up - time.monotonic()
                if left <= 0 or self._closed:
                    raise AssertionError(self._missing(event, fields, seconds))
                self._changed.wait(left)

    def wait(self, seconds: float = 30) -> int:
        """Its exit code, once it has ended by itself; -9 after SIGKILL."""
        code = self._nursery.wait(self._child, seconds)
        if code is None:
            raise AssertionError(f"worker still runs after {seconds} s\n{self._tail()}")
        self._reader.join(timeout=5)
        return code

    def ended(self) -> bool:
        """Whether it has ended."""
        return self._nursery.wait(self._child, 0) is not None

    def tail(self, lines: int) -> str:
        """The last lines that it wrote to stderr."""
        with self._changed:
            return "\n".join(self._lines[-lines:])

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """SIGTERM; `wait` for what comes of it."""
        self._signal(signal.SIGTERM)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill whatever is left of it and of what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(10)
        self._folder.cleanup()

    def _signal(self, number: signal.Signals) -> None:
        if not self.ended():
            os.kill(self.pid, number)

    def _read(self) -> None:
        with self._stderr.open(errors="replace") as stderr:
            for line in stderr:
                record = _record(line)
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    if record is not None:
                        self._records.append(record)
                    self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _missing(self, event: str, fields: Mapping[str, object], seconds: float) -> str:
        wanted = " ".join([event, *(f"{name}={value!r}" for name, value in fields.items())])
        ended = (
            f"the worker ended ({self._nursery.wait(self._child, 0)})"
            if self._closed
            else f"{seconds} s"
        )
        return f"no log record {wanted} within {ended}\n{self._tail()}"

    def _tail(self) -> str:
        return "its last lines:\n" + self.tail(40)


class Workers:
    """Starts daemons and sees to their end."""

    def __init__(self) -> None:
        self._started: list[WorkerProcess] = []

    def start(
        self,
        url: str | None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
    ) -> WorkerProcess:
        worker = start_worker(url, env, args)
        self._started.append(worker)
        return worker

    def end(self) -> None:
        for worker in self._started:
            worker.end()


def _matches(record: Record, event: str, fields: Mapping[str, object]) -> bool:
    return record.get("event") == event and all(
        name in record and record[name] == value for name, value in fields.items()
    )


def _record(line: str) -> Record | None:
    try:
        record: object = json.loads(line)
    except ValueError:
        return None
    return cast(Record, record) if isinstance(record, dict) else None


def _name(check: Callable[..., object]) -> str:
    return getattr(check, "__qualname__", repr(check))


def _late(what: str, seconds: float, answer: object) -> str:
    return f"{what} did not come true within {seconds} s; last answer: {answer!r}"
