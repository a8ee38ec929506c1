"""Outcome → Transition: the table of a job's life, as a pure function.

In: how the attempt ended, and what is known of the job. Out: what to write, or None for nothing. No
clock, no database; the jitter is an argument. One constructor per transition, so that no bad
combination can be built.
"""

from dataclasses import dataclass

from worker.outcomes import Canceled, Done, Failed, Lost, Outcome, Parked, Released, Transition


@dataclass(frozen=True, slots=True)
class Tries:
    """What decides whether a failed job is tried again: failures so far, and the bounds."""

    failures: int
    failures_max: int
    base_seconds: float
    max_seconds: float


def decide(outcome: Outcome, tries: Tries, jitter: float) -> Transition | None:
    """What to write for `outcome`; `jitter` is uniform in [0, 1)."""
    match outcome:
        case Done(result, effects):
            return Transition("done", result=result, effects=effects)
        case Failed(error, final, after_seconds):
            if final or tries.failures + 1 >= tries.failures_max:
                return Transition("failed", failed=True, error=error)
            delay = backoff_seconds(tries, jitter) if after_seconds is None else after_seconds
            return Transition(
                "waiting", waiting_for="timer", delay_seconds=delay, failed=True, error=error
            )
        case Parked(reason, detail, after_seconds, effects):
            return Transition(
                "waiting",
                waiting_for=reason,
                waiting_detail=detail,
                delay_seconds=after_seconds,
                effects=effects,
            )
        case Canceled(reason):
            return Transition("canceled", error=reason)
        case Released():
            return Transition("queued")
        case Lost():
            return None


def backoff_seconds(tries: Tries, jitter: float) -> float:
    """Exponential backoff with jitter: base · 2^failures, at most max, times 0.5 to 1.5.

    The jitter spreads jobs that failed together, as in "Exponential Backoff And Jitter" (AWS
    Architecture Blog, 2015), but keeps half of the pause, so that a provider gets its rest.
    """
    exponent = min(tries.failures, 32)
    return min(tries.max_seconds, tries.base_seconds * 2**exponent) * (0.5 + jitter)
