"""Exit codes: what a script may rely on.

The numbers and what they mean; `problems.exit_code_of` chooses one for an error.
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
    ExitCode.NO: "the answer is no: a job not done (--wait), violations, a problem (doctor)",
    ExitCode.BAD_INPUT: "a wrong option, argument or setting, or a value that cannot be used",
    ExitCode.NOT_FOUND: "no such job, approval, environment …",
    ExitCode.CONFLICT: "its state does not allow this: already decided, already ended …",
    ExitCode.DATABASE: "the database or the embedder is unreachable, full or read-only",
    ExitCode.SCHEMA: "the schema is missing, older or newer than this version",
    ExitCode.BUG: "a mistake in Jobsworth, or a worker all of whose threads are stuck",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    ExitCode.PIPE_CLOSED: "the reader of the output went away",
}
