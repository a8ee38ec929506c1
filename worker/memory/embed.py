"""After the job: texts become memories.

In: the outbox, which finishing transactions fill. Out: vectors in the space of this worker's
embedder, or texts put off with the reason. Invariants: no transaction is open while the embedder
works; a text leaves the outbox only with its vector; and nothing here touches a job: an embedder
that is down delays memories, never jobs.

A batch that is refused is halved until the guilty text is alone, so it delays nobody but itself.
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
from worker.memory.embedders import Embedder, EmbedderBusy, EmbedderRefused

# Longer than an embedder takes for a batch; after it, a killed worker's texts are due again. Too
# short costs a second embedding, never a second memory.
LEASE_SECONDS = 60.0
OFFLINE_LEASE_SECONDS = 10.0
# What is put into the outbox by this worker's jobs wakes the embedder; this finds all else.
POLL_SECONDS = 10.0
RETRY_BASE_SECONDS = 1.0
RETRY_MAX_SECONDS = 3_600.0
PAUSE_MAX_SECONDS = 30.0
RELEASE_SECONDS = 5.0
REST_FACTOR = 4.0
REST_SECONDS_MAX = 1.0
# A text that failed more often than this is sent with few others: it may be what fails them.
TRIES_TOGETHER_MAX = 3
SUSPECTS_TOGETHER_MAX = 8
ERROR_CHARACTERS_MAX = 500

log = get_logger()


class Wake:
    """Says that texts may have come. Setting it twice before it is seen is setting it once."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, seconds_max: float) -> None:
        """Until it is set, at most `seconds_max`; then it is unset again."""
        with anyio.move_on_after(seconds_max):
            await self._event.wait()
        self._event = anyio.Event()


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
    """Embed what comes, until cancelled. `embedded` is told how many texts each round stored.

    While jobs run (`busy`), an embedder that computes in this process rests after each round.
    """
    failures = 0
    while True:
        began = time.monotonic()
        try:
            ended = await _round(database, embedder, batch_max, retry_base_seconds)
        except Exception as error:
            # The database is away, say. The texts are safe, and so is everything else.
            ended = Round(failure=error)
        if embedded is not None and ended.written:
            embedded(ended.written)
        if ended.failure is not None:
            failures += 1
            pause = _pause_seconds(failures, ended.failure, retry_base_seconds)
            if not isinstance(ended.failure, DatabaseError):  # others tell about the database
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
            # It takes the interpreter from the jobs: a fifth of the time is enough.
            took = time.monotonic() - began
            await anyio.sleep(min(REST_SECONDS_MAX, REST_FACTOR * took))
        if ended.leased < batch_max:
            await wake.wait(poll_seconds * (0.75 + random() / 2))


async def embed_pending(database: Database, embedder: Embedder, *, batch_max: int = 64) -> int:
    """One round: embed up to `batch_max` due texts; returns how many were stored.

    Raises what the database raises; trouble with the embedder is recorded with the texts.
    """
    return (await _round(database, embedder, batch_max, RETRY_BASE_SECONDS)).written


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did; `failure` is why it stopped early."""

    leased: int = 0
    written: int = 0
    failure: Exception | None = None


@dataclass(slots=True)
class _Vectors:
    """What an embedder made of leased texts."""

    made: dict[UUID, list[float]] = field(default_factory=dict[UUID, list[float]])
    refused: dict[DueText, str] = field(default_factory=dict[DueText, str])
    untried: list[DueText] = field(default_factory=list[DueText])
    failure: Exception | None = None


async def _round(
    database: Database, embedder: Embedder, batch_max: int, retry_base_seconds: float
) -> Round:
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
                result.refused[part[0]] = str(refused)
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
        # Then it is hardly the texts.
        reason = next(iter(result.refused.values()))
        result.failure = EmbedderRefused(f"every text was refused: {reason}")
    return result


def _parts(due: Sequence[DueText]) -> Iterator[list[DueText]]:
    """What to send together; the last is sent first."""
    suspects = [text for text in due if text.tries > TRIES_TOGETHER_MAX]
    # In a new order each time: what comes before the guilty one gets through.
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
    """Cancelled, or without a database: the next round need not wait for the lease to end."""
    try:
        async with bounded(RELEASE_SECONDS), database.connection() as connection:
            await memories.released(connection, [text.id for text in due])
    except JobsworthError:
        # Then it does wait.
        return


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
    return (str(error) or type(error).__name__)[:ERROR_CHARACTERS_MAX]
