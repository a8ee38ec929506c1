"""`job.recall`: what was remembered nearest to a query.

In: a text. Out: memories of the job's team by similarity, best first. Only texts that are embedded
already can be found.
"""

from db.memory import memories
from db.memory.memories import Hit
from worker.attempt_state import AttemptState


async def recall(
    state: AttemptState, query: str, *, limit: int, thread_only: bool, kind: str | None
) -> list[Hit]:
    """At most `limit` memories. Raises `EmbedderError` if the query cannot be embedded."""
    embedder = state.tools.embedder
    [vector] = await embedder.embed([query])
    async with state.tools.database.connection() as connection:
        space = await memories.get_or_create_space(connection, embedder.model, embedder.dimensions)
        return await memories.search(
            connection,
            space,
            vector,
            limit=limit,
            team_id=state.job.team_id,
            thread_id=state.job.thread_id if thread_only else None,
            source_kind=kind,
        )
