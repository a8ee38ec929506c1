"""Exit codes: what a script may rely on.

In: an error. Out: the number that the process ends with. This is the one place that knows them.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    NO = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    CONFLICT = 4
    DATABASE = 5
    SCHEMA = 6
    BUG = 70
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.NO: "the answer is no: job not done (--wait), violations, a problem (doctor)",
    ExitCode.BAD_INPUT: "usage, a setting, or a value that cannot be used",
    ExitCode.NOT_FOUND: "no such job, approval, environment …",
    ExitCode.CONFLICT: "it is in another state: already decided, already ended …",
    ExitCode.DATABASE: "database (or embedder) unreachable, read-only, exhausted or not permitted",
    ExitCode.SCHEMA: "the schema is missing, older or newer than this version",
    ExitCode.BUG: "a mistake in Jobsworth, or a worker all of whose threads are stuck",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    ExitCode.PIPE_CLOSED: "nobody read the output to its end",
}


def exit_code_of(error: Exception) -> ExitCode:
    """The code for an error that `worker.cli.run` reports."""
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
            return _by_part(error)
        case _:
            return ExitCode.BUG


# Data exceptions, constraints, limits, and what our own functions raise.
_BAD_VALUE = ("22", "23", "54", "P0001")


# Errors of parts that most commands do not need, and so do not import.
def _by_part(error: Exception) -> ExitCode:
    from worker.deployments.pipeline.errors import DeployError, UnknownCommit, UnknownEnvironment

    match error:
        case UnknownEnvironment() | UnknownCommit():
            return ExitCode.NOT_FOUND
        case DeployError():
            return ExitCode.BAD_INPUT
        case _:
            return ExitCode.NO
