"""The handlers of the benchmarks; they use the adapter's protocol (`bench.contender`).

Counting costs a job one addition and one comparison: what is measured is the queue.
"""

import atexit
import json
import os
import time

from jobsworth import handler

JOBS = int(os.environ.get("BENCH_JOBS", "1"))

_delays_us: list[int] = []


class _Count:
    """Counts the handlers that ran; `job` compares with the next number to report at."""

    ran = 0
    due = 1
    first_ns = 0


@handler("noop")
async def noop() -> None:
    """Nothing, so that only the queue is measured."""
    _Count.ran += 1
    if _Count.ran == _Count.due:
        _count_due()


@handler("pickup")
async def pickup(t: int) -> None:
    """Keep how long ago the job was enqueued."""
    _delays_us.append((time.monotonic_ns() - t) // 1000)
    _Count.ran += 1
    if _Count.ran == _Count.due:
        _count_due()


def say(**report: object) -> None:
    """One line of the protocol."""
    print(json.dumps(report), flush=True)


def _count_due() -> None:
    now = time.monotonic_ns()
    if _Count.ran == 1:
        _Count.first_ns = now
        _Count.due = JOBS
    if _Count.ran == JOBS:
        say(ran=JOBS, first=_Count.first_ns, last=now)
        _Count.ran, _Count.due = 0, 1


@atexit.register
def _report_delays() -> None:
    if _delays_us:
        say(delays_us=_delays_us)


# Handlers are imported last, just before the worker opens its connections.
say(ready=True)
