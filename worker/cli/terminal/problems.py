"""How an error is told: its message, its remedy, and the exit code.

In: an error of any part. Out: a `Problem`, as text for people or as one line of JSON for programs.
Invariant: no word of a library (a class name, `Value error`, an option parser's own phrase) reaches
a user, except for a mistake in Jobsworth itself.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from worker.cli.terminal.commands import UsageProblem
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import clean, harmless
from worker.masking import mask, masked

# Of one message, or of a remedy. Its end says what is wrong with the value that it quotes.
CHARACTERS_MAX = 2_000
END_CHARACTERS = 500
SECRET_CHARACTERS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong (one or more messages) and what to do about it."""

    messages: tuple[str, ...]
    remedy: str
    exit_code: ExitCode
    details: dict[str, Any] = field(default_factory=dict[str, Any])

    def as_text(self) -> str:
        lines = [f"error: {_bounded(message)}" for message in self.messages]
        remedy = f"  → {_bounded(self.remedy)}"
        return clean("\n".join([*lines, remedy] if self.remedy else lines))

    def as_json(self) -> str:
        error = {
            "message": "\n".join(map(_bounded, self.messages)),
            "remedy": _bounded(self.remedy) or None,
            "exit_code": int(self.exit_code),
            **self.details,
        }
        return harmless(json.dumps({"error": masked(error)}, ensure_ascii=False))


def _bounded(text: str) -> str:
    """The text without its middle if it is very long, as one that quotes megabytes is."""
    if len(text) <= CHARACTERS_MAX:
        return text
    # Masked before it is cut: half a secret would not be found.
    begin = mask(text[: CHARACTERS_MAX + SECRET_CHARACTERS_MAX])[: CHARACTERS_MAX - END_CHARACTERS]
    end = mask(text[-END_CHARACTERS - SECRET_CHARACTERS_MAX :])[-END_CHARACTERS:]
    return f"{begin} … ({len(text) - CHARACTERS_MAX:,} more characters) … {end}"


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON; words after `--` are not options."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def explain(error: Exception, arguments: Sequence[str] = ()) -> Problem:
    """What to tell a user about this error."""
    if isinstance(error, click.ClickException):
        return _of_usage(error)

    from db.errors import READ_ONLY, DatabaseError, JobsworthError
    from worker.cli.terminal.ids import AmbiguousId
    from worker.settings import SettingsError

    code = exit_code_of(error)
    match error:
        case DatabaseError() if error.sqlstate == READ_ONLY:
            message = f"the database is read-only: {error.message}"
            return Problem(
                (message,), "connect to the primary (target_session_attrs=read-write)", code
            )
        case SettingsError():
            names = [problem.name for problem in error.problems]
            return Problem(
                tuple(str(problem) for problem in error.problems),
                "list all settings: jobsworth doctor --settings",
                code,
                {"settings": names},
            )
        case AmbiguousId():
            candidates = [str(each) for each in error.candidates]
            return Problem((error.message,), error.remedy, code, {"candidates": candidates})
        case JobsworthError():
            return Problem((error.message,), error.remedy, code)
        case _:
            return Problem(
                (f"{type(error).__name__}: {error}",),
                "this is a mistake in Jobsworth; for its traceback: "
                f"jobsworth --traceback {shlex.join(arguments)}",
                code,
            )


def exit_code_of(error: Exception) -> ExitCode:
    """The exit code for an error."""
    if isinstance(error, click.ClickException):
        return ExitCode.BAD_INPUT

    import psycopg

    from db import errors
    from db.migrate import MigrateError
    from db.server.cluster import EmbeddedError
    from worker.settings import SettingsError

    match error:
        case SettingsError() | errors.InvalidInput():
            return ExitCode.BAD_INPUT
        case errors.NotFound():
            return ExitCode.NOT_FOUND
        case errors.Conflict():
            return ExitCode.CONFLICT
        case MigrateError(__cause__=psycopg.Error() as cause):
            unavailable = isinstance(errors.translate(cause), errors.Unavailable | errors.Exhausted)
            return ExitCode.DATABASE if unavailable else ExitCode.SCHEMA
        case MigrateError() | errors.SchemaMismatch():
            return ExitCode.SCHEMA
        case errors.Refused(sqlstate=str(code)) if code.startswith(_BAD_VALUE):
            return ExitCode.BAD_INPUT
        case errors.DatabaseError() | EmbeddedError():
            return ExitCode.DATABASE
        case errors.JobsworthError():
            return _of_deployment(error)
        case _:
            return ExitCode.BUG


# Data exceptions, constraints, limits, and errors that our own functions raise.
_BAD_VALUE = ("22", "23", "54", "P0001")


# Imported last: most commands do not need the pipeline.
def _of_deployment(error: Exception) -> ExitCode:
    from worker.deployments.pipeline.errors import DeployError, UnknownCommit, UnknownEnvironment

    match error:
        case UnknownEnvironment() | UnknownCommit():
            return ExitCode.NOT_FOUND
        case DeployError():
            return ExitCode.BAD_INPUT
        case _:
            return ExitCode.NO


def _of_usage(error: click.ClickException) -> Problem:
    context = getattr(error, "ctx", None)
    command = context.command_path if isinstance(context, click.Context) else "jobsworth"
    remedy = f"see how it is used: {command} --help"
    match error:
        case UsageProblem():
            message, remedy = error.message, error.remedy
        case click.NoSuchOption():
            message = f"{command} has no option {error.option_name}"
            if error.possibilities:
                remedy = f"did you mean: {' or '.join(sorted(error.possibilities))}"
        case click.MissingParameter():
            message = f"{_name(error.param)} is missing"
        case click.BadParameter():
            name = _name(error.param)
            message = f"{name} {error.message}" if name else error.message
        case _:
            message = error.format_message().rstrip(".")
            more = re.fullmatch(r"Got unexpected extra arguments? \((.*)\)", message)
            if more:
                message = f"{command} has no use for: {more[1]}"
            message = message[:1].lower() + message[1:]
    return Problem((message,), remedy, ExitCode.BAD_INPUT)


def _name(parameter: click.Parameter | None) -> str:
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return "" if parameter is None else parameter.human_readable_name.strip("[]")
