"""`jobsworth retention`: how long jobs that have ended are kept.

In: a time, and which jobs. Out: rules. Without a rule nothing leaves.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from db.pool import Connection
from db.queue import workers
from db.retention import rules
from db.retention.rules import ENDS, Jobs, Rule
from worker.cli.terminal import names, options, times
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit, emit_json, emit_table, say

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = [Column("STATUS"), Column("MODE", flexible=True), Column("QUEUE"), Column("KEPT FOR")]
FOREVER = "forever"

retention = Noun("retention", "Retention: how long jobs that have ended are kept.")


def which(function: F) -> F:
    """The jobs of a rule."""
    for option in (
        click.option("--queue", metavar="QUEUE", shell_complete=names.queues, help="Of a queue."),
        click.option("--mode", metavar="MODE", shell_complete=names.modes, help="Of a mode."),
        options.choice("--status", metavar="STATUS", words=ENDS, help="Which ended so"),
    ):
        function = option(function)
    return function


@retention.verb("list", "jobsworth retention")
@options.as_json
def list_rules(as_json: bool) -> None:
    """List the rules; the first that fits a job counts."""
    found = run_in_database(rules.list_rules)
    if as_json:
        emit_json(found)
        return
    none = "no rules: every job is kept\n  → jobsworth retention set 30d --status done"
    emit_table(COLUMNS, [_row(rule) for rule in found], none)
    if found:
        say("a job that no rule fits is kept; calls, ledger, approvals and messages always are")


@retention.verb(
    "set",
    "jobsworth retention set 30d --status done",
    "jobsworth retention set forever --mode audit",
)
@click.argument("keep", metavar="SPAN", help="How long after its end, like 30d; or forever.")
@which
@options.as_json
def set_rule(
    keep: str, status: str | None, mode: str | None, queue: str | None, as_json: bool
) -> None:
    """Keep jobs for so long after their end, then remove them with all that hangs on them."""
    seconds = None if keep == FOREVER else times.parse_duration(keep, "the time")
    jobs = Jobs(status, mode, queue)

    async def work(conn: Connection) -> None:
        await rules.set_rule(conn, jobs, seconds)
        living = await workers.list_workers(conn)
        if mode and living and not any(mode in worker.modes for worker in living):
            say(f"note: no living worker knows the mode {mode}")

    run_in_database(work)
    if as_json:
        emit_json({**jobs.values(), "keep_seconds": seconds})
    elif seconds is None:
        emit(f"{_words(jobs)} are kept for ever")
    else:
        emit(f"{_words(jobs)} are kept for {times.span(seconds)} after their end, then removed")


@retention.verb("remove", "jobsworth retention remove --status done")
@which
@options.as_json
def remove_rule(status: str | None, mode: str | None, queue: str | None, as_json: bool) -> None:
    """Remove the rule of exactly these jobs."""
    jobs = Jobs(status, mode, queue)

    async def work(conn: Connection) -> None:
        await rules.remove_rule(conn, jobs)

    run_in_database(work)
    if as_json:
        emit_json(jobs.values())
    else:
        emit(f"the rule for {_words(jobs)} is removed")


def _row(rule: Rule) -> list[str | None]:
    kept = FOREVER if rule.keep_seconds is None else times.span(rule.keep_seconds)
    return [rule.status or "any", rule.mode or "any", rule.queue or "any", kept]


def _words(jobs: Jobs) -> str:
    status = f"{jobs.status} " if jobs.status else "ended "
    mode = f" of mode {jobs.mode}" if jobs.mode else ""
    queue = f" in queue {jobs.queue}" if jobs.queue else ""
    return f"{status}jobs{mode}{queue}"
