"""A contender and the protocol that its adapter speaks.

An adapter is a program in the contender's own language and environment. Its standard output is
lines of JSON, everything else goes to standard error; all instants are nanoseconds of the system's
monotonic clock, which the processes of one machine share:

    setup URL             install the schema in an empty database
    bulk URL N            enqueue N no-op jobs by the bulk API; prints {"seconds": s}
    single URL N          enqueue N no-op jobs one by one over one connection; prints {"seconds": s}
    trickle URL N MS      enqueue N "pickup" jobs, one about every MS milliseconds (+-20 %), with
                          the payload {"t": now}, taken just before the call
    work URL N [--small]  one worker process; --small: one job at a time. Prints {"ready": true}
                          when it is about to fetch, {"ran": N, "first": ns, "last": ns} after N
                          handlers; on SIGTERM it stops, and prints {"delays_us": [...]} last, if it
                          ran pickup jobs

`first` is when the first handler started, `last` when the last one ended. Whether a job is also
acknowledged is asked of the database (`left_sql`), from the outside.
"""

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import psycopg

from bench.server import tree_cpu_seconds

ROOT = Path(__file__).resolve().parent.parent
JOBS_MAX = 20_000
COMMAND_SECONDS_MAX = 300.0
READY_SECONDS_MAX = 60.0
RUN_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 15.0
SETTLED_POLL_SECONDS = 0.002

Report = dict[str, Any]
"""One line of an adapter."""


class ContenderError(Exception):
    """An adapter failed, hung, or broke the protocol."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the programs that are compared."""

    name: str
    version: str
    command: tuple[str, ...]
    """How its adapter is called; the protocol's words come behind."""
    settings: Mapping[str, object]
    left_sql: str
    """A query: is anything still to be done (queued, running, or not acknowledged)?"""
    note: str = ""
    jobs_max: int = JOBS_MAX
    """How many jobs a drain or a bulk enqueue of it has at most: slow ones get fewer."""


class Work:
    """A worker process that has been started and is ready."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process = process
        self._errors = errors
        self._lines: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._last: Report = {}
        # A thread reads, so that an adapter never blocks on its output.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        self._wait_for("ready", READY_SECONDS_MAX)

    def wait_ran(self, count: int, seconds_max: float = RUN_SECONDS_MAX) -> tuple[int, int]:
        """Wait until `count` handlers ran; return the first start and the last end (ns)."""
        report = self._wait_for("ran", seconds_max)
        if report["ran"] != count:
            raise ContenderError(f"ran {report['ran']} jobs, not {count}")
        return report["first"], report["last"]

    def cpu_seconds(self) -> float:
        """CPU time of the process and its descendants, since their start."""
        return tree_cpu_seconds(psutil.Process(self.pid))

    def rss_peak_mb(self) -> float:
        """The sum of the peak memory of the process and its descendants."""
        worker = psutil.Process(self.pid)
        return sum(_peak_bytes(each) for each in [worker, *worker.children(recursive=True)]) / 1e6

    def rss_mb(self) -> float:
        """The memory of the process and its descendants now."""
        worker = psutil.Process(self.pid)
        processes = [worker, *worker.children(recursive=True)]
        return sum(each.memory_info().rss for each in processes) / 1e6

    def stop(self) -> Report:
        """Stop the process, and return its last line. A second call returns the same line."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ContenderError(f"did not stop within {STOP_SECONDS_MAX:g} s") from None
        self._reader.join(STOP_SECONDS_MAX)
        return self._last

    def kill(self) -> None:
        """Kill the process and everything that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._last = json.loads(line)
            except ValueError:
                self._last = {"not JSON": line.strip()}
            self._lines.put(self._last)
        self._lines.put(None)

    def _wait_for(self, key: str, seconds_max: float) -> Report:
        give_up = time.monotonic() + seconds_max
        while True:
            try:
                report = self._lines.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                raise ContenderError(f"no {key!r} within {seconds_max:g} s") from None
            if report is None:
                raise ContenderError(f"ended before {key!r}: {_last_words(self._errors)}")
            if key in report:
                return report


def setup(contender: Contender, url: str) -> None:
    """Install the contender's schema in an empty database."""
    _command(contender, "setup", url)


def bulk(contender: Contender, url: str, jobs: int) -> float:
    """Enqueue no-op jobs by the bulk API; return the seconds it took."""
    return float(_command(contender, "bulk", url, str(jobs))["seconds"])


def single(contender: Contender, url: str, jobs: int) -> float:
    """Enqueue no-op jobs one by one over one connection; return the seconds it took."""
    return float(_command(contender, "single", url, str(jobs))["seconds"])


def trickle(contender: Contender, url: str, jobs: int, every_ms: int) -> None:
    """Enqueue pickup jobs at a slow pace; returns after the last."""
    _command(contender, "trickle", url, str(jobs), str(every_ms))


@contextmanager
def working(
    contender: Contender,
    url: str,
    *,
    small: bool = False,
    jobs: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Work]:
    """A worker process that is ready; it is stopped at the end, by force if necessary."""
    words = ["work", url, str(jobs), *(["--small"] if small else [])]
    with process(contender.command + tuple(words), environment=environment) as work:
        work.wait_ready()
        yield work


@contextmanager
def process(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> Iterator[Work]:
    """A process that speaks the protocol's lines; `working` is the usual way to start one."""
    with tempfile.TemporaryFile("w+") as errors:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=clean_environment() | dict(environment or {}),
            start_new_session=True,
        )
        work = Work(started, errors)
        try:
            yield work
            work.stop()
        finally:
            work.kill()


def drain_seconds(work: Work, contender: Contender, url: str, jobs: int) -> float:
    """Wait until `jobs` jobs are settled; return the seconds since the first handler started."""
    with psycopg.connect(url, autocommit=True) as connection:
        # Before the full table was analyzed, the query may be planned as a sequential scan.
        connection.execute("set enable_seqscan = off")
        first, _ = work.wait_ran(jobs)
        return (_settled(connection, contender.left_sql) - first) / 1e9


def vacuum_analyze(url: str) -> None:
    """Bring the statistics of a database up to date, as autovacuum would in time."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum (analyze)")


def clean_environment() -> dict[str, str]:
    """The environment without variables that would configure a worker or a driver."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("JOBSWORTH_", "PG"))}


# The query that finds nothing took its snapshot when it began: all was settled then.
def _settled(connection: psycopg.Connection[tuple[object, ...]], left_sql: str) -> int:
    give_up = time.monotonic() + RUN_SECONDS_MAX
    while time.monotonic() < give_up:
        looked = time.monotonic_ns()
        row = connection.execute(left_sql.encode()).fetchone()
        if row is None or not row[0]:
            return looked
        time.sleep(SETTLED_POLL_SECONDS)
    raise ContenderError(f"ran all jobs, but not all were settled within {RUN_SECONDS_MAX:g} s")


def _command(contender: Contender, *words: str) -> Report:
    try:
        done = subprocess.run(
            [*contender.command, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=clean_environment(),
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ContenderError(f"{words[0]} took over {COMMAND_SECONDS_MAX:g} s") from None
    if done.returncode != 0:
        raise ContenderError(f"{words[0]} failed: {_tail(done.stderr)}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}


def _peak_bytes(process: psutil.Process) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return int(process.memory_info().rss)  # no /proc: not Linux
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _last_words(errors: IO[str]) -> str:
    errors.seek(0)
    return _tail(errors.read())


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:]) or "it said nothing"
