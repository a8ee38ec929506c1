"""Command lines that a careless operator types, made from the tree of commands itself.

In: nothing; whatever command there is, is found. Out: command lines, each with one value that is
wrong or odd, and the words by which a message names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import click

from worker.cli.program import Program

Path = tuple[str, ...]

# They start a process that stays, or one that is not ours.
STAYING = frozenset({("worker", "run"), ("demo",), ("psql",), ("serve",)})
UNKNOWN_ID = "0123456789ab"
NODES = '[{"node": "a", "mode": "greet"}]'
# What a required parameter takes, by its name; one that is not here takes `x`. Ids are filled in.
GOOD = {
    "mode": "greet",
    "file": "-",
    "since": "1d",
    "amount": "5",
    "input_rate": "1",
    "output_rate": "2",
    "shell": "bash",
    "queue": "default",
    "url": "https://example.org/hook",
}
# Options without which a verb does nothing; they come after what is required.
NEEDED: dict[Path, tuple[str, ...]] = {
    ("schedule", "add"): ("--mode", "greet", "--every", "1h"),
    ("budget", "set"): ("--tokens", "5"),
    ("limit", "set"): ("--requests", "5"),
    ("step", "done"): ("--output", "1"),
}
ODD: Mapping[str, str] = {
    "empty": "",
    "blank": " \t",
    "a NUL": "a\0b",
    "half a character": "a\udcff",
    "a negative number": "-1",
    "not a number": "NaN",
    "a huge number": "1e999",
    "a long number": "9" * 5_000,
    "a JSON of another kind": "[1]",
    "deep JSON": "[" * 50_000,
    "no file": "@/no/such/file",
    "a quotation mark": "'; drop table x --",
    "an id of nothing": UNKNOWN_ID,
    "the id of another thing": "OTHER",
    "three lines": "a\nb\x1b[31m\r\nc",
    # Linux takes no longer one.
    "very long": "x" * 131_000,
}


class Line(NamedTuple):
    """A command line; `wrong` is the parameter that has the value named `kind`.

    `given`: good values of what the command requires.
    """

    path: Path
    command: click.Command
    given: Mapping[str, str]
    arguments: tuple[str, ...]
    wrong: click.Parameter
    kind: str
    value: str

    def named_in(self, message: str) -> bool:
        """Whether a message names the parameter, or its value, or what the value should be of."""
        words = {*self.wrong.opts, self.wrong.name or "", self.wrong.human_readable_name}
        words |= {self.path[0], repr(self.value)[1:9]}
        words = {word.lower().strip("-<>@").replace("_", " ") for word in words} - {""}
        return any(word in message.lower().replace("_", " ") for word in words)


def verbs(
    command: click.Command | None = None, path: Path = ()
) -> Iterator[tuple[Path, click.Command]]:
    """Every command that can be called, with the words that call it."""
    command = command or Program()
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if found is not None:
            yield from verbs(found, (*path, name))


def good(path: Path, command: click.Command, ids: Mapping[str, str]) -> dict[str, str]:
    """A good value for each required parameter, by its name."""
    return {
        str(parameter.name): ids.get(str(parameter.name)) or GOOD.get(str(parameter.name), "x")
        for parameter in command.params
        if parameter.required
    }


def line(path: Path, command: click.Command, values: Mapping[str, str]) -> tuple[str, ...]:
    """The command line with these values, by the parameters' names."""
    options, arguments = list[str](), list[str]()
    for parameter in command.params:
        value = values.get(str(parameter.name))
        if value is None:
            continue
        if isinstance(parameter, click.Option):
            options.append(f"{max(parameter.opts, key=len)}={value}")
        else:
            arguments.append(value)
    # A later option of the same name counts.
    begun = (*path, *NEEDED.get(path, ()), *options)
    return (*begun, "--", *arguments) if arguments else begun


def careless(ids: Mapping[str, str]) -> Iterator[Line]:
    """Every parameter of every command that takes a value, with each odd one.

    `ids` has a living job, run and approval, by the names of parameters.
    """
    for path, command in verbs():
        given = good(path, command, ids)
        for parameter in command.params:
            words = (click.types.StringParamType, click.types.UnprocessedParamType, click.Path)
            takes_words = isinstance(parameter.type, words)
            if getattr(parameter, "is_flag", False) or (path in STAYING and takes_words):
                continue
            others = [value for name, value in ids.items() if name != parameter.name]
            for kind, value in ODD.items():
                odd = others[-1] if value == "OTHER" else value
                values = {**given, str(parameter.name): odd}
                yield Line(path, command, given, line(path, command, values), parameter, kind, odd)
