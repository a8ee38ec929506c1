"""Each attempt has its line, up to a rate; beyond it only those that went wrong, and a count."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from db.fence import Lease
from db.queue.attempts import BadEnding
from jobsworth import handler
from tests.worker.job_api import claimed_job, registered
from worker import events
from worker.queue import attempt_log
from worker.queue.attempt import Attempt
from worker.queue.attempt_log import AttemptLog
from worker.web.metrics import Metrics

DONE = BadEnding("done")
BROKEN = BadEnding("failed", "it broke", "jobs.py:7 in work\nValueError: of Ada")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [1000.0]
    monkeypatch.setattr(attempt_log, "monotonic", lambda: at[0])
    return at


@pytest.fixture
def attempt() -> Attempt:
    async def work() -> None: ...

    with registered() as registry:
        handler("work")(work)
        job = claimed_job()
        return Attempt(job, Lease(job.id, 1, UUID(int=2)), registry["work"])


def lines(captured: list[Any], event: str) -> list[Any]:
    return [line for line in captured if line["event"] == event]


def test_lines_beyond_the_rate_are_counted_not_written(
    clock: list[float], attempt: Attempt
) -> None:
    metrics = Metrics()
    tells = AttemptLog(metrics, 3)
    with capture_logs() as captured:
        for _ in range(10):
            tells.ended(attempt, "done", DONE)
        tells.flush()
        assert len(lines(captured, events.ATTEMPT_ENDED)) == 3
        assert lines(captured, events.ATTEMPTS_NOT_LOGGED) == []
        clock[0] += 1
        tells.flush()
        tells.flush()
        [told] = lines(captured, events.ATTEMPTS_NOT_LOGGED)
        assert told["attempts"] == 7
        tells.ended(attempt, "done", DONE)
    assert len(lines(captured, events.ATTEMPT_ENDED)) == 4
    assert metrics.finishes[attempt.job.queue, attempt.job.mode, "done"] == 11


@pytest.mark.parametrize("per_second", [0, 2])
def test_failed_and_lost_attempts_are_always_told(
    clock: list[float], attempt: Attempt, per_second: int
) -> None:
    tells = AttemptLog(Metrics(), per_second)
    with capture_logs() as captured:
        for _ in range(5):
            tells.ended(attempt, "done", DONE)
            tells.ended(attempt, "failed", BROKEN)
            tells.ended(attempt, "waiting", BROKEN)
            tells.ended(attempt, "lost", BadEnding("lost"))
        clock[0] += 1
        tells.flush()
    failed = [line for line in captured if line.get("status") == "failed"]
    assert [line["error"] for line in failed] == ["it broke"] * 5
    assert {(line["log_level"], line["at"]) for line in failed} == {("error", "jobs.py:7 in work")}
    retried = [line for line in captured if line.get("status") == "waiting"]
    assert [(line["log_level"], line["outcome"]) for line in retried] == [("warning", "failed")] * 5
    assert len(lines(captured, events.ATTEMPT_LEASE_LOST)) == 5
    # Whoever wants no lines wants no counts either.
    assert bool(lines(captured, events.ATTEMPTS_NOT_LOGGED)) == (per_second > 0)
