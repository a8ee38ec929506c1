"""What is written for an ended attempt: one constructor for each transition of a job.

In: what an outcome says. Out: the values of one row of `finish`. Invariant: a `Transition` is built
by its constructors only, so no combination exists that the table of jobs would refuse.
"""

from typing import NamedTuple, Self

from db.queue.attempts import BadEnding
from db.queue.effects import Effect, size_of
from db.steps.failed import FailedStep

Effects = tuple[Effect, ...]
RELEASED = BadEnding("released", "its worker was told to stop")


class Transition(NamedTuple):
    """The new state of a job, and the effects that commit with it.

    `counts_failure` adds one to the job's failures; `result` is JSON text. `history` becomes a row
    of the history of attempts; `failed_steps` become rows whatever the ending is.
    """

    status: str
    waiting_for: str | None
    waiting_detail: str | None
    delay_seconds: float | None
    counts_failure: bool
    result: str | None
    error: str | None
    effects: Effects
    history: BadEnding | None = None
    failed_steps: tuple[FailedStep, ...] = ()

    @property
    def size(self) -> int:
        """About how many bytes it writes."""
        size = len(self.result or "") + len(self.error or "")
        if self.history is not None:
            size += len(self.history.traceback or "")
        return size + sum(map(size_of, self.effects)) if self.effects else size

    @classmethod
    def done(cls, result: str, effects: Effects = ()) -> Self:
        """The job has its result."""
        return cls("done", None, None, None, False, result, None, effects)

    @classmethod
    def failed(cls, error: str, traceback: str | None = None) -> Self:
        """The job has failed for good; its effects are dropped."""
        history = BadEnding("failed", error, traceback)
        return cls("failed", None, None, None, True, None, error, (), history)

    @classmethod
    def retried(cls, error: str, delay_seconds: float, traceback: str | None = None) -> Self:
        """The job has failed and runs again after a delay; its effects are dropped."""
        history = BadEnding("failed", error, traceback)
        return cls("waiting", "timer", None, delay_seconds, True, None, error, (), history)

    @classmethod
    def parked(
        cls,
        reason: str,
        detail: str | None = None,
        delay_seconds: float | None = None,
        effects: Effects = (),
        history: BadEnding | None = None,
    ) -> Self:
        """The job waits for `reason`, at most `delay_seconds` if that is given. It has a `history`
        if it did not ask for that.
        """
        return cls("waiting", reason, detail, delay_seconds, False, None, None, effects, history)

    @classmethod
    def canceled(cls, reason: str, traceback: str | None = None) -> Self:
        """The job ends as canceled; its effects are dropped."""
        history = BadEnding("canceled", reason, traceback)
        return cls("canceled", None, None, None, False, None, reason, (), history)

    @classmethod
    def released(cls) -> Self:
        """The job is queued again at once; its effects are dropped."""
        return cls("queued", None, None, None, False, None, None, (), RELEASED)
