"""`jobsworth status`: the installation at a glance.

In: nothing. Out: workers, queues, what waits for what, what was spent today, violations. The exit
code is 1 if there are violations.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from db.diagnosis import checkup, violations
from db.diagnosis.checkup import QueueCounts
from db.errors import InvalidInput
from db.money import ledger
from db.money.ledger import DailyUsage
from db.pool import Connection
from db.queue import jobs, workers
from db.queue.jobs import Counts
from db.queue.workers import Worker
from worker.cli.database import connected, run_async, run_in_database
from worker.cli.exit_codes import ExitCode
from worker.cli.ledger import cost_words
from worker.cli.output import (
    Column,
    clear_screen,
    emit,
    emit_facts,
    emit_heading,
    emit_json,
    emit_table,
    is_terminal,
    styled,
)
from worker.cli.queues import emit_queues
from worker.cli.times import age, span
from worker.settings import Settings, load_settings

VIOLATIONS_SECONDS = 5.0
WATCH_SECONDS = 2.0

WORKER_COLUMNS = [
    Column("WORKER", flexible=True),
    Column("STATE"),
    Column("RUNNING", right=True),
    Column("SLOTS", right=True),
    Column("UP", right=True),
    Column("BEAT", right=True),
    Column("MODES", flexible=True),
]


@dataclass(frozen=True, slots=True)
class Status:
    """What the command shows; `violations` is None if counting them took too long."""

    workers: list[Worker]
    queues: list[QueueCounts]
    counts: Counts
    spent: DailyUsage
    violations: int | None


def show(*, watch: bool, as_json: bool) -> ExitCode:
    settings = load_settings()
    if watch and as_json:
        raise InvalidInput("--watch and --json do not go together", "leave one of them out")
    if watch:
        run_async(lambda: _watch(settings))
    status = run_in_database(settings, read)
    if as_json:
        emit_json(_document(status, settings))
    else:
        _emit(status, settings)
    return ExitCode.NO if status.violations else ExitCode.OK


async def read(conn: Connection) -> Status:
    """The state of the installation."""
    return Status(
        workers=await workers.list_workers(conn),
        queues=await checkup.queues(conn),
        counts=await jobs.counts(conn),
        spent=await ledger.get_daily_usage(conn),
        violations=await violations.count(conn, VIOLATIONS_SECONDS),
    )


def worker_state(worker: Worker, rescue_seconds: float) -> str:
    """Silent: its heartbeat is older than the time after which others take its jobs."""
    if worker.beaten_seconds_ago > rescue_seconds:
        return "silent"
    return "draining" if worker.draining else "alive"


async def _watch(settings: Settings) -> None:
    import anyio

    async with connected(settings) as conn:
        while True:
            began = time.monotonic()
            status = await read(conn)
            if is_terminal():
                clear_screen()
            _emit(status, settings)
            took = time.monotonic() - began
            await anyio.sleep(max(WATCH_SECONDS, took))


def _document(status: Status, settings: Settings) -> dict[str, Any]:
    return {
        "workers": [
            {**worker.model_dump(), "state": worker_state(worker, settings.rescue_seconds)}
            for worker in status.workers
        ],
        "queues": status.queues,
        "queued": status.counts.queued,
        "running": status.counts.running,
        "waiting": status.counts.waiting,
        "oldest_queued_seconds": status.counts.oldest_queued_seconds,
        "spent_today": status.spent,
        "violations": status.violations,
    }


def _emit(status: Status, settings: Settings) -> None:
    emit_facts(
        [
            ("jobs", _jobs(status.counts)),
            ("waiting for", _waiting(status.counts) or "nothing"),
            (
                "spent today",
                f"{status.spent.total_tokens:,} tokens, {cost_words(status.spent)} USD",
            ),
            ("violations", _violations(status.violations)),
        ]
    )
    emit_heading("Workers")
    now = datetime.now(UTC)
    rows = [_worker_row(worker, settings.rescue_seconds, now) for worker in status.workers]
    if rows:
        emit_table(WORKER_COLUMNS, rows, "")
    else:
        emit("none; start one: jobsworth worker")
    if status.queues:
        emit_heading("Queues")
        emit_queues(status.queues)


def _jobs(counts: Counts) -> str:
    waiting = sum(counts.waiting.values())
    oldest = ""
    if counts.queued and counts.oldest_queued_seconds is not None:
        oldest = f" (oldest for {span(counts.oldest_queued_seconds)})"
    return f"{counts.queued:,} queued{oldest}, {counts.running:,} running, {waiting:,} waiting"


def _waiting(counts: Counts) -> str:
    ordered = sorted(counts.waiting.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {number:,}" for reason, number in ordered if number)


def _violations(count: int | None) -> Text:
    if count is None:
        return Text(f"not counted within {VIOLATIONS_SECONDS:g} s", style="yellow")
    if count == 0:
        return Text("none", style="green")
    return Text(f"{count:,}; see: jobsworth doctor", style="bold red")


def _worker_row(
    worker: Worker, rescue_seconds: float, now: datetime
) -> Sequence[str | Text | None]:
    return [
        f"{worker.host}:{worker.pid}",
        styled(worker_state(worker, rescue_seconds)),
        str(worker.running),
        str(worker.slots),
        age(worker.started_at, now),
        span(worker.beaten_seconds_ago),
        ", ".join(worker.modes),
    ]
