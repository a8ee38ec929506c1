"""Tables, and the formats of their cells."""

from collections.abc import Iterable
from decimal import Decimal

from rich.table import Table
from rich.text import Text

CHARACTERS_MAX = 90
NUMBERS = {
    *("jobs", "calls", "input", "output", "total", "tokens", "cost", "cost (USD)", "score"),
    *("queued", "waiting", "running", "done", "failed", "canceled"),
}
CENT = Decimal("0.000001")


def pairs(rows: Iterable[tuple[str, object]]) -> Table:
    """A table with a name and a value on each line."""
    shown = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    shown.add_column()
    shown.add_column(overflow="fold")
    for name, value in rows:
        shown.add_row(Text(name), Text(str(value)))
    return shown


def table(first: str, *others: str) -> Table:
    """An empty table with these columns; those of `NUMBERS` are right-aligned."""
    shown = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for name in (first, *others):
        shown.add_column(name, overflow="fold", justify="right" if name in NUMBERS else "left")
    return shown


def short(text: str) -> str:
    """The text on one line, cut to `CHARACTERS_MAX`."""
    line = " ".join(text.split())
    return line if len(line) <= CHARACTERS_MAX else line[: CHARACTERS_MAX - 1] + "…"


def money(amount: Decimal) -> str:
    """US dollars, to the millionth."""
    return f"{amount.quantize(CENT) if amount else amount.normalize():f}"
