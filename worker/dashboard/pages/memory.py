"""Memory: search by meaning, with the parts of each score; and the latest memories.

In: a query. Out: the memories nearest to it, ranked as a job's `recall` ranks them. The query is
embedded here, by the workers' embedder; one that is an endpoint costs money, which only a command
or a job may spend, so then the latest memories are listed.
"""

from fastapi import Response

from db.memory import outbox, spaces, status
from db.memory.spaces import Space
from db.memory.status import MemoryStatus, MemoryType
from db.pool import Connection
from worker.dashboard.frame import Frame, answer
from worker.dashboard.pages.choices import chosen
from worker.memory import recall
from worker.memory.choice import space_of
from worker.memory.ranking import Recalled, Weights

LIMIT = 20
TYPES = list(MemoryType)


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
    )


async def _search(
    conn: Connection, frame: Frame, query: str, kind: MemoryType | None
) -> list[Recalled]:
    space = await _space(conn, frame)
    if space is None:
        return []
    [vector] = await frame.embedder().embed([query])
    scope = {"any_team": True, "types": None if kind is None else [kind]}
    return await recall.search(conn, space, vector, query, LIMIT, Weights(), scope)


async def _space(conn: Connection, frame: Frame) -> Space | None:
    """The embedder's space; None if nothing was embedded yet: a page writes nothing."""
    key = space_of(frame.settings)
    return next((each for each in await spaces.list_all(conn) if each.key == key), None)
