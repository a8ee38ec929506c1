"""The errors of this package: whose fault each is, and what to do about it.

    JobsworthError
    ├── InvalidInput          the caller's value; nothing was written
    │   └── ExtraMissing      an optional part of Jobsworth is needed and not installed
    ├── NotFound              no such row
    ├── Conflict              the row is in another state, or a key is taken
    ├── SchemaMismatch        the database's schema is not the one this version knows
    └── DatabaseError         PostgreSQL refused; `sqlstate` is its code
        ├── Unavailable       retriable: no connection, shutting down, read-only
        │   └── ConnectionRefused  the server answers, and refuses this role, password or database
        ├── Contended         retriable: deadlock, lock timeout, serialization
        ├── Exhausted         retriable: disk full, out of memory or connections
        └── Refused           not retriable: constraint, bad value, missing right

Each carries its own message and remedy. `retriable` says whether the same call may succeed later.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import psycopg_pool

SHOWN_CHARACTERS_MAX = 100
SAID_CHARACTERS_MAX = 400


class JobsworthError(Exception):
    """`message` names the thing and the reason; `remedy` says what to do about it."""

    retriable = False

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class InvalidInput(JobsworthError):
    """A value from the caller is not usable; nothing was written."""


class ExtraMissing(InvalidInput):
    """An optional part of Jobsworth is needed; the package's `extra` installs it.

    `instead` says how to do without it.
    """

    def __init__(self, message: str, extra: str, instead: str) -> None:
        super().__init__(message, f"{instead}, or run: pip install 'jobsworth[{extra}]'")
        self.extra = extra


class NotFound(JobsworthError):
    """The named row does not exist."""


class Conflict(JobsworthError):
    """The row is in a state that does not allow this, or a key is taken."""


class SchemaMismatch(JobsworthError):
    """The schema is missing, older or newer than this version of Jobsworth."""


class DatabaseError(JobsworthError):
    """PostgreSQL refused or could not be reached; `sqlstate` is its five-character code, if any."""

    def __init__(self, message: str, remedy: str = "", sqlstate: str | None = None) -> None:
        super().__init__(message, remedy)
        self.sqlstate = sqlstate


class Unavailable(DatabaseError):
    """No connection, or a server that does not take writes now."""

    retriable = True


class ConnectionRefused(Unavailable):
    """The server answers and refuses the session: a wrong role, password or database.

    Another try may succeed once a person has mended that.
    """


class Contended(DatabaseError):
    """Another transaction was in the way: deadlock, lock timeout, serialization failure."""

    retriable = True


class Exhausted(DatabaseError):
    """The server is out of disk, memory or connections."""

    retriable = True


class Refused(DatabaseError):
    """The statement itself cannot succeed: a constraint, a bad value, a missing right."""


READ_ONLY = "25006"
# What to do about an error of PostgreSQL, by its code or the beginning of its code. The longest
# that fits counts; what our own functions raise brings a remedy of its own.
REMEDIES = {
    "": "see the server's log for more about it",
    "08": "the same call may succeed once PostgreSQL can be reached again: jobsworth doctor",
    "0A": "leave out what this version of PostgreSQL does not support",
    "21": "make the statement return or touch each row once",
    "22": "give a value that fits the type and the range of its column",
    "22P02": "give text that reads as the type of its column",
    "23": "give values that the constraint allows",
    "23502": "give the column that it names a value",
    "23503": "create the row that is referred to first, or leave the reference out",
    "23505": "read the row that has the key already, or choose another key",
    "23514": "give a value that the constraint allows",
    "23P01": "choose values that do not overlap those of the other row",
    "25": "end the transaction, and begin it again",
    "25P02": "an earlier statement of this transaction failed: roll back, and run all of it again",
    "25P03": "run the whole transaction again, and only SQL within it",
    "28": "check user and password in JOBSWORTH_DATABASE_URL",
    "3D": "create the database, or name another one in JOBSWORTH_DATABASE_URL",
    "3F": "install the schema (jobsworth migrate), or check the name of the schema",
    "40": "run the whole transaction again",
    "40001": "another transaction changed the same rows: run the whole transaction again",
    "40P01": "two transactions each held what the other one wanted: run the whole transaction "
    "again, and lock rows in the same order everywhere",
    "42": "correct the statement",
    "42501": "as the owner of the schema, run: jobsworth worker grant ROLE",
    "42703": "bring the schema to this version (jobsworth migrate), or check the column's name",
    "42883": "install the schema (jobsworth migrate), or check the name and the types of values",
    "42P01": "install the schema (jobsworth migrate), or check the name of the table",
    "53": "free disk, memory or connections on the server",
    "53100": "free disk space on the server",
    "53200": "free memory on the server",
    "53300": "raise max_connections, run fewer workers, or lower JOBSWORTH_POOL_MAX",
    "54": "make the value or the statement smaller",
    "55": "try again when the object is in another state",
    "55P03": "another transaction holds the row for too long: try again, or find and end that "
    "transaction (pg_stat_activity)",
    "57": "the server is going away or ended the statement: the same call may succeed later",
    "57014": "the statement took too long or was canceled: try again, or raise the timeout",
    "58": "look at the disks of the server, and at its log",
    "P0002": "check the id or the name",
    "P0001": "see the trigger or function that raised it",
    READ_ONLY: "connect to the primary (target_session_attrs=read-write): this one takes no writes",
}
# A prepared statement that is not there, or there already: a pooler has changed the server
# connection under the client.
_MIXED_UP = ("26000", "42P05")
IDLE_IN_TRANSACTION = "25P03"
QUERY_CANCELED = "57014"
_UNAVAILABLE = (READ_ONLY, IDLE_IN_TRANSACTION, "08", "57")
_PROTOCOL = "08P01"
_MIXED_UP_REMEDY = "nothing is prepared on this pool's connections from now on; tried again"
_CONTENDED = ("40", "55P03")
_EXHAUSTED = ("53", "58")
_NOT_FOUND = "P0002"
_FOREIGN_KEY = "23503"
_NO_FUNCTION = "42883"
_CONFLICT = ("23505", "55000", "55006")
_INVALID = ("22", "23", "54", "P0001")
# Not null and check violations: their DETAIL is the whole row, payload included.
_ROW_IN_DETAIL = ("23502", "23514")


@contextmanager
def translated(why_none: Callable[[], JobsworthError | None] | None = None) -> Iterator[None]:
    """Turn driver errors into those of this module; other exceptions pass through unchanged.

    `why_none` may know why a pool has no connection to give.
    """
    try:
        yield
    except psycopg_pool.PoolTimeout as error:
        raise (why_none and why_none()) or Unavailable(
            "no database connection became free in time",
            "check that PostgreSQL answers (jobsworth doctor), or raise JOBSWORTH_POOL_MAX",
        ) from error
    except psycopg_pool.PoolClosed as error:
        raise Unavailable("the connection pool is closed", "the daemon is stopping") from error
    except psycopg.Error as error:
        raise translate(error) from error


def translate(error: psycopg.Error) -> JobsworthError:
    """The error of this module that corresponds to a driver error."""
    code = error.sqlstate
    message = error.diag.message_primary or str(error).strip() or type(error).__name__
    hint = error.diag.message_hint or ""
    if len(message) > SAID_CHARACTERS_MAX:  # it quotes a value
        message = f"{message[:SAID_CHARACTERS_MAX]}…"
    if code is None:
        return _without_code(error, message)
    if code == _NOT_FOUND:
        return NotFound(message, hint or remedy_for(code))
    if code in _CONFLICT and hint:
        return Conflict(message, hint)
    if is_mixed_up(code):
        return Unavailable(f"{message} (a pooler mixes up sessions)", _MIXED_UP_REMEDY, code)
    if code.startswith(_UNAVAILABLE):
        return Unavailable(message, hint or remedy_for(code), code)
    if code.startswith(_CONTENDED):
        return Contended(message, hint or remedy_for(code), code)
    if code.startswith(_EXHAUSTED):
        return Exhausted(message, hint or remedy_for(code), code)
    if code.startswith(_INVALID) and hint:
        return InvalidInput(message, hint)
    detail = None if code in _ROW_IN_DETAIL else error.diag.message_detail
    detail = detail and detail[:SAID_CHARACTERS_MAX]
    if code == _FOREIGN_KEY and message.startswith("update or delete"):
        hint = hint or "delete the rows that refer to it first"
    if code == _NO_FUNCTION:
        hint = ""  # PostgreSQL's own takes it for a matter of types
    return Refused(f"{message}: {detail}" if detail else message, hint or remedy_for(code), code)


def of_driver(error: Exception) -> Exception:
    """`translate` for an error of the driver; any other error as it is."""
    return translate(error) if isinstance(error, psycopg.Error) else error


def remedy_for(sqlstate: str) -> str:
    """What to do about an error with this code."""
    return next(
        REMEDIES[sqlstate[:length]] for length in (5, 2, 0) if sqlstate[:length] in REMEDIES
    )


def spoils(sqlstate: str | None) -> bool:
    """Whether an error with this code leaves a connection that is of no more use."""
    return sqlstate == READ_ONLY or is_mixed_up(sqlstate)


def is_mixed_up(sqlstate: str | None) -> bool:
    """Whether the client and the server connection disagree on what is prepared."""
    return sqlstate in _MIXED_UP or sqlstate == _PROTOCOL


def _without_code(error: psycopg.Error, message: str) -> JobsworthError:
    if isinstance(error, psycopg.OperationalError):
        return Unavailable(
            message.splitlines()[0],
            "check that PostgreSQL runs and JOBSWORTH_DATABASE_URL is right",
        )
    return Refused(message, "correct the call: the driver refused it before anything was sent")


def shown(value: object) -> str:
    """A caller's value as a message shows it: short ones as they are, others by their type.

    Never raises: the text of an integer of many digits, of a deep list or of an object with methods
    of its own can raise.
    """
    short = isinstance(value, str | bytes) and len(value) < SHOWN_CHARACTERS_MAX
    number = isinstance(value, float | bool) or (
        isinstance(value, int) and value.bit_length() <= 2 * SHOWN_CHARACTERS_MAX
    )
    if value is None or short or number:
        return repr(value)
    return f"a value of type {type(value).__name__}"
