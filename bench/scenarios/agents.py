"""Ten thousand agents in one worker process, each waiting for one answer of its model."""

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString

import psutil

from bench.contender import ROOT
from bench.lab import OURS, Lab, Measured
from bench.our_workers import (
    connect,
    enqueue,
    our_worker,
    wait_finished,
    wait_registered,
    wait_until,
)
from bench.results import Figure
from db.migrate import migrate
from db.queue.new_job import NewJob

NAME = "agents"
TITLE = "10,000 agents that wait for their model"
METHOD = """
One worker process with 10,000 slots runs 9,999 jobs, each a pydantic-ai agent that asks its model
once. The model is a stub in a process of its own that answers none before all requests are open at
it, and then each after the time that it took to get there. "open" is the most requests that were
open at the stub at once. "loop"
is how late the worker's event loop ran a timer of 10 ms, from the first job to the last answer; a
stop of the loop counts once for each 10 ms that it lasted. "readyz" is the time of `GET /readyz`,
asked ten times a second. "KB an agent" is what the worker's memory grew by until all were open.
"missed beats" and "spool files" are lines of the worker's log; the database is well all the while.
"""

# The one that is left watches the loop.
SLOTS_MAX = 10_000
OPEN_SECONDS_MAX = 600.0
READYZ_PERIOD_SECONDS = 0.1


@dataclass(slots=True)
class Watched:
    """What the worker looked like from outside."""

    readyz_ms: list[float] = field(default_factory=list[float])
    rss_bytes: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)


def run(lab: Lab) -> Iterator[Figure]:
    """One worker, once: the ramp and the answers of 10,000 agents take several minutes."""
    if lab.contender(OURS) is None:
        return
    count = lab.size(SLOTS_MAX - 1, 500)
    for (measure, variant), value in _measured(lab, count).items():
        lab.say(f"{NAME}: {measure}: {value:,.1f}")
        yield Figure(NAME, OURS, measure, variant, (value,))


WATCHED: LiteralString = """
select j.result from jobsworth.reactive_jobs j where j.mode = 'watch_loop' and j.status = 'done'
"""

WATCH_ENDED: LiteralString = """
select exists (
  select from jobsworth.reactive_jobs j where j.mode = 'watch_loop' and j.status = 'done')
"""

SENT_SECONDS: LiteralString = """
select extract(epoch from max(c.started_at) - min(c.started_at))::float8 from jobsworth.llm_calls c
"""


def _measured(lab: Lab, count: int) -> Measured:
    url = lab.server.database("agents")
    migrate(url, "jobsworth")
    port = _free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        _provider(count) as provider,
        connect(url) as connection,
        our_worker(
            url,
            handlers="bench.agent_handlers",
            slots=count + 1,
            http_port=port,
            model="openai:slow",
            model_url=f"{provider}/v1",
            spool_dir=folder,
            log=Path(folder) / "log",
        ) as worker,
    ):
        wait_registered(connection, [worker])
        watched, before = Watched(), psutil.Process(worker.pid).memory_info().rss
        watching = threading.Thread(target=_watch, args=(watched, worker.pid, port))
        watching.start()
        try:
            enqueue(url, [NewJob("watch_loop", {"thinking": count}, priority=1)])
            jobs = enqueue(
                url, (NewJob("think", {"question": f"What is {n}?"}) for n in range(count))
            )
            opened = _most_open(provider, count)
            wait_finished(connection, [worker], jobs, 2 * OPEN_SECONDS_MAX)
            wait_until(connection, [worker], WATCH_ENDED)
        finally:
            watched.stopped.set()
            watching.join()
        row = connection.execute(WATCHED).fetchone()
        sent = connection.execute(SENT_SECONDS).fetchone()
        log = (Path(folder) / "log").read_text().splitlines()
    if row is None or sent is None:
        raise RuntimeError("the loop was not watched to the end")
    [watch] = row
    readyz = sorted(watched.readyz_ms)
    return {
        ("open", ""): opened,
        ("loop p99 ms", ""): watch["late_p99"],
        ("loop max ms", ""): watch["late_max"],
        ("loop CPU p99 ms", ""): watch["busy_p99"],
        ("loop CPU max ms", ""): watch["busy_max"],
        ("readyz p99 ms", ""): readyz[len(readyz) * 99 // 100],
        ("readyz max ms", ""): readyz[-1],
        ("missed beats", ""): sum("heartbeat.missed" in line for line in log),
        ("spool files", ""): sum("spool.written" in line for line in log),
        ("KB an agent", ""): (watched.rss_bytes - before) / 1024 / count,
        ("s to send all", ""): sent[0],
    }


def _most_open(provider: str, count: int) -> int:
    """Wait until the stub holds all requests; the most it held at once."""
    give_up = time.monotonic() + OPEN_SECONDS_MAX
    while time.monotonic() < give_up:
        with urllib.request.urlopen(f"{provider}/count", timeout=30) as answer:
            counted = json.load(answer)
        if counted["most"] >= count:
            return counted["most"]
        time.sleep(0.5)
    raise TimeoutError(f"not all requests were open within {OPEN_SECONDS_MAX:g} s")


def _watch(watched: Watched, pid: int, port: int) -> None:
    process = psutil.Process(pid)
    while not watched.stopped.wait(READYZ_PERIOD_SECONDS):
        began = time.monotonic()
        with suppress(urllib.error.HTTPError):  # not ready: an answer all the same
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60).close()
        watched.readyz_ms.append(1000 * (time.monotonic() - began))
        watched.rss_bytes = max(watched.rss_bytes, process.memory_info().rss)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def _provider(count: int) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.slow_provider", "--open", str(count)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
