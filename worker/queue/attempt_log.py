"""The canonical line of each attempt, and what is counted of it.

In: attempts whose ending is committed (or whose lease is lost). Out: one log line for each, and
metrics. Above a rate, the lines of attempts that went well are left out and counted, so that
logging never costs more than the work; failed and lost attempts are always told.
"""

from time import monotonic

from worker import events
from worker.log import get_logger
from worker.plain_job import trace_id
from worker.queue.attempt import Attempt
from worker.web.metrics import Metrics

ALWAYS_TOLD = ("failed", "lost")

log = get_logger()


class AttemptLog:
    """Tells of ended attempts, at most `per_second` of them (0: of failed and lost ones only)."""

    def __init__(self, metrics: Metrics, per_second: int) -> None:
        self._metrics = metrics
        self._per_second = per_second
        self._second_ends = 0.0
        self._told = 0
        self._left_out = 0

    def claimed(self, mode: str) -> None:
        """Count an attempt that begins."""
        self._metrics.claimed(mode)

    def ended(self, attempt: Attempt, status: str, error: str | None) -> None:
        """Count an attempt that is over, and log its line unless there are too many."""
        job = attempt.job
        at = monotonic()
        took = at - attempt.began
        self._metrics.finished(
            job.mode, status, job.waited_seconds if job.attempt == 1 else None, took
        )
        if status == "lost":
            self._metrics.lease_lost()
        if at >= self._second_ends:
            self._next_second(at)
        if self._told < self._per_second or status in ALWAYS_TOLD:
            self._told += 1
            _write_line(attempt, status, took, error)
        else:
            self._left_out += 1

    def flush(self) -> None:
        """Tell how many lines the last second left out, once it is over."""
        at = monotonic()
        if self._left_out and at >= self._second_ends:
            self._next_second(at)

    def _next_second(self, at: float) -> None:
        if self._left_out and self._per_second:
            log.info(events.ATTEMPTS_NOT_LOGGED, attempts=self._left_out)
        self._second_ends = at + 1.0
        self._told = 0
        self._left_out = 0


def _write_line(attempt: Attempt, status: str, took: float, error: str | None) -> None:
    job = attempt.job
    log.info(
        events.ATTEMPT_LEASE_LOST if status == "lost" else events.ATTEMPT_ENDED,
        job_id=str(job.id),
        lease_no=job.lease_no,
        mode=job.mode,
        queue=job.queue,
        attempt=job.attempt,
        status=status,
        waited_ms=round(job.waited_seconds * 1000, 1),
        took_ms=round(took * 1000, 1),
        trace_id=trace_id(job.trace_parent),
        **({"error": error} if error else {}),
    )
