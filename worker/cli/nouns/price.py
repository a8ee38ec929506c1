"""`jobsworth price`: what models cost.

In: a provider's model, and US dollars per million tokens. Out: own prices, which take precedence
over the shipped ones; what a call would cost; corrections of past costs.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import click

from db.errors import NotFound
from db.money import prices
from db.money.calls import Usage
from db.money.prices import OwnPrice
from db.pool import Connection
from worker.cli.terminal import options
from worker.cli.terminal.amounts import read_amount
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.ids import whole_id
from worker.cli.terminal.output import Column, emit_facts, emit_json, emit_table, say
from worker.cli.terminal.times import parse_since
from worker.money.pricing import Priced, Pricing, Terms
from worker.money.rates import is_by_use, read_rates, shown_rates
from worker.money.repricing import Repriced, reprice

RATE = "US dollars per million tokens"
COLUMNS = [
    Column("PROVIDER"),
    Column("MODEL", flexible=True),
    Column("INPUT", right=True),
    Column("OUTPUT", right=True),
    Column("CACHE READ", right=True),
    Column("CACHE WRITE", right=True),
    Column("OTHERS", flexible=True, optional=True),
    Column("TIER", optional=True),
    Column("FROM"),
    Column("TEAM", optional=True),
    Column("NOTE", flexible=True, optional=True),
]


tier_only = click.option(
    "--tier", metavar="NAME", help="In another tier than the standard one: flex, priority …"
)

price = Noun("price", "Prices of models: your own, and corrections of past costs.")


@price.verb("list", "jobsworth price")
@options.as_json
def list_prices(as_json: bool) -> None:
    """List your own prices."""

    async def work(conn: Connection) -> list[OwnPrice]:
        return await prices.list_prices(conn)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        emit_table(COLUMNS, map(_row, found), "no prices of your own; all come from genai-prices")


@price.verb("set", "jobsworth price set openai 'gpt-5-*' --input 0.25 --output 2")
@options.provider
@options.model_pattern
@click.option(
    "--input", "input_rate", metavar="USD", required=True, help="Per million input tokens."
)
@click.option(
    "--output", "output_rate", metavar="USD", required=True, help="Per million output tokens."
)
@click.option(
    "--cache-read", metavar="USD", help="Per million tokens read from a cache.  [default: --input]"
)
@click.option(
    "--cache-write",
    metavar="USD",
    help="Per million tokens written to a cache.  [default: --input]",
)
@click.option(
    "--rate",
    "rates",
    metavar="CLASS=USD",
    multiple=True,
    help="Of another class, per million tokens or per use: input_audio=10, web_search=0.01 …",
)
@tier_only
@click.option("--from", "valid_from", metavar="TIME", help="Valid from then on.  [default: always]")
@click.option("--note", metavar="TEXT", help="Why; kept with the price.")
@options.team_only
@options.as_json
def set_price(
    provider: str,
    model: str,
    input_rate: str,
    output_rate: str,
    cache_read: str | None,
    cache_write: str | None,
    rates: tuple[str, ...],
    tier: str | None,
    valid_from: str | None,
    note: str | None,
    team: str | None,
    as_json: bool,
) -> None:
    """Set what a model costs, instead of the shipped price."""
    usual = [
        read_amount(input_rate, "--input", RATE),
        read_amount(output_rate, "--output", RATE),
        None if cache_read is None else read_amount(cache_read, "--cache-read", RATE),
        None if cache_write is None else read_amount(cache_write, "--cache-write", RATE),
    ]
    others = read_rates(rates)
    since = None if valid_from is None else _instant(valid_from, "--from")
    team_id = _team(team)

    async def work(conn: Connection) -> OwnPrice:
        return await prices.set_price(
            conn,
            provider,
            model,
            input=usual[0] or Decimal(0),
            output=usual[1] or Decimal(0),
            cache_read=usual[2],
            cache_write=usual[3],
            others=others,
            tier=tier,
            valid_from=since,
            note=note,
            team_id=team_id,
        )

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        say(
            f"{provider} {model} costs {found.input:f} USD for input and {found.output:f} USD for "
            "output, per million tokens\ndaemons know it within a minute; to correct past calls: "
            "jobsworth price reprice --since …"
        )


@price.verb("remove", "jobsworth price remove openai 'gpt-5-*'")
@options.provider
@options.model_pattern
@options.team_only
@options.as_json
def remove_price(provider: str, model: str, team: str | None, as_json: bool) -> None:
    """Remove a price of your own."""
    team_id = _team(team)

    async def work(conn: Connection) -> list[OwnPrice]:
        return await prices.remove_price(conn, provider, model, team_id=team_id)

    gone = run_in_database(work)
    if not gone:
        raise NotFound(
            f"you have set no price of {provider} {model}", "list them: jobsworth price list"
        )
    if as_json:
        emit_json(gone)
    else:
        say(f"your price of {provider} {model} is removed")


@price.verb("show", "jobsworth price show openai gpt-5-mini")
@options.provider
@click.argument("model", metavar="MODEL", help="The model's name.")
@click.option(
    "--input-tokens", type=options.WholeNumber(0), default=1_000_000, help="Input of the call."
)
@click.option(
    "--output-tokens", type=options.WholeNumber(0), default=1_000_000, help="Output of the call."
)
@tier_only
@options.team_only
@options.as_json
def show_price(
    provider: str,
    model: str,
    input_tokens: int,
    output_tokens: int,
    tier: str | None,
    team: str | None,
    as_json: bool,
) -> ExitCode:
    """Show what a call would cost now, and by which price; exit code 1 if that is unknown."""
    team_id = _team(team)
    usage = Usage(input_tokens, output_tokens, tier=tier)

    async def work(conn: Connection) -> tuple[Priced | None, Decimal | None]:
        pricing = Pricing()
        await pricing.refresh(conn)
        upper = pricing.upper_cost(
            provider, model, input_tokens, output_tokens, team_id=team_id, terms=Terms(tier)
        )
        return pricing.price_of(provider, model, usage, team_id=team_id), upper

    priced, upper = run_in_database(work)
    if as_json:
        emit_json(
            {
                "provider": provider,
                "model": model,
                "known": priced is not None,
                "source": priced and priced.version,
                "rates": priced and priced.rates,
                "cost": priced and priced.cost,
                "upper_cost": upper,
            }
        )
    elif priced is None:
        served, option = (f" in the tier {tier}", f" --tier {tier}") if tier else ("", "")
        say(
            f"the price of {provider} {model}{served} is not known\n"
            f"  → jobsworth price set {provider} {model}{option} --input … --output …"
        )
    else:
        _emit_price(priced, upper, usage)
    return ExitCode.NO if priced is None else ExitCode.OK


@price.verb("reprice", "jobsworth price reprice --since 7d --dry-run")
@click.option(
    "--since", metavar="TIME", required=True, help="The beginning: today, 7d, 2026-02-01 …"
)
@click.option("--until", metavar="TIME", help="The end, not included.  [default: now]")
@click.option("--provider", metavar="NAME", help="Only calls to this provider.")
@click.option("--model", metavar="NAME", help="Only calls to this model; may end in *.")
@click.option("--dry-run", is_flag=True, help="Only say what would be corrected.")
@options.as_json
def reprice_calls(
    since: str,
    until: str | None,
    provider: str | None,
    model: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Correct the cost of past calls: where it was unknown, or where your prices differ."""
    begin = _instant(since, "--since")
    end = None if until is None else _instant(until, "--until")

    async def work(conn: Connection) -> Repriced:
        pricing = Pricing()
        await pricing.refresh(conn)
        return await reprice(
            conn, pricing, begin, until=end, provider=provider, model=model, dry_run=dry_run
        )

    done = run_in_database(work)
    if as_json:
        emit_json(
            {
                "dry_run": dry_run,
                "looked_at": done.looked_at,
                "corrected": done.corrected,
                "unknown": done.unknown,
                "passed": done.passed,
                "models": [
                    {"model": name, "calls": done.calls[name], "difference": difference}
                    for name, difference in sorted(done.difference.items())
                ],
            }
        )
    else:
        _emit_repriced(done, dry_run)


def _emit_price(priced: Priced, upper: Decimal | None, usage: Usage) -> None:
    tokens = f"{usage.input_tokens:,} in, {usage.output_tokens:,} out"
    rates = [
        (name.replace("_", " "), f"{rate} {'each' if is_by_use(name) else 'per million'}")
        for name, rate in priced.rates.items()
    ]
    emit_facts(
        [
            ("source", priced.version),
            *rates,
            ("cost", f"{priced.cost:f} USD for {tokens}"),
            (
                "at most",
                f"{upper:f} USD, reserved for a call of that size" if upper else None,
            ),
        ]
    )


def _emit_repriced(done: Repriced, dry_run: bool) -> None:
    columns = [
        Column("MODEL", flexible=True),
        Column("CALLS", right=True),
        Column("DIFFERENCE", right=True),
    ]
    rows = [
        [name, f"{done.calls[name]:,}", f"{difference:+f}"]
        for name, difference in sorted(done.difference.items())
    ]
    emit_table(columns, rows, "nothing to correct")
    would = "would be" if dry_run else "were"
    say(f"{done.corrected:,} of {done.looked_at:,} calls {would} corrected")
    if done.unknown:
        say(f"{done.unknown:,} calls still have an unknown cost: their price or usage is not known")
    if done.passed:
        say(
            f"{done.passed:,} calls were left out, as another transaction was changing them; "
            "run it again"
        )


def _row(own: OwnPrice) -> Sequence[str | None]:
    return [
        own.provider,
        own.model,
        *(
            None if rate is None else f"{rate:f}"
            for rate in (own.input, own.output, own.cache_read, own.cache_write)
        ),
        ", ".join(f"{name}={rate}" for name, rate in shown_rates(own.others).items()) or None,
        own.tier,
        own.valid_from.astimezone(UTC).isoformat(timespec="minutes")
        if own.valid_from
        else "always",
        own.team_id and str(own.team_id),
        own.note,
    ]


def _instant(text: str, thing: str) -> datetime:
    return parse_since(text, thing, datetime.now(UTC))


def _team(text: str | None) -> UUID | None:
    return None if text is None else whole_id(text, "--team")
