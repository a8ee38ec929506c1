"""The watch over the event loop: a thread that says which handler blocks it.

In: the stamps of `turn`, a task of the loop. Out: log lines and a metric that name the handler, and
the service manager's watchdog. A blocked loop stops every neighbour, but not the heartbeat, so
nobody rescues them: the watchdog forgives a handler for `block_seconds_max`, and then the process
ends. Time counts only while this thread runs: a process that was stopped as a whole has blocked
nothing.

What holds the interpreter's lock for seconds, like one call of a C library, stops this thread too.
"""

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

import anyio

from worker import events
from worker.daemon import systemd
from worker.daemon.loop import WorkerLoop
from worker.daemon.vitals import Vitals
from worker.daemon.watch import STUCK
from worker.log import get_logger
from worker.queue.attempt import Attempt, run_attempt

TURN_SECONDS = 0.25
BLOCKED_SECONDS = 1.0
CLAIM_LOOP_LIMIT_SECONDS = 90.0
STACK_LINES_MAX = 24

HANDLERS_REMEDY = "await what waits; or write the handler with def, which runs in a thread"
OUR_REMEDY = (
    "no handler is at fault: a host without free processors shows this; if it has some, and it"
    " comes again, report the stack"
)

log = get_logger()


async def turn(vitals: Vitals) -> None:
    """Stamp that the loop runs, until cancelled."""
    while True:
        vitals.loop_turned()
        await anyio.sleep(TURN_SECONDS)


class LoopWatch(threading.Thread):
    """Watches the loop of the thread that makes it."""

    def __init__(
        self,
        vitals: Vitals,
        let_go: Callable[[], None],
        blocked: Callable[[str], None],
        *,
        block_seconds_max: float,
    ) -> None:
        """`let_go` is called before the process is ended; `blocked` counts a blocking mode."""
        super().__init__(name="loop watch", daemon=True)
        self._vitals = vitals
        self._count = blocked
        self._let_go = let_go
        self._block_seconds_max = block_seconds_max
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._stopping = threading.Event()
        self._blocked_seconds = 0.0
        self._blamed: dict[str, Any] | None = None
        # Read now: a handler may change the environment.
        self._interval = systemd.watchdog_interval_seconds()
        self._notify_socket = systemd.notify_socket()
        self._fed_at = float("-inf")

    def stop(self) -> None:
        """End the thread soon."""
        self._stopping.set()

    def run(self) -> None:
        """Look four times a second until stopped."""
        before = monotonic()
        while not self._stopping.wait(TURN_SECONDS):
            now = monotonic()
            try:
                self._look(min(now - before, 2 * TURN_SECONDS))
            except Exception as error:  # nothing may end the watch unseen
                log.warning(events.UPKEEP_FAILED, part="loop watch", error=repr(error)[:200])
            before = now

    def _look(self, passed_seconds: float) -> None:
        frame = sys._current_frames().get(self._watched)  # pyright: ignore[reportPrivateUsage]
        # A loop that waits for work and is late has not been given the processor.
        if self._vitals.loop_age_seconds < BLOCKED_SECONDS or frame is None or _waits(frame):
            self._freed()
            if self._vitals.claim_loop_alive(CLAIM_LOOP_LIMIT_SECONDS):
                self._feed()
            return
        self._blocked_seconds += passed_seconds
        if self._blocked_seconds < 2 * TURN_SECONDS:
            return  # the whole process may have been stopped
        if self._blamed is None:
            self._blamed = self._blame(frame)
        if not self._blamed:
            return  # our own code: what the watchdog is for
        if self._blocked_seconds > self._block_seconds_max:
            self._end()
        self._feed()

    def _blame(self, frame: FrameType) -> dict[str, Any]:
        """Tell what blocks the loop; returns the fields of its job, none if it is no job's."""
        job = self._job(frame)
        lines = traceback.format_stack(frame)[-STACK_LINES_MAX:]
        log.warning(
            events.LOOP_BLOCKED,
            **{"mode": None, "job_id": None} | job,
            seconds=round(self._vitals.loop_age_seconds, 1),
            stack="".join(reversed(lines)),
            remedy=HANDLERS_REMEDY if job else OUR_REMEDY,
        )
        self._count(job.get("mode", ""))
        return job

    def _job(self, frame: FrameType | None) -> dict[str, Any]:
        while frame is not None:
            attempt = frame.f_locals.get("attempt") if frame.f_code is CODE else None
            if isinstance(attempt, Attempt):
                return {"mode": attempt.job.mode, "job_id": str(attempt.job.id)}
            frame = frame.f_back
        fields: dict[str, Any] = {}
        if isinstance(self._loop, WorkerLoop) and (job := self._loop.job_of_current_task()):
            job.name(fields)
        return fields

    def _freed(self) -> None:
        if self._blamed is not None:
            log.info(events.LOOP_FREED, **self._blamed, seconds=round(self._blocked_seconds, 1))
        self._blamed = None
        self._blocked_seconds = 0.0

    def _feed(self) -> None:
        now = monotonic()
        if self._interval is not None and now - self._fed_at >= self._interval:
            systemd.watchdog(self._notify_socket)
            self._fed_at = now

    def _end(self) -> None:
        log.error(events.LOOP_STUCK, **self._blamed or {}, seconds=round(self._blocked_seconds, 1))
        self._let_go()
        os._exit(STUCK)


def _waits(frame: FrameType) -> bool:
    return frame.f_code is WorkerLoop.run_until_complete.__code__


CODE = run_attempt.__code__
