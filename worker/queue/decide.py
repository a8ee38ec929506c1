"""Outcome → Transition: the table of a job's life, as a pure function.

In: how the attempt ended, and how often the job has failed. Out: what to write, or None if nothing
may be written. It reads no clock and no database; the jitter is an argument.
"""

from typing import NamedTuple

from worker.outcomes import Canceled, Done, Failed, Lost, Outcome, Parked, Released
from worker.queue.transition import Transition


class Tries(NamedTuple):
    """The failures of a job so far, and the bounds of its retries."""

    failures: int
    failures_max: int
    base_seconds: float
    max_seconds: float


def decide(outcome: Outcome, tries: Tries, jitter: float) -> Transition | None:
    """The transition that `outcome` leads to, None if the lease is lost; `jitter` is in [0, 1)."""
    match outcome:
        case Done(result, effects):
            return Transition.done(result, effects)
        case Failed(error, final, after_seconds, traceback):
            if final or tries.failures + 1 >= tries.failures_max:
                return Transition.failed(error, traceback)
            delay = backoff_seconds(tries, jitter) if after_seconds is None else after_seconds
            return Transition.retried(error, delay, traceback)
        case Parked(reason, detail, after_seconds, effects, history):
            return Transition.parked(reason, detail, after_seconds, effects, history)
        case Canceled(reason, traceback):
            return Transition.canceled(reason, traceback)
        case Released():
            return Transition.released()
        case Lost():
            return None


def backoff_seconds(tries: Tries, jitter: float) -> float:
    """Exponential backoff with jitter: base · 2^failures, at most max, times 0.5 to 1.5.

    The jitter spreads jobs that failed together, as in "Exponential Backoff And Jitter" (AWS
    Architecture Blog, 2015). Half of the pause is kept, so that a provider can recover.
    """
    exponent = min(tries.failures, 32)
    return min(tries.max_seconds, tries.base_seconds * 2**exponent) * (0.5 + jitter)
