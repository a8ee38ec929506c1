"""`jobsworth budget`: how much model calls may spend.

In: names, amounts, filters. Out: budgets. A job that waits for a budget and fits after a change
goes on with the same commit.
"""

from decimal import Decimal
from typing import cast, get_args

import click

from db.errors import InvalidInput
from db.money import budgets
from db.money.budgets import Budget, Over, Period, Unit
from db.pool import Connection
from worker.cli.terminal import options
from worker.cli.terminal.amounts import read_amount, read_count
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.ids import optional_id
from worker.cli.terminal.output import Column, emit_json, emit_table, say

COLUMNS = [
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

budget = Noun(
    "budget", "Budgets: how much model calls may spend in an hour, a day, a month or a run."
)


@budget.verb("list", "jobsworth budget")
@click.option("--all", "everything", is_flag=True, help="Removed ones too.")
@options.as_json
def list_budgets(everything: bool, as_json: bool) -> None:
    """List budgets with what is spent, reserved and left."""

    async def work(conn: Connection) -> list[Budget]:
        return await budgets.list_all(conn, everything=everything)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        none = "no budgets yet\n  → jobsworth budget set daily --money 5 --per day"
        emit_table(COLUMNS, [_row(each) for each in found], none)


@budget.verb(
    "set",
    "jobsworth budget set daily --money 5 --per day",
    "jobsworth budget set talk --tokens 90_000 --per hour --mode plan --over ask",
)
@options.budget_name
@click.option("--money", metavar="USD", help="The amount in US dollars.")
@click.option("--tokens", metavar="N", help="The amount in tokens.")
@options.choice(
    "--per",
    "period",
    metavar="PERIOD",
    words=get_args(Period),
    default="day",
    help="The window, in UTC",
)
@click.option("--mode", metavar="MODE", help="Only calls of this mode.")
@click.option("--provider", metavar="NAME", help="Only calls to this provider.")
@click.option("--model", metavar="NAME", help="Only calls to this model.")
@click.option("--team", metavar="UUID", help="Only calls of this team.")
@click.option("--agent", metavar="UUID", help="Only calls of this agent.")
@click.option("--thread", metavar="UUID", help="Only calls of this thread.")
@click.option(
    "--over",
    metavar="ACTION",
    type=options.OneOf(get_args(Over)),
    default="park",
    help="What a call that does not fit does: park (it waits), fail, or ask (a person decides).",
)
@click.option(
    "--warn-at",
    type=options.Share(),
    default=0.8,
    help="Log a warning when this share of the budget is used.",
)
@options.as_json
def set_budget(
    name: str,
    money: str | None,
    tokens: str | None,
    period: str,
    mode: str | None,
    provider: str | None,
    model: str | None,
    team: str | None,
    agent: str | None,
    thread: str | None,
    over: str,
    warn_at: float,
    as_json: bool,
) -> None:
    """Make a budget, or change the one of that name."""
    if (money is None) == (tokens is None):
        raise InvalidInput(f"budget {name} needs one amount", "give either --money or --tokens")
    unit: Unit = "tokens" if money is None else "money"
    amount = (
        read_count(tokens or "", "--tokens", "tokens")
        if money is None
        else read_amount(money, "--money", "US dollars")
    )
    team_id, agent_id = optional_id("team", team), optional_id("agent", agent)
    thread_id = optional_id("thread", thread)

    async def work(conn: Connection) -> Budget:
        return await budgets.set_budget(
            conn,
            name,
            amount,
            unit=unit,
            period=cast(Period, period),
            for_team_id=team_id,
            agent_id=agent_id,
            thread_id=thread_id,
            mode=mode,
            provider=provider,
            model=model,
            over=cast(Over, over),
            warn_at=warn_at,
        )

    _tell(run_in_database(work), as_json=as_json)


@budget.verb("raise", "jobsworth budget raise daily 10")
@options.budget_name
@click.argument("amount", metavar="AMOUNT", help="The new amount, in the budget's unit.")
@options.as_json
def raise_budget(name: str, amount: str, as_json: bool) -> None:
    """Give a budget another amount; waiting jobs that fit go on."""
    exact = read_amount(amount, "the amount", "the budget's unit")

    async def work(conn: Connection) -> Budget:
        return await budgets.raise_to(conn, name, exact)

    _tell(run_in_database(work), as_json=as_json)


@budget.verb("reset", "jobsworth budget reset daily")
@options.budget_name
@options.as_json
def reset(name: str, as_json: bool) -> None:
    """Start a budget's window again now; waiting jobs that fit go on."""

    async def work(conn: Connection) -> Budget:
        return await budgets.reset(conn, name)

    _tell(run_in_database(work), as_json=as_json)


@budget.verb("remove", "jobsworth budget remove daily")
@options.budget_name
@options.as_json
def remove(name: str, as_json: bool) -> None:
    """Remove a budget; jobs that wait for it go on."""

    async def work(conn: Connection) -> Budget:
        return await budgets.remove(conn, name)

    removed = run_in_database(work)
    if as_json:
        emit_json(removed)
    else:
        say(f"budget {name} is removed; to bring it back: jobsworth budget set {name} …")


def _tell(found: Budget, *, as_json: bool) -> None:
    if as_json:
        emit_json(found)
    else:
        emit_table(COLUMNS, [_row(found)], "")


def _row(found: Budget) -> list[str]:
    filters = {
        "team": found.for_team_id,
        "agent": found.agent_id,
        "thread": found.thread_id,
        "mode": found.mode,
        "provider": found.provider,
        "model": found.model,
    }
    used = found.reserved + found.spent
    each = found.period == "run"
    return [
        found.name,
        _words(found.amount, found),
        found.period,
        " ".join(f"{key}={value}" for key, value in filters.items() if value) or "everything",
        _words(found.spent, found),
        _words(found.reserved, found),
        "" if each else _words(found.amount - used, found),
        f"{found.waiting:,}",
        found.over if found.active else "(removed)",
    ]


def _words(amount: Decimal, found: Budget) -> str:
    return f"{amount:,.0f} tokens" if found.unit == "tokens" else f"{_exact(amount)} USD"


def _exact(amount: Decimal) -> str:
    """The amount with at least two decimals and at most six, without zeros at the end."""
    shown = f"{round(amount, 6):,f}".rstrip("0")
    whole, _, cents = shown.partition(".")
    return f"{whole}.{cents.ljust(2, '0')}"
