"""What a command prints.

In: rows, facts, documents. Out: on stdout, text for people (aligned columns, no lines drawn) or one
JSON document for programs; on stderr, messages. On a terminal a line fits its width and has colour
and bold (neither with NO_COLOR); elsewhere every row is one whole line, for `grep` and `cut`.

Invariant: text that jobs or users wrote cannot steer the terminal (control characters are
replaced), and no secret is printed, but where `emit_text` prints what was asked for.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from worker.masking import mask, masked

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

NARROW_CHARACTERS = 100
# So wide that no row is ever cut or wrapped.
UNBOUNDED_CHARACTERS = 100_000
FLEXIBLE_CHARACTERS_MIN = 16
CELL_CHARACTERS_MAX = 300
GAP = "  "

STYLES = {
    "queued": "cyan",
    "waiting": "yellow",
    "draft": "dim",
    "planning": "cyan",
    "executing": "bold cyan",
    "running": "bold cyan",
    "done": "green",
    "failed": "bold red",
    "canceled": "magenta",
    "pending": "yellow",
    "approved": "green",
    "rejected": "magenta",
    "expired": "magenta",
    "superseded": "dim",
    "building": "cyan",
    "testing": "cyan",
    "deploying": "bold cyan",
    "healthy": "green",
    "rolled_back": "bold red",
    "paused": "yellow",
    "silent": "bold red",
    "✓": "green",
    "!": "yellow",
    "✗": "bold red",
}


class OutputClosed(Exception):
    """The reader of our output has closed the pipe."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. On a narrow terminal, a flexible one is cut and an optional one is left
    out; on any terminal, an optional one without values is left out. All others are always whole.
    """

    title: str
    flexible: bool = False
    right: bool = False
    optional: bool = False


Cell = "str | Text | None"


def is_terminal() -> bool:
    return sys.stdout.isatty()


def has_style() -> bool:
    """Whether colours, bold and other escape sequences may be written (https://no-color.org)."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_narrow() -> bool:
    """Whether stdout is a terminal too narrow for whole ids."""
    return is_terminal() and _width() < NARROW_CHARACTERS


def emit(*lines: "RenderableType") -> None:
    """Write to stdout: a text cleaned, a table or a styled text as the terminal allows."""
    _write("".join(_rendered(line) for line in lines))


def emit_json(document: object) -> None:
    """Write one JSON document to stdout, its secrets masked."""
    from pydantic_core import to_jsonable_python

    _write(indented_json(masked(to_jsonable_python(document, inf_nan_mode="null"))) + "\n")


def emit_text(text: str) -> None:
    """Write a text for programs to stdout, unchanged."""
    _write(text)


def clear_screen() -> None:
    """Go to the top of an empty terminal; without styles, leave a line empty instead."""
    _write("\x1b[H\x1b[2J\x1b[3J" if has_style() else "\n")


def say(message: str) -> None:
    """Write a message to stderr: a note beside the answer on stdout."""
    print(clean(message), file=sys.stderr, flush=True)


def emit_table(
    columns: Sequence[Column], rows: Iterable[Sequence["str | Text | None"]], none: str
) -> None:
    """Write a table; without rows, write `none` to stderr."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    if not cells:
        say(none)
        return
    emit(_table(columns, cells))


def emit_heading(title: str) -> None:
    """Write an empty line and the title of the part that follows."""
    from rich.text import Text

    emit("", Text(title, style="bold"))


def emit_facts(facts: Iterable[tuple[str, "str | Text | None"]], indent: str = "") -> None:
    """Write a line for each label and value; long values wrap in their column. None is left out."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    present = [(label, value) for label, value in facts if value is not None]
    grid = Table.grid(padding=(0, len(GAP), 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in present:
        grid.add_row(label, Text(clean(value)) if isinstance(value, str) else value)
    emit(Padding(grid, (0, 0, 0, len(indent))))


def styled(word: str, more: str = "") -> "Text":
    """A status in its colour, and something beside it."""
    from rich.text import Text

    return Text.assemble((word, STYLES.get(word, "")), more)


def clean(text: str) -> str:
    """`text` without secrets, and without characters that could steer a terminal; line breaks and
    tabs stay.
    """
    return harmless(mask(text))


def harmless(text: str) -> str:
    """`text` without characters that could steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


# C0 without \t and \n, DEL, C1, and the marks that change the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def one_line(text: str | Mapping[str, str]) -> str:
    """`text` in one line, cut if it is long; of one that Python cannot read, the reason."""
    spelled = text if isinstance(text, str) else f"unreadable: {text.get('unreadable')}"
    line = " ".join(spelled.split())
    if len(line) <= CELL_CHARACTERS_MAX:
        return line
    return line[: CELL_CHARACTERS_MAX - 1] + "…"


def compact_json(value: object) -> str:
    """A document in one line, for people."""
    from pydantic_core import to_json

    return to_json(value, inf_nan_mode="null").decode()


def indented_json(value: object) -> str:
    """A document over several lines."""
    from pydantic_core import to_json

    return to_json(value, indent=2, inf_nan_mode="null").decode()


def _table(columns: Sequence[Column], rows: list[list["Text"]]) -> "RenderableType":
    from rich.table import Table

    columns, rows, widths = _fitted(columns, rows)
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, len(GAP), 0, 0),
        header_style="bold",
        width=_total(widths),
    )
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            column.title,
            width=width,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if column.right else "left",
        )
    for row in rows:
        table.add_row(*row)
    return table


def _fitted(
    columns: Sequence[Column], rows: list[list["Text"]]
) -> tuple[list[Column], list[list["Text"]], list[int]]:
    kept = list(columns)
    while True:
        widths = _widths(kept, rows)
        optional = [number for number, column in enumerate(kept) if column.optional]
        empty = [number for number in optional if not any(row[number] for row in rows)]
        if not optional or (_total(widths) <= _width() and not (empty and is_terminal())):
            return kept, rows, widths
        left_out = (empty or optional)[-1]
        del kept[left_out]
        rows = [row[:left_out] + row[left_out + 1 :] for row in rows]


def _widths(columns: Sequence[Column], rows: list[list["Text"]]) -> list[int]:
    from rich.cells import cell_len

    widths = [
        max(cell_len(column.title), *(row[number].cell_len for row in rows))
        for number, column in enumerate(columns)
    ]
    excess = _total(widths) - _width()
    for number in sorted(range(len(columns)), key=lambda at: -widths[at]):
        if columns[number].flexible and excess > 0:
            cut = min(excess, max(0, widths[number] - FLEXIBLE_CHARACTERS_MIN))
            widths[number] -= cut
            excess -= cut
    return widths


def _total(widths: list[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _cell(value: "str | Text | None") -> "Text":
    from rich.text import Text

    if isinstance(value, Text):
        return value
    return Text(clean(one_line(value)) if value else "")


def _rendered(line: "RenderableType") -> str:
    from rich.console import Console
    from rich.text import Text

    if isinstance(line, str):
        return clean(line) + "\n"
    if isinstance(line, Text):
        line.plain = harmless(line.plain)  # of the same length, so its styles stay where they are
    text = StringIO()
    terminal = is_terminal()
    console = Console(
        file=text,
        force_terminal=terminal,
        color_system="auto" if has_style() else None,
        width=_width(),
        highlight=False,
    )
    # A row that cannot be made to fit wraps on the terminal, rather than being cut.
    console.print(line, crop=False)
    if terminal:
        return text.getvalue()
    return "".join(f"{part.rstrip()}\n" for part in text.getvalue().splitlines())


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None


def _width() -> int:
    return shutil.get_terminal_size().columns if is_terminal() else UNBOUNDED_CHARACTERS
