"""The commands about money: the ledger, budgets, limits, prices and the check of the books.

In: arguments. Out: calls of the module that does the work, imported only then.
"""

from typing import Annotated, Literal, get_args

import typer

from worker.cli.arguments import MONEY, Commands, Json

# This repeats an enum of `db`, which is not imported for `--help`; a test keeps them equal.
Dimension = Literal[
    "day", "model", "mode", "provider", "scope", "agent", "team", "run", "thread", "job"
]

BudgetName = Annotated[str, typer.Argument(metavar="NAME", help="The budget's name.")]
Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="Like openai.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="One model; without it all of them together.")
]
ModelPattern = Annotated[
    str, typer.Argument(metavar="MODEL", help="Its name; * at its end stands for the rest.")
]
Team = Annotated[str | None, typer.Option(metavar="UUID", help="For this team only.")]

budget_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
limit_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
price_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
books_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program's."""
    app.command(rich_help_panel=MONEY)(ledger)
    for part, name, does in (
        (budget_app, "budget", "Bound what model calls may take."),
        (limit_app, "limit", "Bound what is sent in a minute."),
        (price_app, "price", "Own prices of models, and corrections."),
        (books_app, "books", "Check the books."),
    ):
        app.add_typer(part, name=name, rich_help_panel=MONEY, help=does)


def ledger(
    by: Annotated[
        Dimension,
        typer.Option(metavar="WHAT", help=f"One row for each {', '.join(get_args(Dimension))}."),
    ] = "day",
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="today, 7d, 2026-02-01 … (from the beginning)"),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="What was before that. (until now)")
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout, costs exact.")] = False,
) -> None:
    """Add up what model calls have taken and cost."""
    from worker.cli import ledger

    ledger.show(by=by, since=since, until=until, as_json=as_json, as_csv=as_csv)


@budget_app.command("set")
def set_budget(
    name: BudgetName,
    money: Annotated[str | None, typer.Option(metavar="USD", help="So much money.")] = None,
    tokens: Annotated[str | None, typer.Option(metavar="N", help="So many tokens.")] = None,
    period: Annotated[
        Literal["hour", "day", "month", "run"],
        typer.Option("--per", help="In each: windows begin at full hours, days and months in UTC."),
    ] = "day",
    mode: Annotated[str | None, typer.Option(help="Only calls of this mode.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only calls to this provider.")] = None,
    model: Annotated[str | None, typer.Option(help="Only calls to this model.")] = None,
    team: Annotated[str | None, typer.Option(metavar="UUID", help="Only of this team.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="UUID", help="Only of this agent.")] = None,
    thread: Annotated[str | None, typer.Option(metavar="UUID", help="Only of this thread.")] = None,
    over: Annotated[
        Literal["park", "fail", "ask"],
        typer.Option(help="What a call that does not fit does: wait, fail, or ask a person."),
    ] = "park",
    warn_at: Annotated[
        float, typer.Option(help="Log a warning when this share of it (0 to 1) is used.")
    ] = 0.8,
    as_json: Json = False,
) -> None:
    """Make a budget, or change the one of that name."""
    from worker.cli import budgets

    budgets.set_budget(
        name,
        money=money,
        tokens=tokens,
        period=period,
        filters={
            "mode": mode,
            "provider": provider,
            "model": model,
            "team": team,
            "agent": agent,
            "thread": thread,
        },
        over=over,
        warn_at=warn_at,
        as_json=as_json,
    )


@budget_app.command("raise")
def raise_budget(
    name: BudgetName,
    amount: Annotated[
        str,
        typer.Argument(
            metavar="AMOUNT", help="What it is from now on, in its unit: USD or tokens."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Give a budget another amount; whoever waits for it and fits goes on."""
    from worker.cli import budgets

    budgets.raise_to(name, amount, as_json=as_json)


@budget_app.command("reset")
def reset_budget(name: BudgetName, as_json: Json = False) -> None:
    """Begin its window anew now; whoever waits for it and fits goes on."""
    from worker.cli import budgets

    budgets.reset(name, as_json=as_json)


@budget_app.command("remove")
def remove_budget(name: BudgetName, as_json: Json = False) -> None:
    """Let it bound nothing any more; whoever waits for it goes on."""
    from worker.cli import budgets

    budgets.remove(name, as_json=as_json)


@budget_app.command("list")
def list_budgets(
    everything: Annotated[bool, typer.Option("--all", help="Removed ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List the budgets, and how they stand."""
    from worker.cli import budgets

    budgets.list_budgets(everything=everything, as_json=as_json)


@limit_app.command("set")
def set_limit(
    provider: Provider,
    model: Model = "*",
    requests: Annotated[int | None, typer.Option(min=1, help="Requests a minute.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a minute.")] = None,
    as_json: Json = False,
) -> None:
    """Limit what all daemons together send to a provider or one of its models."""
    from worker.cli import budgets

    budgets.set_limit(provider, model, requests=requests, tokens=tokens, as_json=as_json)


@limit_app.command("remove")
def remove_limit(provider: Provider, model: Model = "*", as_json: Json = False) -> None:
    """Lift a limit, or a pause that the provider asked for."""
    from worker.cli import budgets

    budgets.remove_limit(provider, model, as_json=as_json)


@limit_app.command("list")
def list_limits(as_json: Json = False) -> None:
    """List the limits and pauses that hold."""
    from worker.cli import budgets

    budgets.list_limits(as_json=as_json)


@price_app.command("set")
def set_price(
    provider: Provider,
    model: ModelPattern,
    input_rate: Annotated[
        str, typer.Option("--input", metavar="USD", help="For a million input tokens.")
    ],
    output_rate: Annotated[
        str, typer.Option("--output", metavar="USD", help="For a million output tokens.")
    ],
    cache_read: Annotated[
        str | None, typer.Option(metavar="USD", help="For those read from a cache. (as --input)")
    ] = None,
    cache_write: Annotated[
        str | None, typer.Option(metavar="USD", help="For those written to a cache. (as --input)")
    ] = None,
    valid_from: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Valid from then on. (always)")
    ] = None,
    note: Annotated[str | None, typer.Option(help="Why; kept with the price.")] = None,
    team: Team = None,
    as_json: Json = False,
) -> None:
    """Set what a model costs; goes before the prices that come with Jobsworth."""
    from worker.cli import prices

    prices.set_price(
        provider,
        model,
        input_rate=input_rate,
        output_rate=output_rate,
        cache_read=cache_read,
        cache_write=cache_write,
        valid_from=valid_from,
        note=note,
        team=team,
        as_json=as_json,
    )


@price_app.command("list")
def list_prices(as_json: Json = False) -> None:
    """List own prices."""
    from worker.cli import prices

    prices.list_prices(as_json=as_json)


@price_app.command("remove")
def remove_price(
    provider: Provider, model: ModelPattern, team: Team = None, as_json: Json = False
) -> None:
    """Forget an own price."""
    from worker.cli import prices

    prices.remove_price(provider, model, team=team, as_json=as_json)


@price_app.command("show")
def show_price(
    provider: Provider,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")],
    input_tokens: Annotated[int, typer.Option(min=0, help="Of the call.")] = 1_000_000,
    output_tokens: Annotated[int, typer.Option(min=0, help="Of the call.")] = 1_000_000,
    team: Team = None,
    as_json: Json = False,
) -> None:
    """Show what a call would be charged now, and by which price; exit code 1 if unknown."""
    from worker.cli import prices

    code = prices.show_price(
        provider,
        model,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        team=team,
        as_json=as_json,
    )
    raise typer.Exit(code)


@price_app.command("reprice")
def reprice(
    since: Annotated[str, typer.Option(metavar="TIME", help="today, 7d, 2026-02-01 …")],
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="What was settled before that. (until now)")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Only calls of this one.")] = None,
    model: Annotated[str | None, typer.Option(help="Only calls of this one; may end in *.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Correct what calls have cost: where it was unknown, or own prices say otherwise."""
    from worker.cli import prices

    prices.reprice_calls(
        since=since,
        until=until,
        provider=provider,
        model=model,
        dry_run=dry_run,
        as_json=as_json,
    )


@books_app.callback()
def books() -> None:
    """Check the books."""


@books_app.command()
def check(as_json: Json = False) -> None:
    """Hold calls, ledger, jobs, steps and sums against each other; exit code 1 if they disagree."""
    from worker.cli import books as file

    raise typer.Exit(file.check(as_json=as_json))
