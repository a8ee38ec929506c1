"""How an attempt ended, as values; and the exceptions by which a handler ends its attempt.

`worker.queue.attempt` turns whatever a handler does into exactly one `Outcome`;
`worker.queue.decide` turns that into a `Transition`. A handler that returns is `Done`; to end
otherwise it raises `Retry`, `Fail`, `Cancel` or `Snooze`.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from db.queue.attempts import BadEnding
from db.queue.effects import Effect
from worker.arguments import finite


class HandlerEnding(Exception):
    """Base of the exceptions by which a handler ends its attempt on purpose."""


class Retry(HandlerEnding):
    """Raise it in a handler to have the job tried again.

    The next attempt begins after `after_seconds`; None means the usual backoff. It counts as a
    failure: when the job's failures are used up, the job fails with `reason` as its error. What the
    attempt said, saved or enqueued is dropped; recorded steps stay. Raises `InvalidInput` unless
    the number is finite.
    """

    def __init__(self, after_seconds: float | None = None, reason: str = "retry asked for") -> None:
        super().__init__(reason)
        self.after_seconds = (
            None if after_seconds is None else finite(after_seconds, "after_seconds of Retry")
        )
        self.reason = reason


class Fail(HandlerEnding):
    """Raise it in a handler when no further try can help: the job fails at once.

    `reason` becomes the job's error. What the attempt said, saved or enqueued is dropped.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Cancel(HandlerEnding):
    """Raise it in a handler when there is nothing left to do: the job ends as canceled.

    `reason` becomes the job's error. What the attempt said, saved or enqueued is dropped.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Snooze(HandlerEnding):
    """Raise it in a handler to have the job run again in `seconds`; no failure is counted.

    What the attempt said, saved or enqueued is dropped; recorded steps stay. Raises `InvalidInput`
    unless the number is finite.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = finite(seconds, "the seconds of Snooze")
        super().__init__(f"snoozed for {self.seconds:g} s")


# Named tuples where one is made for each job: a frozen dataclass takes several times as long.
class Done(NamedTuple):
    """The handler returned; `result` is JSON text."""

    result: str
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler failed.

    `final`: there is no further try. `after_seconds`: the pause that the handler or a provider
    asked for; None for the usual backoff. `traceback`: where in the handler.
    """

    error: str
    final: bool = False
    after_seconds: float | None = None
    traceback: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Parked:
    """The job waits for `reason`, without a slot or a lease; `effects` commit with the wait.

    `interrupted`: it did not ask for that, and has this row in the history of attempts.
    """

    reason: str
    detail: str | None = None
    after_seconds: float | None = None
    effects: tuple[Effect, ...] = ()
    interrupted: BadEnding | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Canceled:
    """The attempt was canceled, by a person or by the handler; `traceback`: where it was then."""

    reason: str
    traceback: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Released:
    """The daemon stops: the job goes back to the queue at once, and no failure is counted."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease was lost, or could not be proved any longer: nothing may be written."""

    reason: str


Outcome = Done | Failed | Parked | Canceled | Released | Lost


class Ended(HandlerEnding):
    """How a handler ended in a process of its own, where middleware around it waits for that."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(getattr(outcome, "error", None) or getattr(outcome, "reason", ""))
        self.outcome = outcome


class ParkSignal(BaseException):
    """Unwinds a handler whose job is to wait.

    A BaseException, so that a handler's `except Exception` does not swallow it.
    """

    def __init__(self, parked: Parked) -> None:
        super().__init__(f"waits for {parked.reason}")
        self.parked = parked
