"""Whether Jobsworth can work with a PostgreSQL server.

In: what the server says of itself. Out: findings. Pure, but for the clock of this machine.
"""

from datetime import UTC, datetime

from db.diagnosis.checkup import Server
from db.migrate import COMMAND
from db.reach import shown_url
from worker.cli.installation.finding import Finding, ok, problem, warning

SERVER_MAJOR_MIN = 16
PGVECTOR_MIN = (0, 8, 4)
SKEW_SECONDS_MAX = 2.0


def judge_server(server: Server, url: str, *, embedded: bool) -> list[Finding]:
    """Whether Jobsworth can work with this server."""
    address = "embedded" if embedded else shown_url(url)
    connection = ok("database", f"{address}, as {server.role}")
    return [connection, _version(server), _pgvector(server, embedded=embedded), _clock(server)]


def _version(server: Server) -> Finding:
    text = f"PostgreSQL {server.version}"
    if server.version_number < SERVER_MAJOR_MIN * 10_000:
        return problem(
            "server",
            f"{text} is older than {SERVER_MAJOR_MIN}",
            f"upgrade it to {SERVER_MAJOR_MIN} or newer",
        )
    return ok("server", text)


def _pgvector(server: Server, *, embedded: bool) -> Finding:
    if server.pgvector is None and server.pgvector_available is None:
        return problem(
            "pgvector",
            "the server does not have the extension vector (pgvector)",
            "install pgvector 0.8.4 or newer there",
        )
    if server.pgvector is None:
        return Finding(
            "warning" if embedded else "problem",
            "pgvector",
            "the extension vector is not created in this database",
            f"run: {COMMAND}",
        )
    if _numbers(server.pgvector) < PGVECTOR_MIN:
        return warning(
            "pgvector",
            f"{server.pgvector}; before 0.8.4, vacuum can corrupt its HNSW indexes",
            "install a newer one on the server, then run: alter extension vector update",
        )
    return ok("pgvector", server.pgvector)


def _clock(server: Server) -> Finding:
    skew = (datetime.now(UTC) - server.clock).total_seconds()
    if abs(skew) > SKEW_SECONDS_MAX:
        return warning(
            "clock",
            f"this machine is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the server",
            "synchronise both (NTP); jobs run by the server's clock",
        )
    return ok("clock", "this machine and the server agree")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
