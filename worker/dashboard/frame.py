"""What every page knows of its request, and how a page becomes an answer.

In: a request that was let in. Out: a `Frame`, and HTML with headers that let only our own script,
style and images load. Invariant: each answer has a nonce of its own, and nothing inline runs or
styles without it.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from db.memory.spaces import counted
from worker.cli.terminal import times
from worker.cli.terminal.words import count, worker_state
from worker.cli.views.tables import counts_of
from worker.dashboard import charts, words
from worker.memory.embedders import HashingEmbedder
from worker.memory.semantic.embedder import SemanticEmbedder
from worker.settings import Settings

OfflineEmbedder = HashingEmbedder | SemanticEmbedder

FOLDER = Path(__file__).parent
NAV = (
    ("now", "", "Now", "n"),
    ("jobs", "jobs", "Jobs", "j"),
    ("approvals", "approvals", "Approvals", "a"),
    ("runs", "runs", "Runs", "r"),
    ("spend", "spend", "Spend", "s"),
    ("deployments", "deployments", "Deployments", "d"),
    ("memory", "memory", "Memory", "m"),
    ("threads", "threads", "Threads", "t"),
    ("people", "people", "People", "p"),
    ("system", "system", "System", "y"),
)
QUERY_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Said:
    """What the page says first: about the action before it. `to`: the page that the action leads
    to, if it is not the one it was done on.
    """

    text: str
    is_bad: bool = False
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """What every page knows. `base` is where the dashboard is; `may_write`: whether this caller may
    act here, `may`: whether they have a scope; `form` is what proves that a form is ours.
    """

    base: str
    path: str
    query: Mapping[str, str]
    who: str
    may_write: bool
    settings: Settings
    embedder: Callable[[], OfflineEmbedder]
    form: str
    may: Callable[[str], bool]
    said: Said | None = None
    signed_in: bool = False
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def url(self, *parts: object, **query: object) -> str:
        """The address of a page: its parts, and what is asked of it."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return address("/".join([self.base, *(quote(str(part), safe="") for part in parts)]), given)

    def here(self, **changes: object) -> str:
        """This page with other questions; None leaves one out."""
        given = {**self.query, **changes}
        kept = {name: value for name, value in given.items() if value not in (None, "")}
        return address(self.path, kept)


def address(path: str, query: Mapping[str, object]) -> str:
    """An address with its query."""
    return f"{path or '/'}?{urlencode(query)}" if query else path or "/"


def asked(request: Request) -> dict[str, str]:
    """What the address asks for: the first of each name, without empty ones."""
    return {
        name: value[:QUERY_CHARACTERS_MAX].replace("\0", "\N{REPLACEMENT CHARACTER}")
        for name, value in reversed(request.query_params.multi_items())
        if value.strip()
    }


def answer(frame: Frame, template: str, status_code: int = 200, **values: Any) -> Response:
    """The page that a template makes of these values."""
    text = environment().get_template(template).render(frame=frame, now=frame.now, **values)
    return Response(text, status_code, headers(frame.nonce), "text/html; charset=utf-8")


def headers(nonce: str) -> dict[str, str]:
    """What browsers are told about every page."""
    policy = (
        "default-src 'none'; "
        f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "cross-origin-opener-policy": "same-origin",
    }


@cache
def environment() -> Environment:
    """The templates, with everything that they call."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        finalize=words.finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    calls: dict[str, Any] = {
        "NAV": NAV,
        "charts": charts,
        "took": words.took,
        "worker_state": worker_state,
        "counts_of": counts_of,
    }
    for name, value in calls.items():
        made.globals[name] = value
    filters: dict[str, Any] = {
        "document": words.document,
        "editable": words.editable,
        "line": words.line,
        "ago": words.ago,
        "short": words.short,
        "number": words.number,
        "money": words.money,
        "price": words.price,
        "amount": words.amount,
        "colour": words.colour,
        "size": words.size,
        "counted": counted,
        "span": times.span,
        "count": count,
        "markup": Markup,  # of values that are ours: never of one from the database
    }
    made.filters.update(filters)
    return made
