"""Now: what needs a person, and how it goes.

In: the state of the installation. Out: one list of what a person can do something about, the most
pressing first, and the course of the last hour, day or week.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import Response

from db.approvals import approvals
from db.approvals.approvals import Approval
from db.diagnosis import checkup, course, health
from db.diagnosis.checkup import UnknownMode
from db.diagnosis.course import COUNTED_MAX, Failing, Stretch
from db.diagnosis.health import JobSample
from db.money import budgets, ledger
from db.money.budgets import Budget
from db.pool import Connection
from db.queue import jobs, workers
from db.queue.jobs import Job, JobStatus, WaitReason
from db.queue.workers import Worker
from worker.cli.terminal.words import count, worker_state
from worker.dashboard.frame import Frame, answer

NEEDS_MAX = 20
FAILED_SECONDS = 86_400.0
# How many stretches of how many seconds, and how the first is called.
SPANS = {
    "hour": (30, 120.0, "an hour ago"),
    "day": (24, 3_600.0, "a day ago"),
    "week": (28, 21_600.0, "a week ago"),
}


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a person can do something about."""

    href: str
    title: str
    detail: str
    status: str
    more: str = ""
    since: datetime | None = None


async def page(conn: Connection, frame: Frame) -> Response:
    span = frame.query.get("span", "hour")
    span = span if span in SPANS else "hour"
    asked = await approvals.get_pending(conn, NEEDS_MAX)
    living = await workers.list_workers(conn)
    bounds = await budgets.list_all(conn)
    needs = [
        *_asked(frame, asked),
        *_stuck(frame, await _for_person(conn)),
        *_unknown(frame, await checkup.unknown_modes(conn, frame.settings.rescue_seconds)),
        *_failing(frame, await course.failing(conn, FAILED_SECONDS)),
        *_over(frame, bounds),
        *_silent(frame, living),
    ]
    counts = await health.sample_jobs(conn)
    depth = _depth(counts)
    stretches, seconds, since = SPANS[span]
    went = await course.stretches(conn, stretches, seconds)
    return answer(
        frame,
        "now.html",
        page="now",
        asking=len(asked),
        needs=needs,
        span=span,
        counts=counts,
        depth=depth,
        deepest=max((jobs for _, _, jobs in depth), default=0),
        total=sum(jobs for _, _, jobs in depth),
        alive=sum(worker_state(w, frame.settings.rescue_seconds) == "alive" for w in living),
        workers=living,
        budgets=bounds[:3],
        spent=await ledger.get_daily_usage(conn),
        courses=[
            _course("Jobs that arrived", "cyan", went, "arrived", since),
            _course("Jobs that failed", "red", went, "failed", since),
            _course("Model calls", "green", went, "calls", since),
        ],
    )


async def _for_person(conn: Connection) -> list[Job]:
    return await jobs.list_jobs(
        conn, status=JobStatus.WAITING, waiting_for=WaitReason.PERSON, limit=NEEDS_MAX
    )


def _asked(frame: Frame, found: Sequence[Approval]) -> list[Need]:
    return [
        Need(
            frame.url("approvals", each.id),
            each.proposal_text,
            f"asked by {each.asked_by}" if each.asked_by else "a job waits for your answer",
            each.status,
            "approval",
            each.created_at,
        )
        for each in found
    ]


def _stuck(frame: Frame, found: Sequence[Job]) -> list[Need]:
    return [
        Need(
            frame.url("jobs", each.id),
            f"{each.mode} is stuck",
            each.waiting_detail or "it waits for a person",
            "waiting",
            "person",
            each.started_at or each.created_at,
        )
        for each in found
    ]


def _unknown(frame: Frame, found: Sequence[UnknownMode]) -> list[Need]:
    return [
        Need(
            frame.url("jobs", mode=each.mode),
            f"No living worker knows the mode {each.mode}",
            f"{count(each.jobs, 'job')} could run: start a worker with its handler",
            "waiting",
            "handler",
        )
        for each in found
    ]


def _failing(frame: Frame, found: Sequence[Failing]) -> list[Need]:
    return [
        Need(
            frame.url("jobs", each.last_id)
            if each.jobs == 1
            else frame.url("jobs", status="failed", mode=each.mode),
            f"{count(each.jobs, 'job')} of mode {each.mode} failed",
            each.last_error or "",
            "failed",
            "",
            each.last_at,
        )
        for each in found
    ]


def _over(frame: Frame, found: Sequence[Budget]) -> list[Need]:
    return [
        Need(
            frame.url("spend"),
            f"Budget {each.name} is used up",
            f"{count(each.waiting, 'job')} wait: raise it, or wait for its next {each.period}",
            "waiting",
            "budget",
        )
        for each in found
        if each.waiting or each.spent + each.reserved >= each.amount
    ]


def _silent(frame: Frame, found: Sequence[Worker]) -> list[Need]:
    return [
        Need(
            frame.url("system"),
            f"Worker {each.host}, process {each.pid}, is silent",
            "others take over its jobs: look whether its machine is well",
            "silent",
            "",
            each.beaten_at,
        )
        for each in found
        if worker_state(each, frame.settings.rescue_seconds) == "silent"
    ]


def _depth(counts: JobSample) -> list[tuple[str, str | None, int]]:
    waiting = sorted(counts.waiting.items(), key=lambda item: -item[1])
    return [
        row
        for row in [
            ("running", None, counts.running),
            ("queued", None, counts.queued),
            *(("waiting", reason, number) for reason, number in waiting),
        ]
        if row[2]
    ]


def _course(
    title: str, colour: str, went: Sequence[Stretch], what: str, since: str
) -> dict[str, Any]:
    values = [int(getattr(each, what)) for each in went]
    more = "+" if any(value >= COUNTED_MAX for value in values) else ""
    total = f"{sum(values):,}{more}"
    return {
        "title": title,
        "colour": colour,
        "numbers": values,
        "total": total,
        "titles": [
            f"{value:,}{'+' if value >= COUNTED_MAX else ''} from {each.at:%Y-%m-%d %H:%M} UTC"
            for value, each in zip(values, went, strict=True)
        ],
        "label": f"{title} since {since}: {total} in all, at most {max(values, default=0):,} a bar",
        "from": since,
    }
