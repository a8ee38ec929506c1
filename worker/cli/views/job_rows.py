"""Jobs as the rows of a table.

In: jobs. Out: for each its id, mode, status and age, and the one thing worth saying about it.
"""

from datetime import datetime

from rich.text import Text

from db.queue.jobs import Job, JobStatus, WaitReason
from worker.cli.terminal.output import Column, one_line
from worker.cli.terminal.times import age, ago
from worker.cli.terminal.words import job_status

COLUMNS = [
    Column("ID"),
    Column("MODE", flexible=True),
    Column("STATUS"),
    Column("AGE", right=True),
    Column("DETAIL", flexible=True),
]


def job_row(found: Job, shown_id: str, now: datetime) -> list[str | Text | None]:
    """A row of a table with the columns `COLUMNS`; `shown_id` is as much of the id as is shown."""
    status = job_status(found)
    return [shown_id, found.mode, status, age(found.created_at, now), _detail(found, now)]


def _detail(found: Job, now: datetime) -> str:
    if found.status in (JobStatus.FAILED, JobStatus.CANCELED):
        return one_line(found.error or "")
    if found.status is JobStatus.WAITING and found.waiting_for is WaitReason.TIMER:
        failed = f", failed {found.failures}×" if found.failures else ""
        return f"due {ago(found.run_at, now)}{failed}"
    if found.status is JobStatus.WAITING and found.waiting_for is WaitReason.HANDLER:
        return "no living worker knows this mode"
    if found.status is JobStatus.WAITING:
        return one_line(found.waiting_detail or "")
    if found.status is JobStatus.RUNNING:
        return f"attempt {found.attempt}, since {ago(found.started_at, now)}"
    return "" if found.queue == "default" else f"queue {found.queue}"
