"""One run of the command line, from its arguments to its exit code.

In: arguments. Out: an exit code, and for whatever went wrong one short explanation on stderr.
Invariant: a traceback is shown only to someone who asked for it (`--traceback`).
"""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper

from worker.cli.exit_codes import ExitCode, exit_code_of
from worker.cli.output import OutputClosed, clean


@dataclass
class RunOptions:
    """What stands before the command; filled while the arguments are read."""

    traceback: bool = False


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, never raises."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = RunOptions()
    _write_any_character()
    try:
        return _run(arguments, options)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except OutputClosed:
        _drop_output()
        return ExitCode.PIPE_CLOSED
    except Exception as error:
        if options.traceback:
            traceback.print_exc()
        else:
            explain(error, arguments)
        return exit_code_of(error)


def explain(error: Exception, arguments: Sequence[str] = ()) -> None:
    """Say on stderr what is wrong, and after an arrow what to do about it."""
    from db.errors import READ_ONLY, DatabaseError, JobsworthError
    from worker.settings import SettingsError

    match error:
        case DatabaseError() if error.sqlstate == READ_ONLY:
            lines = [
                f"error: the database is read-only: {error.message}",
                "  → connect to the primary (target_session_attrs=read-write)",
            ]
        case SettingsError():
            lines = [f"error: {problem}" for problem in error.problems]
            lines.append("  → jobsworth doctor --settings lists them all")
        case JobsworthError():
            lines = [f"error: {error.message}"]
            if error.remedy:
                lines.append(f"  → {error.remedy}")
        case _:
            lines = [
                f"error: {type(error).__name__}: {error}",
                "  → this is a mistake in Jobsworth; for its traceback: "
                f"jobsworth --traceback {shlex.join(arguments)}",
            ]
    print(clean("\n".join(lines)), file=sys.stderr)


def _run(arguments: list[str], options: RunOptions) -> int:
    from worker.cli.app import app

    try:
        app(arguments, prog_name="jobsworth", obj=options)
    except SystemExit as ended:
        return _number(ended.code)
    finally:
        _flush()
    return ExitCode.OK


def _number(code: object) -> int:
    if code is None:
        return ExitCode.OK
    return code if isinstance(code, int) else ExitCode.NO


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None


# The interpreter flushes once more when it ends, and would complain of the closed pipe.
def _drop_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


# A terminal that knows only ASCII gets \u2713 for a tick, not an error.
def _write_any_character() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
