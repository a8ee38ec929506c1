"""`job.recall`: what was remembered nearest to a query.

In: a text. Out: memories of the job's team by similarity, best first. Only texts that are embedded
already can be found, and only by the embedder that made their vectors: what another one made is
told once a minute.
"""

from db.memory import memories, spaces
from db.memory.memories import Hit
from db.memory.vectors import Vector
from db.pool import Connection
from worker import events
from worker.attempt_state import AttemptState
from worker.log import get_logger
from worker.memory.account import JobsAccount, Recorded
from worker.memory.embedders import Embedder
from worker.repeats import Repeats

log = get_logger()
looked = Repeats()


async def recall(
    state: AttemptState, query: str, *, limit: int, thread_only: bool, kind: str | None
) -> list[Hit]:
    """At most `limit` memories. Raises `EmbedderError` if the query cannot be embedded."""
    embedder = state.tools.embedder
    vector = await _vector(state, embedder, query)
    async with state.tools.database.connection() as connection:
        await _tell_hidden(connection, embedder)
        space = await spaces.get_or_create(connection, embedder.space)
        return await memories.search(
            connection,
            space,
            vector,
            query=query,
            limit=limit,
            team_id=state.job.team_id,
            thread_id=state.job.thread_id if thread_only else None,
            source_kind=kind,
        )


async def _vector(state: AttemptState, embedder: Embedder, query: str) -> Vector:
    """The vector of the query. One that is paid for is a recorded step, and so paid once."""
    # A name of its own, or a changed embedder would read the vector of another.
    name = state.key("recall", None, query, *embedder.space) if embedder.paid else ""
    try:
        [vector] = await embedder.embed([query], JobsAccount(state, embedder.model, name))
    except Recorded as recorded:
        return recorded.vector
    return vector


async def _tell_hidden(connection: Connection, embedder: Embedder) -> None:
    if not looked.due(str(embedder.space)):
        return
    for one in await spaces.hidden(connection, embedder.space):
        log.warning(
            events.MEMORIES_HIDDEN,
            model=one.model,
            dimensions=one.dimensions,
            memories=one.memories,
            embedder=embedder.model,
            remedy=spaces.HIDDEN_REMEDY,
        )
