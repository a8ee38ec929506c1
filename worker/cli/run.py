"""One run of the command line, from its arguments to its exit code.

In: arguments. Out: an exit code; whatever went wrong is explained on stderr, in words or, with
`--json`, as one JSON document in one line. Invariant: a traceback is shown only with `--traceback`.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TextIO, cast

import click

from worker.cli.program import Program, RunOptions
from worker.cli.terminal import problems
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import OutputClosed
from worker.masking import mask


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, never raises."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = RunOptions()
    _write_any_character()
    try:
        return _run(arguments, options)
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except OutputClosed:
        _drop_output()
        return ExitCode.PIPE_CLOSED
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return ExitCode.BAD_INPUT
    except Exception as error:
        if options.traceback:
            print(mask(traceback.format_exc()), end="", file=sys.stderr)
            return problems.exit_code_of(error)
        problem = problems.explain(error, arguments)
        told = problem.as_json() if problems.wants_json(arguments) else problem.as_text()
        print(told, file=sys.stderr)
        return problem.exit_code


def _run(arguments: list[str], options: RunOptions) -> int:
    try:
        code = Program().main(arguments, "jobsworth", standalone_mode=False, obj=options)
    except SystemExit as ended:  # the end of a completion
        code = ended.code
    finally:
        _flush()
    return _number(code)


def _number(code: object) -> int:
    if code is None:
        return ExitCode.OK
    return code if isinstance(code, int) else ExitCode.NO


def _flush() -> None:
    stdout = cast("TextIO | None", sys.stdout)
    if stdout is None or stdout.closed:  # a handler of a worker has done that
        return
    try:
        stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None


# The interpreter flushes stdout once more at its end, and would complain of the closed pipe.
def _drop_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


# A terminal that knows only ASCII shows \u2713 for a tick instead of failing.
def _write_any_character() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
