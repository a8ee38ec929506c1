"""The part that all adapters in Python share: command line, clock, and lines on stdout.

An adapter is a script that a peer's own interpreter runs. It defines three functions and calls
`main` with them; see `bench/contender.py` for the protocol.
"""

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

BULK = 1000
"""Jobs per call of a bulk API."""

STOP_SECONDS_MAX = 4.0

# A peer's own output goes to standard error: standard output belongs to the protocol.
OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


class Producer(Protocol):
    """One connection that enqueues."""

    async def bulk(self, jobs: int) -> None:
        """Enqueue no-op jobs by the bulk API."""
        ...

    async def noop(self) -> None:
        """Enqueue one no-op job."""
        ...

    async def pickup(self, t: int) -> None:
        """Enqueue one job that reports how long after `t` (ns) it started."""
        ...


class Ran:
    """Records what the handlers of this worker process did; they call only `job` or `pickup`."""

    def __init__(self) -> None:
        self.expected = 0
        self.stopping = asyncio.Event()
        self._count = 0
        self._first = 0
        self._delays: list[int] = []

    def ready(self) -> None:
        """The worker is about to fetch."""
        say({"ready": True})

    def job(self) -> None:
        # A no-op starts and ends in the same instant: the clock is read for only two of them, so
        # that counting costs as little as possible.
        if self._count == 0:
            self._first = time.monotonic_ns()
        self._count += 1
        if self._count == self.expected:
            say({"ran": self._count, "first": self._first, "last": time.monotonic_ns()})

    def pickup(self, t: int) -> None:
        self._delays.append((time.monotonic_ns() - t) // 1000)
        self.job()

    def finish(self) -> None:
        """Print the last line and end the process, whatever still runs in it."""
        if self._delays:
            say({"delays_us": self._delays})
        os._exit(0)


ran = Ran()


def main(
    setup: Callable[[str], Awaitable[None]],
    producer: Callable[[str], AbstractAsyncContextManager[Producer]],
    work: Callable[[str, bool], Awaitable[None]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run the command of the command line."""
    command, url, *numbers = [word for word in sys.argv[1:] if word != "--small"]
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        if command == "setup":
            runner.run(_await(setup(url)))
        elif command == "work":
            ran.expected = int(numbers[0])
            runner.run(_work(work, url, "--small" in sys.argv))
        else:
            runner.run(_produce(producer, url, command, *map(int, numbers)))


async def _await(awaitable: Awaitable[None]) -> None:
    await awaitable


async def _work(work: Callable[[str, bool], Awaitable[None]], url: str, small: bool) -> None:
    def stop() -> None:
        overdue = threading.Timer(STOP_SECONDS_MAX, ran.finish)
        overdue.daemon = True
        overdue.start()
        ran.stopping.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await work(url, small)
    ran.finish()


async def _produce(
    producer: Callable[[str], AbstractAsyncContextManager[Producer]],
    url: str,
    command: str,
    jobs: int,
    every_ms: int = 0,
) -> None:
    async with producer(url) as connected:
        begun = time.monotonic()
        if command == "bulk":
            await connected.bulk(jobs)
        elif command == "single":
            for _ in range(jobs):
                await connected.noop()
        elif command == "trickle":
            await _trickle(connected, jobs, every_ms / 1000)
        else:
            raise SystemExit(f"unknown command {command}")
        seconds = time.monotonic() - begun
    if command != "trickle":
        say({"seconds": seconds})


# The schedule is fixed, with the same jitter for every peer: a slow call delays no later one.
async def _trickle(connected: Producer, jobs: int, every_seconds: float) -> None:
    jitter = random.Random(0)
    begun = time.monotonic()
    for number in range(jobs):
        due = begun + (number + jitter.uniform(-0.2, 0.2)) * every_seconds
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await connected.pickup(time.monotonic_ns())


def batches(jobs: int) -> list[int]:
    """Split `jobs` into calls of `BULK` each."""
    full, rest = divmod(jobs, BULK)
    return [BULK] * full + [rest] * bool(rest)


def say(report: dict[str, object]) -> None:
    """One line of the protocol."""
    OUT.write(json.dumps(report) + "\n")
    OUT.flush()
