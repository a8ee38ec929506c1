"""`job.recall`: what was remembered about a query.

In: a text. Out: active memories of the job's team, best first, with the parts of their scores. Only
texts that are embedded already can be found, and only by the embedder that made their vectors: what
another one made is told once a minute.

Invariant: what was recalled is a step, by the ids of the memories: a later attempt gets the same
ones, and the view `recalls` tells what went into an answer. A memory that was deleted is in none.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict, cast
from uuid import UUID

from db.arguments import check_limit, check_options
from db.documents import to_document
from db.errors import InvalidInput, shown
from db.memory import memories, spaces
from db.memory.memories import LIMIT_MAX
from db.memory.spaces import Space
from db.memory.vectors import Vector
from db.pool import Connection
from worker import events
from worker.attempt_state import AttemptState
from worker.log import get_logger
from worker.memory.account import JobsAccount, Recorded
from worker.memory.embedders import Embedder
from worker.memory.memory_ways import aware_time, memory_type
from worker.memory.ranking import WEIGHTS, Recalled, Weights, chosen, ranked
from worker.people import own_agent
from worker.repeats import Repeats
from worker.steps import changed, steps
from worker.steps.input_hash import input_of

# So many are ranked at least: recency and importance bring up what similarity alone would not.
RANKED_MIN = 50
RECORDED = {"id", "score", "start", "end", "matched", "similarity", "parts", "duplicates"}

log = get_logger()
looked = Repeats()


class RecallOptions(TypedDict, total=False):
    """What `job.recall` looks for, and what counts.

    thread_only: only of the job's thread. kind: only of this `source_kind`. types: only of these
    types, like ["fact", "decision"]. agent: only what this agent has remembered. as_of: what held
    at that time, in place of now, though it was superseded since. similarity_weight,
    recency_weight, importance_weight and half_life_seconds: see `Weights`; those of the job's
    agent, else the defaults.
    """

    thread_only: bool
    kind: str | None
    types: Sequence[str] | None
    agent: UUID | None
    as_of: datetime | None
    similarity_weight: float
    recency_weight: float
    importance_weight: float
    half_life_seconds: float


async def recall(
    state: AttemptState, query: str, limit: int, name: str | None, options: Mapping[str, Any]
) -> list[Recalled]:
    """At most `limit` memories; fewer only if there are no more. Recorded.

    Raises `EmbedderError` if the query cannot be embedded, and `InvalidInput`.
    """
    check_limit(limit, LIMIT_MAX, "ask for fewer memories")
    check_options("recall", options, RecallOptions.__annotations__)
    scope = _scope(state, options)
    chosen(options)
    given = dict(options)
    key = state.key("recall", name, query, limit, *sorted(given.items()))
    recorded = await steps.find(state, key)
    if recorded is not None:
        changed.check_kind(key, recorded, "recall")
        async with state.tools.database.connection() as connection:
            return await _read_whole(connection, recorded.output)
    embedder = state.tools.embedder
    began = time.monotonic()
    vector = await _vector(state, embedder, query)
    with steps.alone(state, key):
        agent = await own_agent.read(state)
        weights = chosen(options, {} if agent is None else agent.model_dump(include=set(WEIGHTS)))
        async with state.tools.database.connection() as connection:
            await _tell_hidden(connection, embedder, scope["as_of"])
            space = await spaces.get_or_create(connection, embedder.space)
            found = await search(connection, space, vector, query, limit, weights, scope)
        document = to_document(_documents(found))
        about = input_of([query], {"limit": limit, **given}, state.tools.step_input_bytes)
        took_seconds = time.monotonic() - began
        stands = await steps.record(
            state, key, document, took_seconds, kind="recall", effect="pure", given=about
        )
    if [one["id"] for one in stands] == [str(one.id) for one in found]:
        return found
    async with state.tools.database.connection() as connection:
        return await _read_whole(connection, stands)


async def search(
    connection: Connection,
    space: Space,
    vector: Vector,
    query: str,
    limit: int,
    weights: Weights,
    scope: Mapping[str, Any],
) -> list[Recalled]:
    """The best `limit` memories of a scope (the filters of `memories.search`)."""
    now: datetime = scope.get("as_of") or datetime.now(UTC)
    most = min(LIMIT_MAX, max(RANKED_MIN, 2 * limit))
    while True:
        # Many are ranked, few are wanted: the metadata of those alone are read.
        hits = await memories.search(
            connection, space, vector, query=query, limit=most, bare=True, **scope
        )
        found = ranked(hits, weights, now)
        # What says the same is one hit: look further, while there are more. Not collapsed in SQL,
        # which does not know which of them is best. 10,000 that say the same, the most that are
        # read, take 0.15 s of processor time to read and as much to rank.
        if len(found) >= limit or len(hits) < most or most == LIMIT_MAX:
            return await _read_whole(connection, _documents(found[:limit]))
        most = min(LIMIT_MAX, 4 * most)


def _documents(found: Sequence[Recalled]) -> list[dict[str, Any]]:
    """What is recorded of these: which they are, and why they were found."""
    return [one.model_dump(mode="json", include=RECORDED) for one in found]


async def _read_whole(connection: Connection, recorded: Sequence[Any]) -> list[Recalled]:
    """The memories of these `_documents`, whole; without those deleted since."""
    rows = await memories.by_ids(connection, [UUID(one["id"]) for one in recorded])
    there = [one for one in recorded if one["id"] in rows]
    return [Recalled.model_validate({**rows[one["id"]].model_dump(), **one}) for one in there]


def _scope(state: AttemptState, options: Mapping[str, Any]) -> dict[str, Any]:
    types = cast(Sequence[object] | None, options.get("types"))
    as_of = options.get("as_of")
    if types is not None and not isinstance(types, list | tuple):
        raise InvalidInput(f"types {shown(types)} is no list", "pass one, like ['fact']")
    thread_only = options.get("thread_only", False)
    return {
        "team_id": state.job.team_id,
        "agent_id": options.get("agent"),
        "thread_id": state.job.thread_id if thread_only else None,
        "source_kind": options.get("kind"),
        "as_of": None if as_of is None else aware_time("as_of", as_of),
        "types": None if types is None else [memory_type(each) for each in types],
    }


async def _vector(state: AttemptState, embedder: Embedder, query: str) -> Vector:
    """The vector of the query. One that is paid for is a recorded step, and so paid once."""
    # A name of its own, or a changed embedder would read the vector of another.
    name = state.key("recall", None, query, *embedder.space) if embedder.paid else ""
    try:
        [vector] = await embedder.embed([query], JobsAccount(state, embedder.model, name))
    except Recorded as recorded:
        return recorded.vector
    return vector


async def _tell_hidden(connection: Connection, embedder: Embedder, as_of: datetime | None) -> None:
    if not looked.due(str(embedder.space)):
        return
    for one in await spaces.hidden(connection, embedder.space, as_of):
        log.warning(
            events.MEMORIES_HIDDEN,
            model=one.model,
            dimensions=one.dimensions,
            memories=one.memories,
            embedder=embedder.model,
            remedy=spaces.HIDDEN_REMEDY,
        )
