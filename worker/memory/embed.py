"""After the job: texts become memories.

In: the outbox, which finishing transactions fill. Out: vectors in the space of this worker's
embedder, or texts put off with the reason. Invariants: no transaction is open while the embedder
works; a text leaves the outbox only with its vector; and no job is touched: an embedder that is
down delays memories, never jobs.

A batch that is refused is halved until the refused text is alone, so it delays no other text.

An embedder that computes in the worker takes at most a fifth of the time while jobs run, and all of
it while none do: jobs come first.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import random, shuffle
from uuid import UUID

import anyio

from db.errors import DatabaseError, JobsworthError
from db.memory import memories
from db.memory.memories import DueText
from db.pool import Database, bounded
from worker import events
from worker.log import get_logger
from worker.masking import mask
from worker.memory.embedders import Embedder, EmbedderBusy, EmbedderRefused
from worker.queue.wake import Wake

# Longer than an embedder takes for a batch; after it, a killed worker's texts are due again. A
# lease that is too short costs a second embedding, never a second memory.
LEASE_SECONDS = 60.0
OFFLINE_LEASE_SECONDS = 10.0
# Texts of this worker's jobs wake the embedder; this finds those of others.
POLL_SECONDS = 10.0
RETRY_BASE_SECONDS = 1.0
RETRY_MAX_SECONDS = 3_600.0
PAUSE_MAX_SECONDS = 30.0
RELEASE_SECONDS = 5.0
REST_FACTOR = 4.0
REST_SECONDS_MAX = 1.0
# A text that failed more often than this is sent with few others: it may be the refused one.
TRIES_TOGETHER_MAX = 3
SUSPECTS_TOGETHER_MAX = 8
ERROR_CHARACTERS_MAX = 500

log = get_logger()


async def run(
    database: Database,
    embedder: Embedder,
    *,
    wake: Wake,
    batch_max: int = 64,
    embedded: Callable[[int], None] | None = None,
    retry_base_seconds: float = RETRY_BASE_SECONDS,
    poll_seconds: float = POLL_SECONDS,
    busy: Callable[[], bool] = lambda: False,
) -> None:
    """Embed due texts until cancelled. `embedded` counts the texts that were stored.

    While jobs run (`busy`), an embedder that computes in this process rests after each round.
    """
    failures = 0
    while True:
        began = time.monotonic()
        try:
            ended = await embed_due(database, embedder, batch_max, retry_base_seconds)
        except Exception as error:
            # The database may be away. The texts stay in the outbox.
            ended = Round(failure=error)
        if embedded is not None and ended.written:
            embedded(ended.written)
        if ended.failure is not None:
            failures += 1
            pause = _pause_seconds(failures, ended.failure, retry_base_seconds)
            if not isinstance(ended.failure, DatabaseError):  # the watch logs that
                log.warning(
                    events.EMBEDDER_FAILED,
                    error=_reason(ended.failure),
                    texts=ended.leased - ended.written,
                    pause_seconds=round(pause, 3),
                )
            await anyio.sleep(pause)
            continue
        failures = 0
        if embedder.lexical and ended.leased and busy():
            # It takes the interpreter from the jobs, so it gets a fifth of the time.
            worked_seconds = time.monotonic() - began
            await anyio.sleep(min(REST_SECONDS_MAX, REST_FACTOR * worked_seconds))
        if ended.leased < batch_max:
            await wake.wait(poll_seconds * (0.75 + random() / 2))


@dataclass(frozen=True, slots=True)
class Round:
    """The numbers of texts that a round leased and stored, and the error that ended it early."""

    leased: int = 0
    written: int = 0
    failure: Exception | None = None


@dataclass(slots=True)
class _Vectors:
    """The vectors of leased texts, the refused texts, and those left over after a failure."""

    made: dict[UUID, list[float]] = field(default_factory=dict[UUID, list[float]])
    refused: dict[DueText, str] = field(default_factory=dict[DueText, str])
    untried: list[DueText] = field(default_factory=list[DueText])
    failure: Exception | None = None


async def embed_due(
    database: Database, embedder: Embedder, batch_max: int, retry_base_seconds: float
) -> Round:
    """One round: lease up to `batch_max` due texts, embed them, and store them or put them off.

    Raises what the database raises; an embedder's failure is recorded with its texts.
    """
    async with database.connection() as connection:
        lease_seconds = OFFLINE_LEASE_SECONDS if embedder.lexical else LEASE_SECONDS
        due = await memories.lease_due(connection, batch_max, lease_seconds)
    if not due:
        return Round()
    began = time.monotonic()
    settled = False
    try:
        vectors = await _vectors(embedder, due)
        written = await _store(database, embedder, vectors)
        await _put_off(database, vectors, retry_base_seconds)
        settled = True
    finally:
        if not settled:
            await _release(database, due)
    if written:
        log.info(
            events.EMBEDDINGS_WRITTEN,
            texts=written,
            model=embedder.model,
            seconds=round(time.monotonic() - began, 3),
        )
    return Round(len(due), written, vectors.failure)


async def _vectors(embedder: Embedder, due: Sequence[DueText]) -> _Vectors:
    result = _Vectors()
    parts = list(_parts(due))
    while parts:
        part = parts.pop()
        try:
            made = await embedder.embed([text.text for text in part])
        except EmbedderRefused as refused:
            if len(part) == 1:
                result.refused[part[0]] = _reason(refused)
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
        except Exception as failure:
            result.failure = failure
            result.untried = [text for left in (part, *parts) for text in left]
            break
        else:
            ids = [text.id for text in part]
            result.made.update(zip(ids, made, strict=True))
    if len(result.refused) == len(due) > 1:
        # Then the embedder is at fault, not the texts.
        reason = next(iter(result.refused.values()))
        result.failure = EmbedderRefused(f"every text was refused: {reason}")
    return result


def _parts(due: Sequence[DueText]) -> Iterator[list[DueText]]:
    """The texts to send together; the last part is sent first."""
    suspects = [text for text in due if text.tries > TRIES_TOGETHER_MAX]
    # In a new order each time: the texts before the refused one get through.
    shuffle(suspects)
    for start in range(0, len(suspects), SUSPECTS_TOGETHER_MAX):
        yield suspects[start : start + SUSPECTS_TOGETHER_MAX]
    fresh = [text for text in due if text.tries <= TRIES_TOGETHER_MAX]
    if fresh:
        yield fresh


async def _store(database: Database, embedder: Embedder, vectors: _Vectors) -> int:
    if not vectors.made:
        return 0
    async with database.connection() as connection:
        space = await memories.get_or_create_space(connection, embedder.model, embedder.dimensions)
        return await memories.written(connection, space, vectors.made)


async def _put_off(database: Database, vectors: _Vectors, retry_base_seconds: float) -> None:
    if not vectors.refused and vectors.failure is None:
        return
    async with database.connection() as connection:
        for text, reason in vectors.refused.items():
            delay = delay_seconds(text.tries, retry_base_seconds)
            log.warning(
                events.EMBEDDER_REFUSED,
                outbox_id=str(text.id),
                tries=text.tries,
                error=reason,
                delay_seconds=round(delay, 3),
            )
            await memories.postponed(connection, {text.id: delay}, reason)
        if vectors.failure is not None:
            after_seconds = _after_seconds(vectors.failure)
            delays = {
                text.id: after_seconds + delay_seconds(text.tries, retry_base_seconds)
                for text in vectors.untried
            }
            await memories.postponed(connection, delays, _reason(vectors.failure))


async def _release(database: Database, due: Sequence[DueText]) -> None:
    """End the lease of an interrupted round early, so that the next one need not wait for it."""
    try:
        async with bounded(RELEASE_SECONDS), database.connection() as connection:
            await memories.released(connection, [text.id for text in due])
    except JobsworthError:
        return  # the lease ends by itself


def delay_seconds(tries: int, base_seconds: float) -> float:
    """Exponential backoff with jitter: half to all of `base * 2 ** (tries - 1)`, bounded."""
    longest = min(RETRY_MAX_SECONDS, base_seconds * 2.0 ** min(tries - 1, 32))
    return longest * (0.5 + random() / 2)


def _pause_seconds(failures: int, failure: Exception, base_seconds: float) -> float:
    backoff = min(PAUSE_MAX_SECONDS, delay_seconds(failures, base_seconds))
    return _after_seconds(failure) + backoff


def _after_seconds(failure: Exception) -> float:
    return (failure.after_seconds or 0.0) if isinstance(failure, EmbedderBusy) else 0.0


def _reason(error: Exception) -> str:
    return mask(str(error) or type(error).__name__)[:ERROR_CHARACTERS_MAX]
