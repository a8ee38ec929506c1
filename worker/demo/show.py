"""The demo's output while it plays: a live table on a terminal, plain lines elsewhere.

In: snapshots of the jobs, and events. Out: text. Nothing here decides anything.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from db.queue.jobs import Job

WIDTH_PIPED = 110
WIDTH_MIN = 20
INDENT = 10
LINE_SECONDS = 5.0
STATUSES = ("queued", "waiting", "running", "done", "failed", "canceled")


class Show:
    """Prints what happens; as a context manager, keeps a live table of the jobs meanwhile."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(
                file=self.console.file, highlight=False, width=WIDTH_PIPED, color_system=None
            )
        self._live = Live(console=self.console, refresh_per_second=8, transient=True)
        self._began = self._printed_at = time.monotonic()
        self._fed = "no message yet"

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Show no table any more; lines are still printed."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line about something that happened."""
        lines = wrap(text, max(WIDTH_MIN, self.console.width - INDENT), break_long_words=False)
        for line, head in zip_longest(lines, [f"{self._seconds():6.1f} s  "], fillvalue=""):
            self.console.print(f"{head:{INDENT}}{line}", markup=False, soft_wrap=True)

    def fed(self, number: int, total: int) -> None:
        """Note how many messages are in, for the next table or line."""
        self._fed = f"{number} of {total} messages"

    def snapshot(self, jobs: Sequence[Job]) -> None:
        """Show how many jobs are in which status."""
        if not jobs:
            return
        if self.console.is_terminal:
            self._live.update(_table(jobs, f"{self._seconds():.0f} s, {self._fed}"))
        elif time.monotonic() - self._printed_at >= LINE_SECONDS:
            self._printed_at = time.monotonic()
            counted = Counter(str(job.status) for job in jobs)
            states = ", ".join(f"{counted[s]} {s}" for s in STATUSES if counted[s])
            self.say(f"{self._fed}; jobs: {states}")

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _table(jobs: Sequence[Job], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("mode")
    for status in STATUSES:
        table.add_column(status, justify="right")
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for job in jobs:
        counted[job.mode][job.status] += 1
    for mode, states in sorted(counted.items()):
        table.add_row(mode, *(str(states[status] or "") for status in STATUSES))
    return table
