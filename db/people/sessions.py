"""Sessions: one sitting of a user or an agent, within a project.

In: who sits, and for what. Out: a row of `sessions`, which jobs, runs and threads name. What a job
makes belongs to the session of its job. Enqueueing in a session does not lock its row.
"""

from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit
from db.documents import to_payload, to_text
from db.errors import Conflict
from db.people.naming import LIMIT_MAX, existing
from db.pool import fetch_all, fetch_one


class SessionStatus(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


class Session(BaseModel):
    """A row of `sessions`. `last_active_at`: when it was made, resumed, or last got a job."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    project_id: UUID | None
    user_id: UUID | None
    agent_id: UUID | None
    title: str | None
    status: SessionStatus
    metadata: dict[str, Any]
    created_at: AwareDatetime
    last_active_at: AwareDatetime
    closed_at: AwareDatetime | None


# A job of the session is a sign of life; it is read here and not written on the session's row.
SESSION_COLUMNS: LiteralString = """
  s.id, s.team_id, s.project_id, s.user_id, s.agent_id, s.title, s.status, s.metadata,
  s.created_at, greatest(s.last_active_at, (
    select j.created_at from jobsworth.reactive_jobs j
    where j.session_id = s.id order by j.id desc limit 1)) as last_active_at, s.closed_at
"""

CREATE: LiteralString = (
    """
insert into jobsworth.sessions as s (
  team_id, project_id, user_id, agent_id, title, metadata)
values (%(team_id)s, %(project_id)s, %(user_id)s, %(agent_id)s, %(title)s, %(metadata)s::jsonb)
returning """
    + SESSION_COLUMNS
)


async def create(
    conn: AsyncConnection[Any],
    *,
    team_id: UUID | None = None,
    project_id: UUID | None = None,
    user_id: UUID | None = None,
    agent_id: UUID | None = None,
    title: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Session:
    """A new, open session. Raises `Refused` for a team, project, user or agent that is missing."""
    values = {
        "team_id": team_id,
        "project_id": project_id,
        "user_id": user_id,
        "agent_id": agent_id,
        "title": None if title is None else to_text(title),
        "metadata": to_payload(metadata or {}, "the metadata of a session"),
    }
    created = await fetch_one(conn, CREATE, values, Session)
    assert created is not None
    return created


RESUME: LiteralString = (
    """
update jobsworth.sessions as s
set status = 'open', closed_at = null, last_active_at = now()
where s.id = %(id)s
returning """
    + SESSION_COLUMNS
)


async def resume(conn: AsyncConnection[Any], session_id: UUID) -> Session:
    """Open a session again, or say that an open one is in use. Raises `NotFound`."""
    resumed = await fetch_one(conn, RESUME, {"id": session_id}, Session)
    return existing(resumed, "session", session_id)


CLOSE: LiteralString = (
    """
update jobsworth.sessions as s
set status = 'closed', closed_at = now()
where s.id = %(id)s and s.status = 'open'
returning """
    + SESSION_COLUMNS
)


async def close(conn: AsyncConnection[Any], session_id: UUID) -> Session:
    """Close an open session; its jobs go on, and nothing is removed.

    Raises `NotFound`, and `Conflict` if it is closed.
    """
    closed = await fetch_one(conn, CLOSE, {"id": session_id}, Session)
    if closed is None:
        await get(conn, session_id)
        raise Conflict(f"session {session_id} is closed", "resume it first")
    return closed


GET: LiteralString = (
    "select "
    + SESSION_COLUMNS
    + """
from jobsworth.sessions s
where s.id = %(id)s
"""
)


async def get(conn: AsyncConnection[Any], session_id: UUID) -> Session:
    """One session. Raises `NotFound`."""
    found = await fetch_one(conn, GET, {"id": session_id}, Session)
    return existing(found, "session", session_id)


LIST: LiteralString = (
    "select "
    + SESSION_COLUMNS
    + """
from jobsworth.sessions s
where (%(team_id)s::uuid is null or s.team_id = %(team_id)s::uuid)
  and (%(project_id)s::uuid is null or s.project_id = %(project_id)s::uuid)
  and (%(user_id)s::uuid is null or s.user_id = %(user_id)s::uuid)
  and (%(agent_id)s::uuid is null or s.agent_id = %(agent_id)s::uuid)
  and (%(before_id)s::uuid is null or s.id < %(before_id)s::uuid)
order by s.id desc
limit %(limit)s
"""
)


async def list_sessions(
    conn: AsyncConnection[Any],
    *,
    team_id: UUID | None = None,
    project_id: UUID | None = None,
    user_id: UUID | None = None,
    agent_id: UUID | None = None,
    limit: int = 100,
    before_id: UUID | None = None,
) -> list[Session]:
    """Sessions, newest first. For the next page, pass the last id of this one as `before_id`."""
    check_limit(limit, LIMIT_MAX)
    values = {
        "team_id": team_id,
        "project_id": project_id,
        "user_id": user_id,
        "agent_id": agent_id,
        "limit": limit,
        "before_id": before_id,
    }
    return await fetch_all(conn, LIST, values, Session)
