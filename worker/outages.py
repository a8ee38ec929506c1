"""One line for a lost database, in place of one from each part that cannot reach it.

In: the events of this process, before they are written. Out: the same, but while the database is
lost only `database.lost`: with the cause and the remedy, and again once a minute. Invariant: an
error of another kind is never left out.

A single part whose connection was cut says so itself. When a second one cannot reach the database
either, the database is lost.
"""

import threading
from time import monotonic

import structlog
from structlog.typing import EventDict

from db.errors import Unavailable
from worker import events

# What the parts say of errors. Each carries the error itself, not its text.
OF_PARTS = frozenset(
    {
        events.BATCH_RETRIED,
        events.BATCH_SPLIT,
        events.CLAIM_FAILED,
        events.ENDINGS_DELAYED,
        events.HEARTBEAT_MISSED,
        events.LISTEN_LOST,
        events.UPKEEP_FAILED,
    }
)
# Failures of two parts within this time are one outage.
TOGETHER_SECONDS = 10.0
REPEAT_SECONDS = 60.0
# After so long without any it is over. Parts say the same once a minute themselves.
OVER_SECONDS = 180.0
REMEDY = "see that PostgreSQL runs and answers: jobsworth doctor"


class Outages:
    """A processor of structlog; lines come from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: tuple[str, float] | None = None
        self._began: float | None = None
        self._failed_at = 0.0
        self._said_at = 0.0
        self._left_out = 0

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        match event["event"]:
            case events.DATABASE_RECOVERED:
                return self._recovered(event)
            case events.DATABASE_LOST if "age_seconds" in event:
                return self._lost(event)
            case kind if kind in OF_PARTS and isinstance(event.get("error"), Unavailable):
                return self._of_part(event)
            case _:
                return event

    def _of_part(self, event: EventDict) -> EventDict:
        now, part = monotonic(), f"{event['event']} {event.get('part', '')}"
        with self._lock:
            self._forget_if_over(now)
            self._failed_at = now
            if self._began is None:
                first = self._first
                if first is None or first[0] == part or now - first[1] > TOGETHER_SECONDS:
                    self._first = part, now
                    return event
        error = event["error"]
        return self._lost(
            {
                **{name: event[name] for name in ("timestamp", "level") if name in event},
                "event": events.DATABASE_LOST,
                "error": error.message,
                "remedy": error.remedy or REMEDY,
            }
        )

    def _lost(self, event: EventDict) -> EventDict:
        now = monotonic()
        with self._lock:
            self._failed_at = now
            if self._began is not None and now - self._said_at < REPEAT_SECONDS:
                self._left_out += 1
                raise structlog.DropEvent
            self._began = self._began or now
            self._said_at = now
            left_out, self._left_out = self._left_out, 0
            return {**event, "lost_seconds": round(now - self._began, 1), "left_out": left_out}

    def _recovered(self, event: EventDict) -> EventDict:
        now = monotonic()
        with self._lock:
            began, left_out = self._began, self._left_out
            self._first, self._began, self._left_out = None, None, 0
        if began is None:
            raise structlog.DropEvent
        return {**event, "lost_seconds": round(now - began, 1), "left_out": left_out}

    def _forget_if_over(self, now: float) -> None:
        if self._began is not None and now - self._failed_at > OVER_SECONDS:
            self._first, self._began, self._left_out = None, None, 0
