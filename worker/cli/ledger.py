"""`jobsworth ledger`: what was spent, by day, model or mode.

In: a dimension and a beginning. Out: sums of what was settled; a cost that is not known is said to
be unknown, never counted as zero.
"""

from datetime import UTC, datetime
from decimal import Decimal

from db import ledger
from db.ledger import Dimension, Spent, UsageBy
from db.pool import Connection
from worker.cli.database import run_in_database
from worker.cli.output import Column, emit_json, emit_table, say
from worker.cli.times import parse_since
from worker.settings import load_settings


def show(*, by: Dimension, since: str | None, as_json: bool) -> None:
    begin = None if since is None else parse_since(since, "--since", datetime.now(UTC))

    async def work(conn: Connection) -> list[UsageBy]:
        return await ledger.usage_by(conn, by, begin)

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"by": by, "since": begin, "rows": found})
        return
    columns = [
        Column(by.upper(), flexible=True),
        Column("CALLS", right=True),
        Column("INPUT", right=True),
        Column("OUTPUT", right=True),
        Column("TOKENS", right=True),
        Column("COST", right=True),
    ]
    rows = [_row(usage.key or "(none)", usage) for usage in found]
    emit_table(columns, [*rows, *_total(found)], "nothing was spent")
    unknown = sum(usage.unknown_cost_entries for usage in found)
    if unknown:
        say(f"not every price is known ({unknown:,} calls): + marks a cost that leaves some out")


def cost_words(spent: Spent) -> str:
    """The known cost; "?" if none is known, a "+" where some is missing."""
    if spent.cost is None:
        return "?" if spent.unknown_cost_entries else "0"
    return f"{spent.cost:f}" + ("+" if spent.unknown_cost_entries else "")


def _row(name: str, spent: Spent) -> list[str]:
    return [
        name,
        f"{spent.entries:,}",
        f"{spent.input_tokens:,}",
        f"{spent.output_tokens:,}",
        f"{spent.total_tokens:,}",
        cost_words(spent),
    ]


def _total(found: list[UsageBy]) -> list[list[str]]:
    if len(found) < 2:
        return []
    known = [usage.cost for usage in found if usage.cost is not None]
    total = Spent(
        entries=sum(usage.entries for usage in found),
        input_tokens=sum(usage.input_tokens for usage in found),
        output_tokens=sum(usage.output_tokens for usage in found),
        cache_read_tokens=sum(usage.cache_read_tokens for usage in found),
        cache_write_tokens=sum(usage.cache_write_tokens for usage in found),
        total_tokens=sum(usage.total_tokens for usage in found),
        cost=sum(known, Decimal(0)) if known else None,
        unknown_cost_entries=sum(usage.unknown_cost_entries for usage in found),
    )
    return [_row("total", total)]
