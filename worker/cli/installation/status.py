"""`jobsworth status`: the installation at a glance.

In: nothing. Out: workers, queues, waiting jobs by reason, what was spent today, violations. The
exit code is 1 if there are violations.
"""

import time
from dataclasses import dataclass
from typing import Any

import click
from rich.text import Text

from db.diagnosis import checkup, violations
from db.diagnosis.checkup import QueueCounts
from db.errors import InvalidInput
from db.memory import outbox, spaces
from db.memory.outbox import Outbox
from db.memory.spaces import Hidden
from db.money import ledger
from db.money.ledger import DailyUsage
from db.pool import Connection
from db.queue import jobs, workers
from db.queue.jobs import Counts
from db.queue.workers import Worker
from worker.cli.terminal import options, words
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import connected, run_async, run_in_database
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import (
    clear_screen,
    emit,
    emit_facts,
    emit_heading,
    emit_json,
    is_terminal,
)
from worker.cli.terminal.times import span
from worker.cli.views.tables import NO_WORKER, emit_queues, emit_workers
from worker.memory.choice import space_of
from worker.settings import Settings, load_settings

VIOLATIONS_SECONDS = 5.0
WATCH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the installation; `violations` is None if counting them took too long; `hidden`
    are memories that the embedder of these settings cannot find, `to_embed` those that wait for it.
    """

    workers: list[Worker]
    queues: list[QueueCounts]
    counts: Counts
    spent: DailyUsage
    violations: int | None
    hidden: list[Hidden]
    to_embed: Outbox


@click.command("status", cls=Verb, examples=["jobsworth status", "jobsworth status --watch"])
@click.option("--watch", is_flag=True, help="Show it again every 2 s.")
@options.as_json
def status(watch: bool, as_json: bool) -> ExitCode:
    """Show workers, queues, waiting jobs, today's spending and violations.

    The exit code is 1 if there are violations.
    """
    settings = load_settings()
    if watch and as_json:
        raise InvalidInput("--watch and --json do not go together", "choose one of them")
    if watch:
        run_async(lambda: _watch(settings))
    found = run_in_database(lambda conn: read(conn, settings), settings)
    if as_json:
        emit_json(_document(found, settings))
    else:
        _emit(found, settings)
    return ExitCode.NO if found.violations else ExitCode.OK


async def read(conn: Connection, settings: Settings) -> Status:
    """Read the state of the installation."""
    return Status(
        workers=await workers.list_workers(conn),
        queues=await checkup.queues(conn),
        counts=await jobs.counts(conn),
        spent=await ledger.get_daily_usage(conn),
        violations=await violations.count(conn, VIOLATIONS_SECONDS),
        hidden=await spaces.hidden(conn, space_of(settings)),
        to_embed=await outbox.counts(conn),
    )


async def _watch(settings: Settings) -> None:
    import anyio

    async with connected(settings) as conn:
        while True:
            began = time.monotonic()
            found = await read(conn, settings)
            if is_terminal():
                clear_screen()
            _emit(found, settings)
            took = time.monotonic() - began
            await anyio.sleep(max(WATCH_SECONDS, took))


def _document(status: Status, settings: Settings) -> dict[str, Any]:
    return {
        "workers": [
            {**worker.model_dump(), "state": words.worker_state(worker, settings.rescue_seconds)}
            for worker in status.workers
        ],
        "queues": status.queues,
        "queued": status.counts.queued,
        "running": status.counts.running,
        "waiting": status.counts.waiting,
        "oldest_queued_seconds": status.counts.oldest_queued_seconds,
        "spent_today": status.spent,
        "violations": status.violations,
        "memories_hidden": status.hidden,
        "memories_to_embed": status.to_embed,
    }


def _emit(status: Status, settings: Settings) -> None:
    emit_facts(
        [
            ("jobs", _jobs(status.counts)),
            ("waiting for", _waiting(status.counts) or "nothing"),
            (
                "spent today",
                f"{status.spent.total_tokens:,} tokens, {words.cost(status.spent)} USD",
            ),
            ("violations", _violations(status.violations)),
            *(("memories", Text(str(one), style="yellow")) for one in status.hidden),
            *(("memories", Text(one, style="yellow")) for one in words.put_off(status.to_embed)),
        ]
    )
    emit_heading("Workers")
    if status.workers:
        emit_workers(status.workers, settings.rescue_seconds)
    else:
        emit(NO_WORKER)
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
