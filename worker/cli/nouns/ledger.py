"""`jobsworth ledger show`: what was spent, by day, model, mode, run …

In: a dimension and a span of time. Out: sums of the settled and corrected amounts, as a table, JSON
or CSV. An unknown cost is shown as unknown, never counted as zero.
"""

import csv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from typing import cast, get_args
from uuid import UUID

import click

from db.errors import InvalidInput
from db.money import ledger as entries
from db.money.ledger import Dimension, Spent, UsageBy
from db.pool import Connection
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit_json, emit_table, emit_text, say
from worker.cli.terminal.times import parse_since
from worker.cli.terminal.words import cost

IDS: tuple[Dimension, ...] = ("agent", "team", "run", "thread", "job")
CSV_FIELDS = (
    *("key", "entries", "input_tokens", "output_tokens", "cache_read_tokens"),
    *("cache_write_tokens", "total_tokens", "cost", "unknown_cost_entries"),
)


ledger = Noun("ledger", "The ledger: what model calls used and cost.", default="show")


@ledger.verb(
    "show",
    "jobsworth ledger --by model --since 7d",
    "jobsworth ledger --by run --csv > costs.csv",
)
@options.choice(
    "--by",
    metavar="KEY",
    words=get_args(Dimension),
    default="day",
    help="What a row stands for",
)
@click.option(
    "--since",
    metavar="TIME",
    help="The beginning: today, 7d, 2026-02-01 …  [default: the first entry]",
)
@click.option("--until", metavar="TIME", help="The end, not included.  [default: now]")
@options.as_json
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with exact costs.")
def show(by: str, since: str | None, until: str | None, as_json: bool, as_csv: bool) -> None:
    """Add up what model calls used and cost."""
    if as_json and as_csv:
        raise InvalidInput("--json and --csv cannot both be given", "choose one of them")
    dimension = cast(Dimension, by)
    now = datetime.now(UTC)
    begin = None if since is None else parse_since(since, "--since", now)
    end = None if until is None else parse_since(until, "--until", now)

    async def work(conn: Connection) -> list[UsageBy]:
        return await entries.usage_by(conn, dimension, begin, until=end)

    found = run_in_database(work)
    if as_json:
        emit_json({"by": by, "since": begin, "until": end, "rows": found, "total": total_of(found)})
    elif as_csv:
        emit_text(csv_of(by, found))
    else:
        _emit(dimension, found)


def csv_of(by: str, found: Sequence[UsageBy]) -> str:
    """The rows as RFC 4180 has them (CRLF, a header, quotes where needed), without a total.

    Costs are exact, and empty where no cost is known.
    """
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow([by, *CSV_FIELDS[1:]])
    for usage in found:
        values = [getattr(usage, field) for field in CSV_FIELDS]
        writer.writerow([f"{v:f}" if isinstance(v, Decimal) else v for v in values])
    return text.getvalue()


def total_of(found: Sequence[Spent]) -> Spent:
    """The sum over all rows."""
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
            f"not every price is known ({unknown:,} calls): a + marks a cost that is not complete\n"
            "  → jobsworth price set …, then: jobsworth price reprice …"
        )


def _short_keys(by: Dimension, found: list[UsageBy]) -> Callable[[str], str]:
    """How to show the keys: ids are shortened on a narrow terminal, so that they can be pasted."""
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
        cost(spent),
    ]
