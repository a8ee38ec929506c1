"""Every command that takes something shows an example, and each example is one it understands."""

import re
import shlex
from typing import Any

import typer

from tests.support import run_cli
from worker.cli.app import app
from worker.cli.examples import EXAMPLES

ROOT: Any = typer.main.get_command(app)


def commands(group: Any, words: str = "") -> dict[str, Any]:
    """Every command below `group`, by its words."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        path = f"{words} {name}".strip()
        found |= commands(command, path) if hasattr(command, "commands") else {path: command}
    return found


COMMANDS = commands(ROOT)


def test_every_command_that_takes_something_has_an_example() -> None:
    taking = {
        words
        for words, command in COMMANDS.items()
        if {option.name for option in command.params} - {"as_json"}
    }
    plain_lists = {words for words in taking if words.endswith(" list")}
    assert taking - plain_lists - set(EXAMPLES) == set()
    assert set(EXAMPLES) - set(COMMANDS) == {"runs"}


def test_every_example_is_understood_by_its_command() -> None:
    read = 0
    for line in (line for lines in EXAMPLES.values() for line in lines):
        called = re.search(r"(?:^|\| |\w+ )jobsworth (.+?)(?: > .*)?$", line)
        if called is None:
            continue
        context = ROOT.make_context("jobsworth", shlex.split(called[1]), obj=None)
        group = ROOT
        while hasattr(group, "commands"):
            name, command, rest = group.resolve_command(
                context, context._protected_args + context.args
            )
            context = command.make_context(name, rest, parent=context)
            group = command
        read += 1
    assert read > len(EXAMPLES)


def test_help_shows_the_examples_as_they_are() -> None:
    for words in ("runs start", "budget set"):
        shown = run_cli(*words.split(), "--help").stdout
        for line in EXAMPLES[words]:
            assert f"    {line}\n" in shown
            assert len(line) <= 76
