"""SQL echo: each statement of a connection is told, with what it took, but never with its values.

In: a function to tell. Out: a cursor class for connections that shall tell; others pay nothing. A
statement's parameters travel beside its text; where the text holds values itself (`commit_with`),
they are masked.
"""

import re
import time
from collections.abc import Callable
from typing import Any, Self

import psycopg

Echo = Callable[[str, float], None]
"""Is told a statement's text on one line, and the seconds that it took."""

CHARACTERS_MAX = 2_000
MASKED = "…"
# Texts as psycopg writes them into a statement, and numbers that are part of no name.
VALUES = re.compile(
    r"\bE'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|(?<![\w$%.])-?\d[\d.]*(?:e[+-]?\d+)?\b"
)


def telling(echo: Echo) -> type[psycopg.AsyncCursor[Any]]:
    """A class of cursors that tell `echo` of each statement that they run, or fail to run."""

    class Telling(psycopg.AsyncCursor[Any]):
        async def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
            began = time.monotonic()
            try:
                return await super().execute(query, params, **options)
            finally:
                echo(masked(query), time.monotonic() - began)

    return Telling


def masked(query: object) -> str:
    """The text of a statement on one line. What was composed with its values has them masked."""
    if isinstance(query, str):
        return _line(query)
    text = query.decode(errors="replace") if isinstance(query, bytes) else type(query).__name__
    return _line(VALUES.sub(MASKED, text))


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= CHARACTERS_MAX else line[:CHARACTERS_MAX] + MASKED
