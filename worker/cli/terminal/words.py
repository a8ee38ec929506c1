"""Phrases that several commands print.

In: rows. Out: their status in words, with its colour; costs; who is at the keyboard.
"""

import getpass
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from worker.cli.terminal.output import Column, emit_heading, emit_table, styled

# Building these models takes 50 ms, and a command needs one or two of them.
if TYPE_CHECKING:
    from db.approvals.approvals import Approval
    from db.memory.outbox import Outbox
    from db.money.ledger import Spent
    from db.queue.jobs import Job
    from db.queue.workers import Worker
    from db.runs.runs import Run

# What a reason is cut to: a line says it.
REASON_CHARACTERS_MAX = 200
BOOKS_REMEDY = (
    "report it: the ledger or a call was changed by hand, or Jobsworth has made a mistake"
)


def put_off(texts: "Outbox") -> list[str]:
    """Lines about texts that failed to be embedded, or wait for a budget, with the reason, and
    about those that a switch has not reached.
    """
    lines: list[str] = []
    if texts.reason:
        reason = texts.reason[:REASON_CHARACTERS_MAX]
        lines.append(f"{texts.failing:,} texts were put off and wait to be embedded: {reason}")
    if texts.switching:
        lines.append(f"{texts.switching:,} texts wait for the embedder that is switched to")
    return lines


def job_status(job: "Job") -> Text:
    """A job's status, and what it waits for."""
    more = f": {job.waiting_for}" if job.waiting_for else ""
    if job.status == "running" and job.cancel_requested:
        more = ", canceling"
    return styled(job.status, more)


def run_status(run: "Run") -> Text:
    """A run's status, and whether it is being canceled."""
    return styled(run.status, ", canceling" if run.cancel_requested and not run.finished_at else "")


def approval_status(found: "Approval") -> Text:
    """An approval's status, and the option that was chosen if it was not simply yes or no."""
    plain = found.chosen_option in (None, "approve", "reject")
    return styled(found.status, "" if plain else f" ({found.chosen_option})")


def worker_state(worker: "Worker", rescue_seconds: float) -> str:
    """`silent` if other workers take over its jobs, else `draining` or `alive`."""
    if worker.beaten_seconds_ago > rescue_seconds:
        return "silent"
    return "draining" if worker.draining else "alive"


def cost(spent: "Spent") -> str:
    """The known cost in USD; "?" if no cost is known, a "+" if some are not."""
    missing = spent.unknown_cost_entries > 0
    if spent.cost is None:
        return "?" if missing else "0"
    return f"{spent.cost:f}" + ("+" if missing else "")


def count(number: int, noun: str) -> str:
    """ "1 job", "2,000 jobs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def user_name() -> str:
    """The user at the keyboard, the same on each of their machines."""
    return getpass.getuser()


def user_and_host() -> str:
    """The user at the keyboard and this machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def emit_part(
    title: str, columns: list[Column], rows: Sequence[Sequence[str | Text | None]]
) -> None:
    """A table with its title; nothing without rows."""
    if rows:
        emit_heading(title)
        emit_table(columns, rows, "")
