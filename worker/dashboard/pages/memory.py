"""Memory: search by meaning, with the parts of each score; the latest memories; and one of them.

In: a query, or a memory's id. Out: the memories nearest to it, ranked as a job's `recall` ranks
them; what one says, from what, and what took its place; a memory taken back or restored. The query
is embedded here, by the workers' embedder; one that is an endpoint costs money, which only a
command or a job may spend, so then the latest memories are listed.
"""

from collections.abc import Mapping
from uuid import UUID

from fastapi import Response

from db.errors import NotFound
from db.memory import outbox, spaces, status
from db.memory.spaces import SpaceState
from db.memory.status import Memory, MemoryStatus, MemoryType
from db.pool import Connection
from worker.cli.terminal.ids import whole_id
from worker.dashboard.frame import Frame, answer
from worker.dashboard.pages.choices import chosen
from worker.memory import recall
from worker.memory.choice import space_of
from worker.memory.ranking import Recalled, Weights

LIMIT = 20
TYPES = list(MemoryType)
RETRACTABLE = (MemoryStatus.ACTIVE, MemoryStatus.SUSPENDED, MemoryStatus.EXPIRED)
RESTORABLE = (MemoryStatus.RETRACTED, MemoryStatus.SUSPENDED)


async def page(conn: Connection, frame: Frame) -> Response:
    kind = chosen(MemoryType, frame.query.get("type"))
    query = frame.query.get("q")
    by_meaning = frame.settings.embedder_url is None
    hits = await _search(conn, frame, query, kind) if query and by_meaning else None
    latest = (
        await status.list_memories(
            conn,
            status=chosen(MemoryStatus, frame.query.get("status")),
            types=None if kind is None else [kind],
            limit=LIMIT,
        )
        if hits is None
        else []
    )
    return answer(
        frame,
        "memory.html",
        page="memory",
        asking=0,
        query=query,
        by_meaning=by_meaning,
        hits=hits,
        latest=latest,
        types=TYPES,
        waiting=await outbox.counts(conn),
        hidden=await spaces.hidden(conn, space_of(frame.settings)),
        spaces=[(each, _state(frame, each)) for each in await spaces.list_all(conn)],
    )


async def one(conn: Connection, frame: Frame, memory: str) -> Response:
    found = await find(conn, memory)
    return answer(
        frame,
        "memory_one.html",
        page="memory",
        asking=0,
        memory=found,
        successor=found.superseded_by and await status.get(conn, found.superseded_by),
        earlier=[await status.get(conn, each) for each in found.supersedes[:LIMIT]],
        may_retract=found.status in RETRACTABLE,
        may_restore=found.status in RESTORABLE,
    )


async def find(conn: Connection, memory: str) -> Memory:
    """The memory with this whole id. Raises `InvalidInput`, `NotFound`."""
    return await status.get(conn, whole_id(memory, "memory"))


async def act(
    conn: Connection, frame: Frame, memory: str, action: str, fields: Mapping[str, str]
) -> str:
    """Take a memory back, or restore it; returns what to say."""
    memory_id: UUID = whole_id(memory, "memory")
    match action:
        case "retract":
            reason = fields.get("reason", "").strip()
            await status.retract(conn, memory_id, reason or f"retracted by {frame.who}")
            return "It is recalled no more."
        case "restore":
            await status.restore(conn, memory_id)
            return "It is recalled again as soon as it is embedded anew."
        case _:
            raise NotFound(f"there is no action {action!r}", "choose one of the page's buttons")


def _state(frame: Frame, space: SpaceState) -> str:
    """What a space is there for now."""
    if space.key == space_of(frame.settings):
        return "used by these settings"
    return "a switch fills it" if space.queued else "kept"


async def _search(
    conn: Connection, frame: Frame, query: str, kind: MemoryType | None
) -> list[Recalled]:
    # A page writes nothing: it makes no space.
    space = await spaces.find(conn, space_of(frame.settings))
    if space is None:
        return []
    [vector] = await frame.embedder().embed([query])
    scope = {"any_team": True, "types": None if kind is None else [kind]}
    return await recall.search(conn, space, vector, query, LIMIT, Weights(), scope)
