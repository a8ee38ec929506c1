"""`jobsworth budget …` and `jobsworth limit …`.

In: names, amounts, filters. Out: what may be spent and sent from now on. What a change lets go on
goes on with the same commit.
"""

from datetime import UTC
from decimal import Decimal, InvalidOperation
from uuid import UUID

from db.errors import InvalidInput
from db.money import budgets, limits
from db.money.budgets import Budget, Over, Period, Unit
from db.money.limits import RateLimit
from db.pool import Connection
from worker.cli.database import run_in_database
from worker.cli.output import Column, emit_json, emit_table, say
from worker.settings import load_settings

BUDGET_COLUMNS = [
    Column("BUDGET"),
    Column("AMOUNT", right=True),
    Column("PER"),
    Column("FOR", flexible=True),
    Column("SPENT", right=True),
    Column("RESERVED", right=True),
    Column("LEFT", right=True),
    Column("WAITING", right=True),
    Column("OVER"),
]
LIMIT_COLUMNS = [
    Column("PROVIDER"),
    Column("MODEL", flexible=True),
    Column("REQUESTS/MIN", right=True),
    Column("TOKENS/MIN", right=True),
    Column("PAUSED UNTIL"),
]


def set_budget(
    name: str,
    *,
    money: str | None,
    tokens: str | None,
    period: Period,
    filters: dict[str, str | None],
    over: Over,
    warn_at: float,
    as_json: bool,
) -> None:
    if (money is None) == (tokens is None):
        raise InvalidInput(f"budget {name} needs one amount", "give either --money or --tokens")
    unit: Unit = "tokens" if money is None else "money"
    amount = _amount(tokens if money is None else money)
    ids = {f"{key}_id": _id(key, filters[key]) for key in ("agent", "thread")}

    async def work(conn: Connection) -> Budget:
        return await budgets.set_budget(
            conn,
            name,
            amount,
            unit=unit,
            period=period,
            for_team_id=_id("team", filters["team"]),
            agent_id=ids["agent_id"],
            thread_id=ids["thread_id"],
            mode=filters["mode"],
            provider=filters["provider"],
            model=filters["model"],
            over=over,
            warn_at=warn_at,
        )

    _tell(run_in_database(load_settings(), work), as_json=as_json)


def raise_to(name: str, amount: str, *, as_json: bool) -> None:
    exact = _amount(amount)

    async def work(conn: Connection) -> Budget:
        return await budgets.raise_to(conn, name, exact)

    _tell(run_in_database(load_settings(), work), as_json=as_json)


def reset(name: str, *, as_json: bool) -> None:
    async def work(conn: Connection) -> Budget:
        return await budgets.reset(conn, name)

    _tell(run_in_database(load_settings(), work), as_json=as_json)


def remove(name: str, *, as_json: bool) -> None:
    async def work(conn: Connection) -> Budget:
        return await budgets.remove(conn, name)

    budget = run_in_database(load_settings(), work)
    if as_json:
        emit_json(budget)
    else:
        say(f"budget {name} bounds nothing any more; jobsworth budget set {name} brings it back")


def list_budgets(*, everything: bool, as_json: bool) -> None:
    async def work(conn: Connection) -> list[Budget]:
        return await budgets.list_all(conn, everything=everything)

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json(found)
    else:
        emit_table(
            BUDGET_COLUMNS,
            [_row(budget) for budget in found],
            "no budgets yet\n  → jobsworth budget set daily --money 5 --per day",
        )


def set_limit(
    provider: str, model: str, *, requests: int | None, tokens: int | None, as_json: bool
) -> None:
    if requests is None and tokens is None:
        raise InvalidInput(
            f"the limit of {provider} {model} says nothing",
            "give --requests or --tokens, or: jobsworth limit remove",
        )

    async def work(conn: Connection) -> list[RateLimit]:
        await limits.set_limit(conn, provider, model, requests=requests, tokens=tokens)
        return await limits.list_all(conn)

    found = run_in_database(load_settings(), work)
    [limit] = [one for one in found if (one.provider, one.model) == (provider, model)]
    if as_json:
        emit_json(limit)
    else:
        emit_table(LIMIT_COLUMNS, [_limit_row(limit)], "")


def remove_limit(provider: str, model: str, *, as_json: bool) -> None:
    async def work(conn: Connection) -> None:
        await limits.remove(conn, provider, model)

    run_in_database(load_settings(), work)
    if as_json:
        emit_json({"provider": provider, "model": model})
    else:
        say(f"{provider} {model} is not limited any more")


def list_limits(*, as_json: bool) -> None:
    async def work(conn: Connection) -> list[RateLimit]:
        return await limits.list_all(conn)

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json(found)
    else:
        none = "nothing is limited\n  → jobsworth limit set openai --requests 60"
        emit_table(LIMIT_COLUMNS, [_limit_row(limit) for limit in found], none)


def _tell(budget: Budget, *, as_json: bool) -> None:
    if as_json:
        emit_json(budget)
    else:
        emit_table(BUDGET_COLUMNS, [_row(budget)], "")


def _row(budget: Budget) -> list[str]:
    filters = {
        "team": budget.for_team_id,
        "agent": budget.agent_id,
        "thread": budget.thread_id,
        "mode": budget.mode,
        "provider": budget.provider,
        "model": budget.model,
    }
    used = budget.reserved + budget.spent
    each = budget.period == "run"
    return [
        budget.name,
        _words(budget.amount, budget),
        budget.period,
        " ".join(f"{key}={value}" for key, value in filters.items() if value) or "everything",
        _words(budget.spent, budget),
        _words(budget.reserved, budget),
        "" if each else _words(budget.amount - used, budget),
        f"{budget.waiting:,}",
        budget.over if budget.active else "(removed)",
    ]


def _words(amount: Decimal, budget: Budget) -> str:
    return f"{amount:,.0f} tokens" if budget.unit == "tokens" else f"{_exact(amount)} USD"


def _exact(amount: Decimal) -> str:
    """At least cents, and no more digits than there are."""
    shown = f"{round(amount, 6):,f}".rstrip("0")
    whole, _, cents = shown.partition(".")
    return f"{whole}.{cents.ljust(2, '0')}"


def _limit_row(limit: RateLimit) -> list[str]:
    paused = limit.paused_until
    return [
        limit.provider,
        limit.model,
        "" if limit.requests_per_minute is None else f"{limit.requests_per_minute:,}",
        "" if limit.tokens_per_minute is None else f"{limit.tokens_per_minute:,}",
        "" if paused is None else f"{paused.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
    ]


def _amount(text: str | None) -> Decimal:
    try:
        return Decimal((text or "").replace("_", "").replace(",", ""))
    except InvalidOperation as error:
        raise InvalidInput(f"{text!r} is not an amount", "give a number, like 5 or 0.25") from error


def _id(name: str, text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError as error:
        raise InvalidInput(f"--{name} {text!r} is no id", f"give the {name}'s UUID") from error
