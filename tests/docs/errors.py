"""What `docs/errors.md` says, made of the code: `make docs` writes it, a test holds it to the code.

In: the public exceptions and their docstrings, the remedies for PostgreSQL's codes, the exit codes.
Out: one page of Markdown.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence

import psycopg

import jobsworth
from db import errors
from db.errors import REMEDIES, JobsworthError, translate
from tests.support import ROOT
from worker.cli.terminal.exit_codes import MEANINGS

PAGE = ROOT / "docs" / "errors.md"
INTRODUCTION = """\
# Errors

`make docs` writes this page from the code.

Every error of Jobsworth says what is wrong, why, and what to do about it: an exception has
`message` and `remedy`, the command line prints them as two lines, SQL functions raise them with a
`HINT`. Passwords and keys are masked. What a value of the caller caused has written nothing.

## What Jobsworth raises

`retriable` is an attribute of each: whether the same call may succeed later. Writes that may be
repeated without harm (`enqueue`, `start_run`, fenced writes) are tried again by themselves when
their connection is lost; reads fail fast.
"""
RAISED = """\
## What a handler raises or meets

Any other exception of a handler is a failure: the job is tried again with backoff until its
failures are used up.
"""
POSTGRESQL = """\
## What PostgreSQL refused

The longest code that fits counts. What a function of Jobsworth raises brings a remedy of its own.
"""
COMMANDS = """\
## Exit codes of `jobsworth`
"""


def page() -> str:
    """The whole page."""
    public = {name: getattr(jobsworth, name) for name in jobsworth.__all__}
    raised = [
        each
        for each in public.values()
        if inspect.isclass(each) and issubclass(each, Exception) and each.__module__ != "db.errors"
    ]
    own = [
        each
        for each in vars(errors).values()
        if inspect.isclass(each) and issubclass(each, JobsworthError)
    ]
    parts = [
        INTRODUCTION,
        table(("error", "retriable", "what it means"), map(_error_row, own)),
        RAISED,
        table(("error", "is a", "what it means"), map(_raised_row, raised)),
        POSTGRESQL,
        table(("code", "named", "error", "what to do"), _code_rows()),
        COMMANDS,
        table(
            ("code", "meaning"),
            ((str(code.value), meaning) for code, meaning in MEANINGS.items()),
        ),
    ]
    return "\n".join(parts)


def _error_row(error: type[JobsworthError]) -> tuple[str, ...]:
    return f"`{error.__name__}`", "yes" if error.retriable else "no", _said(error)


def _raised_row(error: type[Exception]) -> tuple[str, ...]:
    return f"`{error.__name__}`", f"`{error.__mro__[1].__name__}`", _said(error)


def _code_rows() -> Iterator[tuple[str, ...]]:
    for code, remedy in sorted(REMEDIES.items()):
        if not code:
            continue
        error = psycopg.errors.lookup(code.ljust(5, "0"))
        named = error.__name__ if len(code) == 5 else "any other of its class"
        yield f"`{code}`", named, f"`{type(translate(error())).__name__}`", remedy


def _said(of: type) -> str:
    return " ".join((inspect.getdoc(of) or "").split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '¦') for cell in row)} |\n" for row in lines)
