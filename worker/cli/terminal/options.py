"""Arguments and options that several commands share, and the kinds of values they take.

In: nothing. Out: decorators for the functions that are commands. A command's own options stand at
its function.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from worker.cli.terminal import names

F = TypeVar("F", bound=Callable[..., Any])


class FilePath(click.Path):
    """A path, which may hold any bytes but NUL: what opens files would not say so in words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in str(value):
            self.fail("has a NUL character, which no path can have", param, ctx)
        return super().convert(value, param, ctx)


class WholeNumber(click.ParamType[int]):
    """A whole number within bounds; a wrong one is refused in plain words."""

    name = "N"

    def __init__(self, lowest: int, highest: int | None = None) -> None:
        self.lowest, self.highest = lowest, highest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or number < self.lowest or number > (self.highest or number):
            self.fail(f"'{value}' is not {self._words()}", param, ctx)
        return number

    def _words(self) -> str:
        if self.highest is None:
            return f"a whole number of at least {self.lowest}"
        return f"a whole number from {self.lowest} to {self.highest:,}"


class Share(click.ParamType[float]):
    """A number from 0 to 1."""

    name = "SHARE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"'{value}' is not a number from 0 to 1", param, ctx)
        return share


class OneOf(click.ParamType[str]):
    """One of some words; a wrong one is refused with all of them."""

    name = "WORD"

    def __init__(self, words: Iterable[str]) -> None:
        self.words = [str(word) for word in words]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.words:
            self.fail(f"'{value}' is not one of: {', '.join(self.words)}", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


def choice(
    *declarations: str, words: Iterable[str], help: str, **attributes: Any
) -> Callable[[F], F]:
    """An option that takes one of some words; its help lists them."""
    known = OneOf(words)
    listed = f"{help}: {', '.join(known.words)}."
    return click.option(*declarations, type=known, help=listed, **attributes)


def as_json(function: F) -> F:
    """`--json`."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON document; an error is JSON too, on stderr.",
    )(function)


def limit(default: int, order: str = "newest first") -> Callable[[F], F]:
    """`--limit`."""
    return click.option(
        "--limit",
        type=WholeNumber(1, 1000),
        default=default,
        help=f"Show at most N, {order}.",
    )


def wait(ending: str) -> Callable[[F], F]:
    """`--wait`: follow a job to its end, good if `ending`."""
    return click.option(
        "--wait",
        is_flag=True,
        help=f"Follow the job to its end; exit code 1 unless it is {ending}.",
    )


def id_of(thing: str, complete: names.Completer) -> Callable[[F], F]:
    """The id of a job, a run or an approval, as the argument of that name."""
    return click.argument(
        thing,
        metavar="ID",
        shell_complete=complete,
        help=f"The {thing}'s id, or at least 6 digits of its beginning or end.",
    )


job_id = id_of("job", names.jobs)
run_id = id_of("run", names.runs)
approval_id = id_of("approval", names.approvals)
webhook_id = id_of("webhook", names.webhooks)

queue_name = click.argument(
    "queue", metavar="QUEUE", shell_complete=names.queues, help="The queue's name."
)
step_name = click.argument(
    "step", metavar="STEP", shell_complete=names.steps, help="The step's name."
)
environment_name = click.argument(
    "environment",
    metavar="ENVIRONMENT",
    shell_complete=names.environments,
    help="An environment of deploy.toml.",
)
environment_filter = click.option(
    "--environment",
    metavar="NAME",
    shell_complete=names.environments,
    help="Only deployments to this environment.",
)
budget_name = click.argument(
    "name", metavar="NAME", shell_complete=names.budgets, help="The budget's name."
)
provider = click.argument("provider", metavar="PROVIDER", help="The provider, like openai.")
model_pattern = click.argument(
    "model", metavar="MODEL", help="The model's name; a * at its end stands for any ending."
)
model_or_all = click.argument(
    "model",
    default="*",
    required=False,
    help="One model; by default all together.",
)
team_only = click.option("--team", metavar="UUID", help="For this team only.")


def comment(function: F) -> F:
    """`--comment`."""
    return click.option("--comment", metavar="TEXT", help="Why; kept with the decision.")(function)


def by(function: F) -> F:
    """`--by`."""
    return click.option("--by", metavar="NAME", help="Who decides.  [default: your user name]")(
        function
    )


def reason(function: F) -> F:
    """`--reason`."""
    return click.option(
        "--reason",
        metavar="TEXT",
        default="canceled by a person",
        help="Why; kept with the job.",
    )(function)
