"""Spend: by day, model, mode and so on, and the budgets that bound it.

In: a span and a dimension of the address. Out: sums of the ledger, as `jobsworth ledger` reads
them, on a page or as CSV; budgets with a forecast for the end of their window. Invariant: an
unknown cost is counted, never taken for zero.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from fastapi import Response

from db.errors import InvalidInput
from db.money import budgets, ledger
from db.money.budgets import Budget
from db.money.ledger import Dimension, UsageBy
from db.pool import Connection
from worker.cli.terminal.times import parse_since
from worker.dashboard.frame import Frame, answer, headers
from worker.dashboard.words import money

DIMENSIONS: tuple[Dimension, ...] = (
    "model",
    "mode",
    "agent",
    "team",
    "provider",
    "scope",
    "run",
    "thread",
    "day",
)
SPANS = {"today": "today", "7d": "7 days", "30d": "30 days", "365d": "a year"}
DEFAULT_SPAN = "30d"
ROWS_MAX = 200


@dataclass(frozen=True, slots=True)
class Bound:
    """A budget, and what it will have spent when its window ends, at today's pace."""

    budget: Budget
    forecast: Decimal | None


async def page(conn: Connection, frame: Frame) -> Response:
    span = frame.query.get("since", DEFAULT_SPAN)
    by = frame.query.get("by", "model")
    if by not in DIMENSIONS:
        raise InvalidInput(f"{by!r} is no dimension", f"choose one of {', '.join(DIMENSIONS)}")
    since = parse_since(span, "since", frame.now)
    rows = await ledger.usage_by(conn, by, since)
    if frame.query.get("as") == "csv":
        return _csv(frame, by, rows)
    days = await ledger.usage_by(conn, "day", since)
    found = await budgets.list_all(conn)
    most = sorted(rows, key=lambda row: (row.cost or 0, row.total_tokens), reverse=True)
    return answer(
        frame,
        "spend.html",
        page="spend",
        asking=0,
        by=by,
        dimensions=DIMENSIONS,
        spans=SPANS,
        rows=most[:ROWS_MAX],
        left_out=max(0, len(rows) - ROWS_MAX),
        total=sum((row.cost for row in rows if row.cost), Decimal(0)),
        unknown=sum(row.unknown_cost_entries for row in rows),
        tokens=sum(row.total_tokens for row in rows),
        highest=max((row.cost or 0 for row in rows), default=0),
        course=_course(days, since, frame.now),
        bounds=[Bound(each, _forecast(each, frame.now)) for each in found],
    )


def _course(days: Sequence[UsageBy], since: datetime, now: datetime) -> dict[str, list[object]]:
    """A bar for each day, those without spend included."""
    spent = {row.key: row for row in days}
    count = (now.date() - since.date()).days + 1
    keys = [(since + timedelta(days=n)).strftime("%Y-%m-%d") for n in range(count)]
    found = [spent.get(key) for key in keys]
    return {
        "numbers": [row.cost or 0 if row else 0 for row in found],
        "titles": [
            f"{key}: {money(row.cost, row.unknown_cost_entries)} USD, {row.total_tokens:,} tokens"
            if row
            else f"{key}: nothing"
            for key, row in zip(keys, found, strict=True)
        ],
    }


def _forecast(budget: Budget, now: datetime) -> Decimal | None:
    """None where a window has no end, or has only begun."""
    if budget.ends_at is None:
        return None
    begun = max(budget.starts_at, budget.reset_at or budget.starts_at)
    passed = (now - begun).total_seconds()
    whole = (budget.ends_at - begun).total_seconds()
    if passed <= 0 or whole <= 0 or passed < whole / 100:
        return None
    return budget.spent * Decimal(max(1.0, whole / passed))


def _csv(frame: Frame, by: str, rows: Sequence[UsageBy]) -> Response:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [by, "entries", "input_tokens", "output_tokens", "cost_usd", "unknown_cost_entries"]
    )
    for row in rows:
        tokens = (row.entries, row.input_tokens, row.output_tokens)
        cost = "" if row.cost is None else f"{row.cost:f}"
        writer.writerow([_cell(row.key), *tokens, cost, row.unknown_cost_entries])
    name = {"content-disposition": f'attachment; filename="spend-by-{by}.csv"'}
    return Response(text.getvalue(), headers=headers(frame.nonce) | name, media_type="text/csv")


def _cell(text: str | None) -> str:
    """A spreadsheet takes what begins so for a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text or ""
