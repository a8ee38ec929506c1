"""People: teams and who is in them, agents and what makes them different, tokens, sessions.

In: nothing. Out: one page; a token that nobody can use any more, a session that is closed. Tokens
are shown without their texts, which only whoever issued them has seen.
"""

from typing import Any
from uuid import UUID

from fastapi import Response

from db.errors import NotFound
from db.people import agents, sessions, teams, tokens
from db.people.agents import Agent
from db.pool import Connection
from worker.cli.terminal.ids import whole_id
from worker.dashboard.frame import Frame, answer

TEAMS_MAX = 50
SESSIONS_MAX = 50
WEIGHTS = (
    ("similarity_weight", "Similarity"),
    ("recency_weight", "Recency"),
    ("importance_weight", "Importance"),
)


async def page(conn: Connection, frame: Frame) -> Response:
    found = (await teams.list_teams(conn))[:TEAMS_MAX]
    known = await agents.list_agents(conn)
    names: dict[UUID, str] = {each.id: each.name for each in (*found, *known)}
    return answer(
        frame,
        "people.html",
        page="people",
        asking=0,
        teams=[(team, await teams.members(conn, team.id)) for team in found],
        agents=[(each, _weights(each)) for each in known],
        tokens=await tokens.list_tokens(conn) if frame.may("tokens:read") else None,
        sessions=await sessions.list_sessions(conn, limit=SESSIONS_MAX),
        names=names,
    )


async def act(conn: Connection, noun: str, id: str, action: str) -> str:
    """Revoke a token or close a session; returns what to say."""
    match noun, action:
        case "tokens", "revoke":
            revoked = await tokens.revoke(conn, whole_id(id, "token"))
            return f"Token {revoked.name} lets nobody in any more."
        case "sessions", "close":
            await sessions.close(conn, whole_id(id, "session"))
            return "The session is closed; its jobs go on."
        case _:
            raise NotFound(f"there is no action {action!r}", "choose one of the page's buttons")


def _weights(agent: Agent) -> list[tuple[str, Any]]:
    """How it weighs memories, where it does not do so as all do."""
    return [
        (word, getattr(agent, name)) for name, word in WEIGHTS if getattr(agent, name) is not None
    ]
