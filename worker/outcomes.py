"""How a handler's attempt ended: values, and the exceptions by which a handler says so.

`attempt.py` turns whatever a handler does into exactly one `Outcome`; `decide.py` turns that into a
`Transition`. Handlers return for Done and raise `Retry`, `Fail`, `Cancel` or `Snooze` for the rest.
"""

from dataclasses import dataclass
from typing import NamedTuple

from db.queue.effects import Effect


class Ending(Exception):
    """Base of what a handler may raise on purpose."""


class Retry(Ending):
    """Try again after `after_seconds` (None: the usual backoff); counts as a failure."""

    def __init__(self, after_seconds: float | None = None, reason: str = "retry asked for") -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds
        self.reason = reason


class Fail(Ending):
    """Fail for good: no further try can help."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Cancel(Ending):
    """End as canceled: there is nothing to do any more."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Snooze(Ending):
    """Run again in `seconds`, without counting a failure; effects so far are dropped."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"snoozed for {seconds:g} s")
        self.seconds = seconds


# Named tuples where one is made for each job: a frozen dataclass takes several times as long.
class Done(NamedTuple):
    """The handler returned; `result` is JSON text."""

    result: str
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler failed. `final`: no further try; `after_seconds`: the pause it asked for."""

    error: str
    final: bool = False
    after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """The job waits, at no cost, for `reason`; its effects commit with the wait."""

    reason: str
    detail: str | None = None
    after_seconds: float | None = None
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Canceled:
    """The attempt was canceled, by a person or by the handler."""

    reason: str


@dataclass(frozen=True, slots=True)
class Released:
    """The daemon stops: the job goes back to the queue at once, no try burnt."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease was lost, or could not be proved any longer: nothing may be written."""

    reason: str


Outcome = Done | Failed | Parked | Canceled | Released | Lost


class ParkSignal(BaseException):
    """Unwinds a handler that waits. A BaseException, so `except Exception` cannot swallow it."""

    def __init__(self, parked: Parked) -> None:
        super().__init__(f"waits for {parked.reason}")
        self.parked = parked
