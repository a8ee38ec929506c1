"""`jobsworth session`: sittings of users and agents.

In: who sits, and for what. Out: sessions, and when they were last active.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypedDict
from uuid import UUID

import click

from db.people import sessions
from db.people.sessions import Session
from db.pool import Connection
from worker.cli.people import named
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit, emit_json, emit_table
from worker.cli.terminal.times import ago

COLUMNS = [
    Column("ID"),
    Column("STATUS"),
    Column("ACTIVE"),
    Column("TITLE", flexible=True),
]
NONE = "no sessions yet\n  → jobsworth session create --user telegram:4711"

session = Noun("session", "Sessions: sittings of users and agents.")
session_id = click.argument("session_id", metavar="SESSION", help="The whole id of the session.")
OF_WHOM = (
    named.team_option,
    click.option("--user", metavar="USER", help="Whose: an external id or an id."),
    click.option("--agent", metavar="AGENT", help="Whose: an agent's name or id."),
    click.option("--project", metavar="PROJECT", help="For what: a name or an id."),
)


class _Whose(TypedDict):
    team_id: UUID | None
    user_id: UUID | None
    agent_id: UUID | None
    project_id: UUID | None


def of_whom(command: options.F) -> options.F:
    """The options that say whose session it is, and for what."""
    for option in reversed(OF_WHOM):
        command = option(command)
    return command


@session.verb("list", "jobsworth session --user telegram:4711")
@of_whom
@options.limit(20)
@options.as_json
def list_sessions(limit: int, as_json: bool, **whose: str | None) -> None:
    """List sessions, newest first."""

    async def work(conn: Connection) -> list[Session]:
        return await sessions.list_sessions(conn, **await _ids(conn, **whose), limit=limit)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    rows = [[str(s.id), s.status, ago(s.last_active_at, now), s.title] for s in found]
    emit_table(COLUMNS, rows, NONE)


@session.verb("create", "jobsworth session create --user telegram:4711 --project launch")
@of_whom
@click.option("--title", metavar="TEXT", help="What it is about.")
@options.as_json
def create(title: str | None, as_json: bool, **whose: str | None) -> None:
    """Open a new session and print its id."""

    async def work(conn: Connection) -> Session:
        return await sessions.create(conn, **await _ids(conn, **whose), title=title)

    created = run_in_database(work)
    if as_json:
        emit_json(created)
    else:
        emit(str(created.id))


@session.verb("resume", "jobsworth session resume 01890a5d-ac96-774b-bcce-b302099a8057")
@session_id
def resume(session_id: str) -> None:
    """Open a session again, or say that it is in use."""
    _moved(sessions.resume, ids.whole_id(session_id, "SESSION"))


@session.verb("close", "jobsworth session close 01890a5d-ac96-774b-bcce-b302099a8057")
@session_id
def close(session_id: str) -> None:
    """Close a session; its jobs go on, and nothing is removed."""
    _moved(sessions.close, ids.whole_id(session_id, "SESSION"))


async def _ids(
    conn: Connection, *, team: str | None, user: str | None, agent: str | None, project: str | None
) -> _Whose:
    team_id = await named.team_id(conn, team)
    return {
        "team_id": team_id,
        "user_id": await named.user_id(conn, user),
        "agent_id": await named.agent_id(conn, agent, team_id),
        "project_id": await named.project_id(conn, project, team_id),
    }


def _moved(move: Callable[[Connection, UUID], Awaitable[Session]], wanted: UUID) -> None:
    async def work(conn: Connection) -> Session:
        return await move(conn, wanted)

    emit(f"session {wanted} is {run_in_database(work).status}")
