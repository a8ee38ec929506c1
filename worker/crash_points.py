"""Named instants at which a test may kill the process; without effect in production.

`JOBSWORTH_CRASH_POINT=name` kills when the point is reached first, `name:3` when it is reached for
the third time. `JOBSWORTH_CRASH_LOG=path` collects the names of the points that were reached. The
fault tests kill at each point, and fail if one is never reached.
"""

import os
import signal
from pathlib import Path

CRASH_POINTS = {
    "claim.committed": "the claim is committed; no attempt has begun",
    "claim.held_up": "a claim has let jobs wait at a limit; whether it has room was not looked at",
    "fair.keyed": "some jobs of a queue that became fair have their keys; others may not",
    "call.before_row": "a model call is about to be booked",
    "call.after_row": "the call and its reservation are committed; no request was sent",
    "call.sent": "the request is on its way",
    "call.answered": "the answer is here, and not yet written",
    "spool.written": "an answer is on disk, because the database did not take it in time",
    "spool.drained": "an answer from the disk is settled; its file is still there",
    "step.begun": "an unsafe step is marked as begun; it has not run",
    "step.committed": "a step was recorded; the handler does not know it yet",
    "batch.returned": "a batch handler has ended; none of its jobs has",
    "finish.updated": "the jobs' rows are updated; their effects are not yet written",
    "finish.committed": "the finishing transaction is committed; no slot was freed for it",
    "park.updated": "a parking job's row is updated; what it waits for is not yet written",
    "promote.before": "jobs may have been unblocked; they have not been looked at",
    "rescue.committed": "dead workers' jobs were taken back; what that unblocks was not looked at",
    "release.updated": "the stopping daemon has updated its jobs' rows; not yet committed",
    "bulk.applied": "an operation is done with a batch of jobs; how far it is is not yet written",
    "bulk.committed": "an operation's batch is committed; the next one has not begun",
    "retention.removed": "a batch of old jobs is removed; the next one has not begun",
    "erase.committed": "an erasure is committed; its proof is not there yet",
}


def arm(point: str) -> None:
    """Have this process killed at a point that `check` accepts."""
    global _armed  # noqa: PLW0603 - one process has one
    check(point)
    _armed = _Armed(point, "")


def check(point: str) -> None:
    """Raise `ValueError` unless this is a point, as `name` or, at the third time, `name:3`."""
    name, _, count = point.partition(":")
    if name not in CRASH_POINTS or not (count or "1").isdecimal():
        known = "".join(f"\n  {each}: {what}" for each, what in CRASH_POINTS.items())
        raise ValueError(f"{point!r} is not a crash point; they are:{known}")


def reach(name: str) -> None:
    """Die here if a test asked for it."""
    if _armed is not None:
        _armed.reach(name)


class _Armed:
    def __init__(self, point: str, log: str) -> None:
        self.name, _, count = point.partition(":")
        self.countdown = int(count or 1)
        self.log = Path(log) if log else None
        self.logged: set[str] = set()

    def reach(self, name: str) -> None:
        if name not in CRASH_POINTS:
            raise AssertionError(f"{name} is not a crash point; add it to CRASH_POINTS")
        if self.log and name not in self.logged:
            self.logged.add(name)
            with self.log.open("a") as log:
                log.write(name + "\n")
        if name == self.name:
            self.countdown -= 1
            if self.countdown == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _from_environment() -> _Armed | None:
    point = os.environ.get("JOBSWORTH_CRASH_POINT", "")
    log = os.environ.get("JOBSWORTH_CRASH_LOG", "")
    return _Armed(point, log) if point or log else None


_armed: _Armed | None = _from_environment()
