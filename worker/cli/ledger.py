"""`jobsworth ledger`: what was spent, by day, model, mode, run …

In: a dimension and a span of time. Out: sums of what was settled and corrected, as a table, JSON or
CSV; a cost that is not known is said to be unknown, never counted as zero.
"""

import csv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from uuid import UUID

from db.errors import InvalidInput
from db.money import ledger
from db.money.ledger import Dimension, Spent, UsageBy
from db.pool import Connection
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.output import Column, emit_json, emit_table, emit_text, say
from worker.cli.times import parse_since
from worker.settings import load_settings

IDS: tuple[Dimension, ...] = ("agent", "team", "run", "thread", "job")
CSV_FIELDS = (
    *("key", "entries", "input_tokens", "output_tokens", "cache_read_tokens"),
    *("cache_write_tokens", "total_tokens", "cost", "unknown_cost_entries"),
)


def show(
    *, by: Dimension, since: str | None, until: str | None, as_json: bool, as_csv: bool
) -> None:
    if as_json and as_csv:
        raise InvalidInput("--json and --csv cannot both be given", "choose one of them")
    now = datetime.now(UTC)
    begin = None if since is None else parse_since(since, "--since", now)
    end = None if until is None else parse_since(until, "--until", now)

    async def work(conn: Connection) -> list[UsageBy]:
        return await ledger.usage_by(conn, by, begin, until=end)

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"by": by, "since": begin, "until": end, "rows": found, "total": total_of(found)})
    elif as_csv:
        emit_text(csv_of(by, found))
    else:
        _emit(by, found)


def csv_of(by: str, found: Sequence[UsageBy]) -> str:
    """The rows as RFC 4180 has it: CRLF, a header, quotes where needed; costs exact, and empty
    where none is known. No total, which would be one more row to be added up.
    """
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow([by, *CSV_FIELDS[1:]])
    for usage in found:
        values = [getattr(usage, field) for field in CSV_FIELDS]
        writer.writerow([f"{v:f}" if isinstance(v, Decimal) else v for v in values])
    return text.getvalue()


def total_of(found: Sequence[Spent]) -> Spent:
    """The sum of sums."""
    known = [usage.cost for usage in found if usage.cost is not None]
    return Spent(
        entries=sum(usage.entries for usage in found),
        input_tokens=sum(usage.input_tokens for usage in found),
        output_tokens=sum(usage.output_tokens for usage in found),
        cache_read_tokens=sum(usage.cache_read_tokens for usage in found),
        cache_write_tokens=sum(usage.cache_write_tokens for usage in found),
        total_tokens=sum(usage.total_tokens for usage in found),
        cost=sum(known, Decimal(0)) if known else None,
        unknown_cost_entries=sum(usage.unknown_cost_entries for usage in found),
    )


def cost_words(spent: Spent) -> str:
    """The known cost; "?" if none is known, a "+" where some is missing."""
    missing = spent.unknown_cost_entries > 0
    if spent.cost is None:
        return "?" if missing else "0"
    return f"{spent.cost:f}" + ("+" if missing else "")


def _emit(by: Dimension, found: list[UsageBy]) -> None:
    columns = [
        Column(by.upper(), flexible=True),
        Column("ENTRIES", right=True),
        Column("INPUT", right=True),
        Column("OUTPUT", right=True),
        Column("TOKENS", right=True),
        Column("COST (USD)", right=True),
    ]
    short = _short_keys(by, found)
    rows = [_row(short(usage.key) if usage.key else "(none)", usage) for usage in found]
    total = total_of(found)
    last = [_row("total", total)] if len(found) > 1 else []
    emit_table(columns, [*rows, *last], "nothing was spent")
    unknown = total.unknown_cost_entries
    if unknown > 0:
        say(
            f"not every price is known ({unknown:,} calls): + marks a cost that leaves some out; "
            "set it: jobsworth price set, and then: jobsworth price reprice"
        )


def _short_keys(by: Dimension, found: list[UsageBy]) -> Callable[[str], str]:
    """An id that is cut on a narrow terminal must still be one that can be pasted."""
    if by not in IDS:
        return str
    short = ids.short_ids(UUID(usage.key) for usage in found if usage.key)
    return lambda key: short(UUID(key))


def _row(name: str, spent: Spent) -> list[str]:
    return [
        name,
        f"{spent.entries:,}",
        f"{spent.input_tokens:,}",
        f"{spent.output_tokens:,}",
        f"{spent.total_tokens:,}",
        cost_words(spent),
    ]
