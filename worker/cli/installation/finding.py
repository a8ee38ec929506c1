"""What a check of `jobsworth doctor` found.

In: the words of a check. Out: a `Finding`: its mark, its subject, what was found, and what to do.
"""

from dataclasses import dataclass
from typing import Literal

from db.errors import JobsworthError

Mark = Literal["ok", "warning", "problem"]
SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; an `ok` has no remedy."""

    mark: Mark
    subject: str
    text: str
    remedy: str = ""


def ok(subject: str, text: str) -> Finding:
    return Finding("ok", subject, text)


def warning(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding("warning", subject, text, remedy)


def problem(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding("problem", subject, text, remedy)


def failed(subject: str, error: JobsworthError) -> Finding:
    """The finding for a check that ended in an error."""
    return problem(subject, error.message, error.remedy)
