"""Tables that several commands print: queues and workers.

In: rows. Out: a table for people.
"""

from datetime import UTC, datetime

from db.diagnosis.checkup import QueueCounts
from db.queue.workers import Worker
from worker.cli.terminal.output import Column, emit_table, styled
from worker.cli.terminal.times import age, span
from worker.cli.terminal.words import worker_state

QUEUES = [
    Column("QUEUE", flexible=True),
    Column("STATE"),
    Column("QUEUED", right=True),
    Column("WAITING", right=True),
    Column("RUNNING", right=True),
]
WORKERS = [
    Column("WORKER", flexible=True),
    Column("STATE"),
    Column("RUNNING", right=True),
    Column("SLOTS", right=True),
    Column("UP", right=True),
    Column("BEAT", right=True),
    Column("QUEUES", flexible=True, optional=True),
    Column("MODES", flexible=True),
]
NO_WORKER = "no worker is alive\n  → jobsworth worker"


def emit_queues(found: list[QueueCounts]) -> None:
    """Print queues with their counts."""
    rows = [
        [
            queue.name,
            styled("paused" if queue.paused else "open", ", fair" if queue.fair else ""),
            *counts_of(queue),
        ]
        for queue in found
    ]
    emit_table(QUEUES, rows, "no queue has open jobs, a worker or a pause, or is fair")


def counts_of(queue: QueueCounts) -> tuple[str, str, str]:
    """Its queued, waiting and running jobs; a "+" where there may be more than were counted."""
    return (
        f"{queue.queued:,}{'+' if queue.more_queued else ''}",
        f"{queue.waiting:,}{'+' if queue.more_waiting else ''}",
        f"{queue.running:,}",
    )


def emit_workers(found: list[Worker], rescue_seconds: float) -> None:
    """Print workers; one without a heartbeat for `rescue_seconds` is silent."""
    now = datetime.now(UTC)
    rows = [
        [
            f"{worker.host}:{worker.pid}",
            styled(worker_state(worker, rescue_seconds)),
            str(worker.running),
            str(worker.slots),
            age(worker.started_at, now),
            span(worker.beaten_seconds_ago),
            ", ".join(worker.queues),
            ", ".join(worker.modes),
        ]
        for worker in found
    ]
    emit_table(WORKERS, rows, NO_WORKER)
