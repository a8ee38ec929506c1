"""Why a server cannot be reached, and what to do about it.

In: the driver's error of a failed connection. Out: one of our errors, with the address (never the
password), the server's own reason and the remedy. libpq gives no code for what a server says before
a session begins, so the remedy is found by the words; a server that speaks another language than
English gets a general one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic

import anyio
import psycopg
from psycopg.conninfo import conninfo_to_dict

from db.errors import ConnectionRefused, Unavailable

# Starting up, recovering, stopping, or out of connections: worth another try.
PASSING = ("is starting up", "too many", "remaining connection slots", "shutting down", "recovery")
URL = "JOBSWORTH_DATABASE_URL"
# What the server says, and what to do. The first that is found counts.
REMEDIES = (
    (r"password authentication failed|no password supplied", f"check user and password in {URL}"),
    (r"role .* does not exist|no such user", f"create the role, or name another one in {URL}"),
    (r"database .* does not exist|no such database", f"create it, or name another one in {URL}"),
    (r"permission denied for database", "let the role in: grant connect on database … to …"),
    (r"is not permitted to log in", "let the role in: alter role … login"),
    (r"pg_hba\.conf", "let this host, role and database in, in the server's pg_hba.conf"),
    (
        r"too many (clients|connections)|remaining connection slots",
        "raise the limit (max_connections, or that of the role or database), run fewer workers, "
        "lower JOBSWORTH_POOL_MAX, or put PgBouncer in between",
    ),
    (r'parameter "TimeZone"', "unset PGTZ, or give it a valid value"),
    (r'parameter "DateStyle"', "unset PGDATESTYLE, or give it a valid value"),
    (r'parameter "geqo"', "unset PGGEQO, or give it a valid value"),
    (r"startup parameter: options", f"leave options out of {URL} and unset PGOPTIONS"),
    (r"definition of service", "unset PGSERVICE, or define that service"),
    (
        r"read-only|hot standby|not in hot standby",
        f"name the primary in {URL}, or all servers and target_session_attrs=read-write",
    ),
)
# Where libpq looks for what a URL leaves out.
VARIABLES = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
# "FATAL:  …", in any language: two spaces, where libpq's own messages have none.
_SAID = re.compile(r"failed: \S+:  ")
# How long a refusal is told again without another try.
REPEAT_SECONDS = 1.0


def shown_url(url: str) -> str:
    """A connection string to show: user, host, port and database; no password, no options."""
    said = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    elsewhere = {
        name: os.environ[variable]
        for name, variable in VARIABLES.items()
        if os.environ.get(variable)
    }
    parts = said if "service" in said else elsewhere | said
    user = f"{parts['user']}@" if "user" in parts else ""
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{user}{parts.get('host', '')}{port}/{parts.get('dbname', '')}"


def unreachable(url: str, error: psycopg.Error) -> Unavailable:
    """The error to raise; `ConnectionRefused` if the server answers and refuses this session."""
    said = str(error)
    remedy = next(
        (remedy for words, remedy in REMEDIES if re.search(words, said)),
        f"check that PostgreSQL runs there and that {URL} is right",
    )
    refused = _SAID.search(said) is not None and not passes(error)
    kind = ConnectionRefused if refused else Unavailable
    verb = "refuses this session" if refused else "cannot be reached"
    return kind(f"the database {shown_url(url)} {verb}: {reason_of(error)}", remedy)


def passes(error: psycopg.Error) -> bool:
    """Whether the same try may soon succeed."""
    return any(words in str(error) for words in PASSING)


def reason_of(error: psycopg.Error) -> str:
    """The reasons that the driver gives for each address, without repetitions."""
    reasons = [
        line.rpartition("failed: ")[2] for line in str(error).splitlines() if "failed:" in line
    ]
    found = [re.sub(r"^(FATAL|ERROR):\s*", "", reason).strip() for reason in reasons]
    return "; ".join(dict.fromkeys(filter(None, found))) or str(error).strip().partition("\n")[0]


class Tries:
    """What became of a pool's last try to connect; those who wait for one learn of a refusal."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._error: psycopg.Error | None = None
        self._failed_at = float("-inf")
        self._waiting: set[anyio.CancelScope] = set()
        self.untried = True

    def succeeded(self) -> None:
        self._error, self.untried = None, False

    def failed(self, error: psycopg.Error) -> None:
        self._error, self._failed_at, self.untried = error, monotonic(), False
        if isinstance(self.failure(), ConnectionRefused):
            for scope in self._waiting:
                scope.cancel()

    def failure(self) -> Unavailable | None:
        """Why the last try failed; None if it succeeded."""
        return None if self._error is None else unreachable(self._url, self._error)

    def may_fail(self) -> bool:
        """Whether there was no try yet, or the last one failed."""
        return self.untried or self._error is not None

    def refusal(self) -> Unavailable | None:
        """Why the server refused this session a moment ago."""
        failure = self.failure()
        recent = monotonic() - self._failed_at < REPEAT_SECONDS
        return failure if recent and isinstance(failure, ConnectionRefused) else None

    @contextmanager
    def until_refused(self) -> Generator[None]:
        """A block that is left early when the server refuses a session."""
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.discard(scope)
