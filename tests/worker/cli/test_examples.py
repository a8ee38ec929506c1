"""Every command has an example, and each example is one that the command line understands."""

import re
import shlex
from typing import Any

import pytest

from tests.support import run_cli
from worker.cli.program import TABLE, load
from worker.cli.terminal.commands import HELP_CHARACTERS_MAX, Noun, Verb


def commands() -> dict[str, Any]:
    """Every command by its words; short forms of the top level included."""
    found: dict[str, Any] = {}
    for entry in (entry for entry in TABLE if entry.place):
        command = load(entry)
        if isinstance(command, Noun):
            found |= {f"{entry.name} {name}": verb for name, verb in command.commands.items()}
        else:
            found[entry.name] = command
    return found


COMMANDS = commands()
SHORT_FORMS = ("enqueue", "jobs", "why", "approve", "reject")


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_a_help_and_an_example_of_itself(words: str) -> None:
    command = COMMANDS[words]
    assert isinstance(command, Verb)
    assert (command.help or "").split("\n")[0].endswith(".")
    noun = words.split()[0]
    called = [line for line in command.examples if "jobsworth " in line]
    assert called
    assert all(
        re.search(rf"jobsworth ({noun}|{'|'.join(SHORT_FORMS)}|{command.name})\b", line)
        for line in called
    )


def test_the_short_forms_are_the_commands_of_their_nouns() -> None:
    tops = [load(entry) for entry in TABLE if entry.name in SHORT_FORMS]
    assert [id(command) for command in tops] == [
        id(COMMANDS[words])
        for words in (
            *("job enqueue", "job list", "job why"),
            *("approval approve", "approval reject"),
        )
    ]


@pytest.mark.parametrize("words", [words for words, it in COMMANDS.items() if it.examples])
def test_every_example_is_understood_by_its_command(words: str) -> None:
    for line in COMMANDS[words].examples:
        called = re.search(r"(?:^|\| |\w+ |<\()jobsworth (.+?)(?:\)? +# .*| > .*| \| .*)?$", line)
        if called is not None:
            _parse(shlex.split(called[1]))


def _parse(arguments: list[str]) -> None:
    """Read a command line as far as it can be read without running it."""
    word, *rest = arguments
    [command] = [load(entry) for entry in TABLE if entry.name == word]
    if isinstance(command, Noun):
        named = rest[:1] if rest and rest[0] in command.commands else [command.default]
        assert named[0] is not None
        rest = rest[len(named) :] if rest[:1] == named else rest
        command = command.commands[named[0]]
    command.make_context(word, rest)


def test_help_shows_the_examples_as_they_are() -> None:
    for words in ("run start", "budget set"):
        shown = run_cli(*words.split(), "--help").stdout
        for line in COMMANDS[words].examples:
            assert f"\n  {line}\n" in shown
            assert len(line) <= 78


def test_a_help_line_of_the_table_fits_and_is_a_sentence() -> None:
    for entry in TABLE:
        assert entry.help.endswith("."), entry.name
        assert len(entry.help) <= HELP_CHARACTERS_MAX
