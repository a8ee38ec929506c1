"""How a command is declared: a noun, its verbs, and the examples in their help.

In: functions with their options. Out: click's groups and commands. `jobsworth NOUN` alone runs the
noun's default verb, usually `list`, with whatever options follow.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

# A first sentence is never cut in a list of commands.
HELP_CHARACTERS_MAX = 200
# What no text in PostgreSQL can hold; half a surrogate pair stands for a byte that is not UTF-8.
NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Verb(click.Command):
    """A command with examples below its help, printed as they are."""

    def __init__(self, name: str | None, examples: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            value: object = ctx.params.get(parameter.name or "")
            if isinstance(parameter.type, click.Path) or not isinstance(value, str):
                continue
            if NO_TEXT.search(value):
                raise click.BadParameter("is not UTF-8 text without NUL characters", ctx, parameter)
        return rest

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not self.examples:
            return
        with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
            for line in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Noun(click.Group):
    """A group of verbs; without a verb, the default one runs."""

    def __init__(self, name: str, help: str, default: str | None = "list") -> None:
        super().__init__(
            name,
            help=help,
            no_args_is_help=default is None,
            subcommand_metavar="VERB [ARGUMENTS]..."
            if default is None
            else "[VERB] [ARGUMENTS]...",
        )
        self.default = default

    def verb(
        self, name: str, *examples: str, **attributes: Any
    ) -> Callable[[Callable[..., Any]], click.Command]:
        """Declare a function as a verb of this noun."""
        return self.command(name, cls=Verb, examples=examples, **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.default is not None and not (ctx.resilient_parsing and not args):
            first = args[0] if args else ""
            if not first or (first.startswith("-") and first not in ctx.help_option_names):
                args = [self.default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and args[0] not in self.commands:
            raise no_such_command(ctx, args[0], list(self.commands))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [
            (name, command.get_short_help_str(HELP_CHARACTERS_MAX))
            for name, command in self.commands.items()
        ]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)
        if self.default is not None:
            with formatter.section("Without a verb"):
                formatter.write_text(f"{ctx.command_path} {self.default}")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = super().shell_complete(ctx, incomplete)
        if self.default is not None and incomplete.startswith("-"):
            known = {item.value for item in found}
            default = self.commands[self.default].shell_complete(ctx, incomplete)
            found += [item for item in default if item.value not in known]
        return found


class UsageProblem(click.UsageError):
    """A command line that cannot be read; `remedy` says what to type instead."""

    def __init__(self, message: str, remedy: str, ctx: click.Context | None = None) -> None:
        super().__init__(message, ctx)
        self.remedy = remedy


def no_such_command(ctx: click.Context, word: str, known: Sequence[str]) -> UsageProblem:
    """The error for a word that names no command here."""
    near = difflib.get_close_matches(word, known, n=1)
    path = ctx.command_path
    if near:
        remedy = f"did you mean: {path} {near[0]}"
    elif "show" in known:
        remedy = f"show one: {path} show ID; all verbs: {path} --help"
    else:
        remedy = f"see what there is: {path} --help"
    return UsageProblem(f"there is no command {path} {word}", remedy, ctx)
