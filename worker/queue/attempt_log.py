"""The canonical log line and the metrics of each attempt.

In: attempts whose transition is committed, or whose lease is lost. Out: one log line for each, and
metrics. Above a rate, the lines of successful attempts are left out and counted, so that logging
never costs more than the work; failed and lost attempts are always logged.
"""

from time import monotonic

from worker import events
from worker.log import get_logger
from worker.plain_job import trace_id
from worker.queue.attempt import Attempt
from worker.web.metrics import Metrics

ALWAYS_LOGGED = ("failed", "lost")

log = get_logger()


class AttemptLog:
    """Logs ended attempts, at most `per_second` of them; with 0, only failed and lost ones."""

    def __init__(self, metrics: Metrics, per_second: int) -> None:
        self._metrics = metrics
        self._per_second = per_second
        self._second_ends = 0.0
        self._logged = 0
        self._left_out = 0

    def claimed(self, mode: str) -> None:
        """Count an attempt that begins."""
        self._metrics.claimed(mode)

    def ended(self, attempt: Attempt, status: str, error: str | None) -> None:
        """Count an ended attempt, and log its line unless there are too many."""
        job = attempt.job
        at = monotonic()
        ran_seconds = at - attempt.began
        self._metrics.finished(
            job.mode, status, job.waited_seconds if job.attempt == 1 else None, ran_seconds
        )
        if status == "lost":
            self._metrics.lease_lost()
        if at >= self._second_ends:
            self._next_second(at)
        if self._logged < self._per_second or status in ALWAYS_LOGGED:
            self._logged += 1
            _write_line(attempt, status, ran_seconds, error)
        else:
            self._left_out += 1

    def flush(self) -> None:
        """Log how many lines the last second left out, once it is over."""
        at = monotonic()
        if self._left_out and at >= self._second_ends:
            self._next_second(at)

    def _next_second(self, at: float) -> None:
        if self._left_out and self._per_second:
            log.info(events.ATTEMPTS_NOT_LOGGED, attempts=self._left_out)
        self._second_ends = at + 1.0
        self._logged = 0
        self._left_out = 0


def _write_line(attempt: Attempt, status: str, ran_seconds: float, error: str | None) -> None:
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
        took_ms=round(ran_seconds * 1000, 1),
        trace_id=trace_id(job.trace_parent),
        **({"request_id": job.request_id} if job.request_id else {}),
        **({"error": error} if error else {}),
    )
