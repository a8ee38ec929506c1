"""`jobsworth limit`: what all daemons together send to a provider in a minute.

In: a provider, a model, numbers. Out: limits, and pauses that a provider asked for. A job that
waits for a limit and fits after a change goes on with the same commit.
"""

from datetime import UTC

import click

from db.errors import InvalidInput
from db.money import limits
from db.money.limits import RateLimit
from db.pool import Connection
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit_json, emit_table, say

COLUMNS = [
    Column("PROVIDER"),
    Column("MODEL", flexible=True),
    Column("REQUESTS/MIN", right=True),
    Column("TOKENS/MIN", right=True),
    Column("PAUSED UNTIL"),
    Column("SLOWED DOWN TO"),
]

limit = Noun("limit", "Limits: requests and tokens per minute, over all daemons.")


@limit.verb("list", "jobsworth limit")
@options.as_json
def list_limits(as_json: bool) -> None:
    """List limits, and pauses that a provider asked for."""

    async def work(conn: Connection) -> list[RateLimit]:
        return await limits.list_all(conn)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        none = "no limits yet\n  → jobsworth limit set openai --requests 60"
        emit_table(COLUMNS, [_row(each) for each in found], none)


@limit.verb("set", "jobsworth limit set openai gpt-5-mini --requests 60 --tokens 100000")
@options.provider
@options.model_or_all
@click.option("--requests", type=options.WholeNumber(1), help="Requests per minute.")
@click.option("--tokens", type=options.WholeNumber(1), help="Tokens per minute.")
@options.as_json
def set_limit(
    provider: str, model: str, requests: int | None, tokens: int | None, as_json: bool
) -> None:
    """Limit what is sent to a provider, or to one of its models."""
    if requests is None and tokens is None:
        raise InvalidInput(
            f"the limit of {provider} {model} has no number",
            "give --requests or --tokens; to lift a limit: jobsworth limit remove",
        )

    async def work(conn: Connection) -> list[RateLimit]:
        await limits.set_limit(conn, provider, model, requests=requests, tokens=tokens)
        return await limits.list_all(conn)

    [found] = [
        each for each in run_in_database(work) if (each.provider, each.model) == (provider, model)
    ]
    if as_json:
        emit_json(found)
    else:
        emit_table(COLUMNS, [_row(found)], "")


@limit.verb("remove", "jobsworth limit remove openai gpt-5-mini")
@options.provider
@options.model_or_all
@options.as_json
def remove(provider: str, model: str, as_json: bool) -> None:
    """Lift a limit, or a pause that the provider asked for."""

    async def work(conn: Connection) -> None:
        await limits.remove(conn, provider, model)

    run_in_database(work)
    if as_json:
        emit_json({"provider": provider, "model": model})
    else:
        say(f"{provider} {model} has no limit any more")


def _row(found: RateLimit) -> list[str]:
    paused = found.paused_until
    return [
        found.provider,
        found.model,
        "" if found.requests_per_minute is None else f"{found.requests_per_minute:,}",
        "" if found.tokens_per_minute is None else f"{found.tokens_per_minute:,}",
        "" if paused is None else f"{paused.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "" if found.pace_seconds is None else f"1 in {found.pace_seconds:.2g} s",
    ]
