"""The canonical log line and the metrics of each attempt.

In: attempts whose transition is committed, or whose lease is lost. Out: one log line for each, and
metrics. Above a rate, the lines of attempts that ended well are left out and counted, so that
logging never costs more than the work; others are always logged. Levels: `error` for a job that has
failed for good, `warning` for an attempt that failed, was interrupted or lost its lease.
"""

from logging import ERROR, INFO, WARNING
from time import monotonic

from db.queue.attempts import BadEnding
from worker import events
from worker.log import get_logger
from worker.plain_job import trace_id
from worker.queue.attempt import Attempt
from worker.web.metrics import Metrics

WARNINGS = ("failed", "interrupted", "lost")

log = get_logger()


class AttemptLog:
    """Logs ended attempts, at most `per_second` of them; with 0, only failed and lost ones."""

    def __init__(self, metrics: Metrics, per_second: int) -> None:
        self._metrics = metrics
        self._per_second = per_second
        self._second_ends = 0.0
        self._logged = 0
        self._left_out = 0

    def claimed(self, queue: str, mode: str) -> None:
        """Count an attempt that begins."""
        self._metrics.claimed(queue, mode)

    def ended(self, attempt: Attempt, status: str, ending: BadEnding) -> None:
        """Count an ended attempt, and log its line unless there are too many.

        `status` is the job's new one; "lost": another attempt has the job. The outcome of an
        `ending` that went well is that status.
        """
        job = attempt.job
        at = monotonic()
        ran_seconds = at - attempt.began
        self._metrics.finished(
            job.queue,
            job.mode,
            ending.outcome,
            job.waited_seconds if job.attempt == 1 else None,
            ran_seconds,
            for_good=status == "failed",
        )
        if status == "lost":
            self._metrics.lease_lost()
        if at >= self._second_ends:
            self._next_second(at)
        level = _level(status, ending.outcome)
        if self._logged < self._per_second or level != INFO:
            self._logged += 1
            _write_line(level, attempt, status, ran_seconds, ending)
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


def _level(status: str, outcome: str) -> int:
    if status == "failed":
        return ERROR
    return WARNING if status == "lost" or outcome in WARNINGS else INFO


def _write_line(
    level: int, attempt: Attempt, status: str, ran_seconds: float, ending: BadEnding
) -> None:
    job = attempt.job
    more = {
        "request_id": job.request_id,
        "error": ending.error,
        # Where in the handler, without the values that an exception's text may quote.
        "at": ending.traceback and ending.traceback.partition("\n")[0],
    }
    log.log(
        level,
        events.ATTEMPT_LEASE_LOST if status == "lost" else events.ATTEMPT_ENDED,
        job_id=str(job.id),
        lease_no=job.lease_no,
        mode=job.mode,
        queue=job.queue,
        attempt=job.attempt,
        status=status,
        outcome=ending.outcome,
        waited_ms=round(job.waited_seconds * 1000, 1),
        took_ms=round(ran_seconds * 1000, 1),
        trace_id=trace_id(job.trace_parent),
        **{name: value for name, value in more.items() if value},
    )
