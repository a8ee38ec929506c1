"""`jobsworth price set | list | remove | show | reprice`.

In: a provider's model and US dollars for a million tokens. Out: own prices, which go before those
that come with the program; what a call would be charged; corrections of what calls have cost.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from uuid import UUID

from db.errors import InvalidInput, NotFound
from db.money import prices
from db.money.calls import Usage
from db.money.prices import OwnPrice
from db.pool import Connection
from worker.cli.database import run_in_database
from worker.cli.exit_codes import ExitCode
from worker.cli.ids import whole_id
from worker.cli.output import Column, emit_facts, emit_json, emit_table, say
from worker.cli.times import parse_since
from worker.money.pricing import Priced, Pricing
from worker.money.repricing import Repriced, reprice
from worker.settings import load_settings

COLUMNS = [
    Column("PROVIDER"),
    Column("MODEL", flexible=True),
    Column("INPUT", right=True),
    Column("OUTPUT", right=True),
    Column("CACHE READ", right=True),
    Column("CACHE WRITE", right=True),
    Column("FROM"),
    Column("TEAM", optional=True),
    Column("NOTE", flexible=True, optional=True),
]


def set_price(
    provider: str,
    model: str,
    *,
    input_rate: str,
    output_rate: str,
    cache_read: str | None,
    cache_write: str | None,
    valid_from: str | None,
    note: str | None,
    team: str | None,
    as_json: bool,
) -> None:
    rates = [
        _amount(input_rate, "--input"),
        _amount(output_rate, "--output"),
        None if cache_read is None else _amount(cache_read, "--cache-read"),
        None if cache_write is None else _amount(cache_write, "--cache-write"),
    ]
    since = None if valid_from is None else _instant(valid_from, "--from")
    team_id = _team(team)

    async def work(conn: Connection) -> OwnPrice:
        return await prices.set_price(
            conn,
            provider,
            model,
            input=rates[0] or Decimal(0),
            output=rates[1] or Decimal(0),
            cache_read=rates[2],
            cache_write=rates[3],
            valid_from=since,
            note=note,
            team_id=team_id,
        )

    price = run_in_database(load_settings(), work)
    if as_json:
        emit_json(price)
    else:
        say(
            f"{provider} {model} costs {price.input:f} for input and {price.output:f} for output, "
            "per million tokens; daemons know within a minute; for calls made before: "
            "jobsworth price reprice --since …"
        )


def list_prices(*, as_json: bool) -> None:
    async def work(conn: Connection) -> list[OwnPrice]:
        return await prices.list_prices(conn)

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json(found)
    else:
        emit_table(COLUMNS, map(_row, found), "no own prices; all come from genai-prices")


def remove_price(provider: str, model: str, *, team: str | None, as_json: bool) -> None:
    team_id = _team(team)

    async def work(conn: Connection) -> list[OwnPrice]:
        return await prices.remove_price(conn, provider, model, team_id=team_id)

    gone = run_in_database(load_settings(), work)
    if not gone:
        raise NotFound(
            f"there is no own price of {provider} {model}", "list them: jobsworth price list"
        )
    if as_json:
        emit_json(gone)
    else:
        say(f"{provider} {model} has no own price any more")


def show_price(
    provider: str,
    model: str,
    *,
    input_tokens: int,
    output_tokens: int,
    team: str | None,
    as_json: bool,
) -> ExitCode:
    team_id = _team(team)
    usage = Usage(input_tokens, output_tokens)

    async def work(conn: Connection) -> tuple[Priced | None, Decimal | None]:
        pricing = Pricing()
        await pricing.refresh(conn)
        upper = pricing.upper_cost(provider, model, input_tokens, output_tokens, team_id=team_id)
        return pricing.price_of(provider, model, usage, team_id=team_id), upper

    priced, upper = run_in_database(load_settings(), work)
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
        say(
            f"the price of {provider} {model} is not known; set it: jobsworth price set {provider} "
            f"{model} --input … --output …"
        )
    else:
        _emit_price(priced, upper, usage)
    return ExitCode.NO if priced is None else ExitCode.OK


def reprice_calls(
    *,
    since: str,
    until: str | None,
    provider: str | None,
    model: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    begin = _instant(since, "--since")
    end = None if until is None else _instant(until, "--until")

    async def work(conn: Connection) -> Repriced:
        pricing = Pricing()
        await pricing.refresh(conn)
        return await reprice(
            conn, pricing, begin, until=end, provider=provider, model=model, dry_run=dry_run
        )

    done = run_in_database(load_settings(), work)
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
        (name.replace("_", " "), f"{rate} {'a request' if name == 'request' else 'per million'}")
        for name, rate in priced.rates.items()
    ]
    emit_facts(
        [
            ("source", priced.version),
            *rates,
            ("cost", f"{priced.cost:f} USD for {tokens}"),
            (
                "at most",
                f"{upper:f} USD, which a call of that estimate reserves" if upper else None,
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
        say(f"{done.unknown:,} calls are still of unknown cost: their price or usage is not known")
    if done.passed:
        say(f"{done.passed:,} calls were being changed by somebody else; run it again")


def _row(price: OwnPrice) -> Sequence[str | None]:
    return [
        price.provider,
        price.model,
        *(
            None if rate is None else f"{rate:f}"
            for rate in (price.input, price.output, price.cache_read, price.cache_write)
        ),
        price.valid_from.astimezone(UTC).isoformat(timespec="minutes")
        if price.valid_from
        else "always",
        price.team_id and str(price.team_id),
        price.note,
    ]


def _amount(text: str, thing: str) -> Decimal:
    try:
        return Decimal(text.strip())
    except InvalidOperation as error:
        raise InvalidInput(
            f"{thing} {text!r} is not an amount", "give US dollars for a million tokens, like 1.25"
        ) from error


def _instant(text: str, thing: str) -> datetime:
    return parse_since(text, thing, datetime.now(UTC))


def _team(text: str | None) -> UUID | None:
    return None if text is None else whole_id(text, "--team")
