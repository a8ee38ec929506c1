"""`jobsworth top`: the installation as a live view of a terminal.

In: nothing. Out: a screen that is renewed every second until `q` or Ctrl-C; where stdout is no
terminal, the same once. Invariant: what is shown fits the terminal, of which 80 × 24 is enough, and
the terminal is left as it was.
"""

import os
import sys
import termios
import tty
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from db.approvals import approvals
from db.diagnosis import checkup
from db.diagnosis.checkup import QueueCounts
from db.money import ledger
from db.money.ledger import DailyUsage
from db.pool import Connection
from db.queue import jobs, workers
from db.queue.jobs import Counts, Job, JobStatus
from db.queue.workers import Worker
from worker.cli.terminal import ids, words
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import connected, run_async
from worker.cli.terminal.output import clean, emit, is_terminal, one_line, styled
from worker.cli.terminal.times import span
from worker.cli.views.job_rows import job_row
from worker.cli.views.tables import counts_of
from worker.settings import Settings, load_settings

LOOK_SECONDS = 1.0
WORKERS_SHOWN, QUEUES_SHOWN = 4, 4
JOBS_READ = 60
APPROVALS_MAX = 99
HEIGHT_WITHOUT_TERMINAL, WIDTH_WITHOUT_TERMINAL = 40, 100


@dataclass(frozen=True, slots=True)
class Sight:
    """What is on the screen."""

    counts: Counts
    workers: list[Worker]
    queues: list[QueueCounts]
    spent: DailyUsage
    asking: int
    jobs: list[Job]


@click.command("top", cls=Verb, examples=["jobsworth top"])
def top() -> None:
    """Watch workers, queues and jobs live; `q` ends it.

    Where the output is no terminal, it is printed once.
    """
    settings = load_settings()
    run_async(lambda: _watch(settings))


async def _watch(settings: Settings) -> None:
    async with connected(settings) as conn:
        if not is_terminal():
            seen = await _look(conn)
            emit(screen(seen, settings, WIDTH_WITHOUT_TERMINAL, HEIGHT_WITHOUT_TERMINAL))
            return
        console = Console(highlight=False)
        async with _key("q") as pressed:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while not pressed.is_set():
                    seen = await _look(conn)
                    size = console.size
                    live.update(screen(seen, settings, size.width, size.height), refresh=True)
                    with anyio.move_on_after(LOOK_SECONDS):
                        await pressed.wait()


async def _look(conn: Connection) -> Sight:
    running = await jobs.list_jobs(conn, status=JobStatus.RUNNING, limit=JOBS_READ)
    newest = await jobs.list_jobs(conn, limit=JOBS_READ)
    known = {job.id for job in running}
    return Sight(
        counts=await jobs.counts(conn),
        workers=await workers.list_workers(conn),
        queues=await checkup.queues(conn),
        spent=await ledger.get_daily_usage(conn),
        asking=len(await approvals.get_pending(conn, APPROVALS_MAX)),
        jobs=[*running, *(job for job in newest if job.id not in known)],
    )


def screen(seen: Sight, settings: Settings, width: int, height: int) -> RenderableType:
    """A screen of that many lines: the head, workers, queues, and as many jobs as there is room."""
    now = datetime.now(UTC)
    shown_workers = seen.workers[:WORKERS_SHOWN]
    shown_queues = seen.queues[:QUEUES_SHOWN]
    parts: list[RenderableType] = [_head(seen, now, width), Text("")]
    parts.append(_workers(shown_workers, settings, width) if shown_workers else _no_worker())
    parts += [Text(""), _queues(shown_queues, width)] if shown_queues else []
    used = 2 + 2 + 2 * bool(shown_queues) + (len(shown_workers) or 1) + len(shown_queues) + 2
    return Group(*parts, Text(""), _jobs(seen.jobs[: max(1, height - used)], now, width))


def _head(seen: Sight, now: datetime, width: int) -> Text:
    counts = seen.counts
    waiting = ", ".join(
        f"{number:,} {reason}" for reason, number in sorted(counts.waiting.items()) if number
    )
    oldest = counts.oldest_queued_seconds
    head = Text.assemble(
        (f"{now.astimezone():%H:%M:%S}  ", "dim"),
        styled("running", f" {counts.running:,}  "),
        styled("queued", f" {counts.queued:,}" + (f" ({span(oldest)})" if oldest else "") + "  "),
        styled("waiting", f" {sum(counts.waiting.values()):,}  "),
        (f"{words.cost(seen.spent)} USD today  ", ""),
        (f"{seen.asking} to approve  " if seen.asking else "", "bold yellow"),
        (waiting, "dim"),
    )
    head.truncate(width, overflow="ellipsis")
    head.no_wrap = True
    return head


def _grid(*titles: str, width: int, right: tuple[str, ...] = (), wide: str = "") -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), width=width, header_style="bold")
    for title in titles:
        table.add_column(
            title,
            justify="right" if title in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if title == wide else None,
        )
    return table


def _workers(found: list[Worker], settings: Settings, width: int) -> Table:
    numbers = ("RUNNING", "BEAT")
    table = _grid("WORKER", "STATE", *numbers, width=width, right=numbers, wide="WORKER")
    for each in found:
        table.add_row(
            clean(f"{each.host}:{each.pid}"),
            styled(words.worker_state(each, settings.rescue_seconds)),
            f"{each.running}/{each.slots}",
            span(each.beaten_seconds_ago),
        )
    return table


def _no_worker() -> Text:
    return Text("no worker is alive → jobsworth worker", style="yellow")


def _queues(found: list[QueueCounts], width: int) -> Table:
    numbers = ("QUEUED", "WAITING", "RUNNING")
    table = _grid("QUEUE", "STATE", *numbers, width=width, right=numbers, wide="QUEUE")
    for each in found:
        state = styled("paused" if each.paused else "open")
        table.add_row(clean(each.name), state, *counts_of(each))
    return table


def _jobs(found: list[Job], now: datetime, width: int) -> Table:
    titles = ("JOB", "MODE", "STATUS", "AGE", "DETAIL")
    table = _grid(*titles, width=width, right=("AGE",), wide="DETAIL")
    short = ids.short_ids(each.id for each in found)
    for each in found:
        cells = job_row(each, short(each.id), now)
        table.add_row(
            *(cell if isinstance(cell, Text) else clean(one_line(cell or "")) for cell in cells)
        )
    return table


@asynccontextmanager
async def _key(wanted: str) -> AsyncGenerator[anyio.Event]:
    """Set when the key is pressed; the terminal echoes nothing until the block ends."""
    pressed = anyio.Event()
    if not sys.stdin.isatty():
        yield pressed
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    async def read() -> None:
        while not pressed.is_set():
            await anyio.wait_readable(terminal)
            if wanted.encode() in os.read(terminal, 64).lower():
                pressed.set()

    try:
        tty.setcbreak(terminal)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            yield pressed
            tasks.cancel_scope.cancel()
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
