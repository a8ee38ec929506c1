"""After the job: texts become memories.

In: the outbox, which finishing transactions fill. Out: vectors in the space of this worker's
embedder, or texts put off with the reason. Invariants: no transaction is open while the embedder
works; a text leaves the outbox only with its vector; each request is in the books before it is sent
(`account`); and no job is touched: an embedder that is down, or a budget without room, delays
memories, never jobs.

Texts are cut into chunks, and a content that has a vector in the space is not sent again. A batch
that is refused is halved until the refused chunk is alone, so it delays no other text; a text that
is refused again and again becomes a dead letter. While the embedder fails, one text is tried.

An embedder that computes in the worker takes at most a fifth of the time while jobs run, and all of
it while none do: jobs come first.
"""

import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from random import random, shuffle
from uuid import UUID

import anyio

from db.errors import DatabaseError, JobsworthError
from db.memory import outbox, spaces
from db.memory.outbox import ChunkVector, DueText, Payer
from db.memory.spaces import Space
from db.pool import Database, bounded
from worker import events
from worker.log import get_logger
from worker.masking import mask
from worker.memory.account import Accounts, PayersAccount
from worker.memory.chunks import Chunk, chunks, content_hash
from worker.memory.embedders import Embedder, EmbedderBusy, EmbedderDenied, EmbedderRefused
from worker.money.group_commit import GroupCommit
from worker.queue.wake import Wake
from worker.repeats import Repeats

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
# A text refused for itself is tried again, since a setting may be wrong: for a quarter of an hour.
REFUSALS_MAX = 10
ERROR_CHARACTERS_MAX = 500

# Requests of different payers that are under way at once.
PAYERS_TOGETHER_MAX = 4

log = get_logger()
told = Repeats()


async def run(
    database: Database,
    embedder: Embedder,
    *,
    wake: Wake,
    accounts: Accounts | None = None,
    fresh: bool = True,
    batch_max: int = 64,
    embedded: Callable[[int], None] | None = None,
    retry_base_seconds: float = RETRY_BASE_SECONDS,
    poll_seconds: float = POLL_SECONDS,
    busy: Callable[[], bool] = lambda: False,
) -> None:
    """Embed due texts until cancelled. `embedded` counts the texts that were stored.

    Without `fresh` only those that have vectors in another space and are switched to this one. The
    requests of a paid embedder are booked by `accounts`, by default in `database` alone. While
    jobs run (`busy`), an embedder that computes in this process rests after each round.
    """
    failures = 0
    while True:
        began = time.monotonic()
        try:
            # While it fails, one text is enough to find out whether it works again.
            most = 1 if failures else batch_max
            ended = await embed_due(
                database, embedder, most, retry_base_seconds, accounts, fresh=fresh
            )
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
        if ended.limited_seconds:
            # The next round is of one text: a limit of tokens may be too small for many.
            failures = 1
            await anyio.sleep(min(PAUSE_MAX_SECONDS, ended.limited_seconds))
            continue
        probed, failures = failures > 0, 0
        if embedder.lexical and ended.leased and busy():
            # It takes the interpreter from the jobs, so it gets a fifth of the time.
            worked_seconds = time.monotonic() - began
            await anyio.sleep(min(REST_SECONDS_MAX, REST_FACTOR * worked_seconds))
        if ended.leased < batch_max and not probed:
            await wake.wait(poll_seconds * (0.75 + random() / 2))


@dataclass(frozen=True, slots=True)
class Round:
    """The numbers of texts that a round leased and stored, and the error that ended it early.

    `limited_seconds`: a rate limit has no room for that long.
    """

    leased: int = 0
    written: int = 0
    failure: Exception | None = None
    limited_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A chunk of a leased text."""

    of: DueText
    chunk: Chunk
    content: str
    content_hash: UUID


@dataclass(slots=True)
class _Vectors:
    """The vectors of contents, the refused contents, whose texts wait for a budget or a limit, and
    the error that ended the round early.
    """

    made: dict[UUID, Sequence[float]] = field(default_factory=dict[UUID, Sequence[float]])
    refused: dict[UUID, str] = field(default_factory=dict[UUID, str])
    denied: dict[Payer, EmbedderDenied] = field(default_factory=dict[Payer, EmbedderDenied])
    failure: Exception | None = None


async def embed_due(
    database: Database,
    embedder: Embedder,
    batch_max: int,
    retry_base_seconds: float,
    accounts: Accounts | None = None,
    *,
    fresh: bool = True,
) -> Round:
    """One round: lease up to `batch_max` due texts, embed them, and store them or put them off.

    Raises what the database raises; an embedder's failure is recorded with its texts.
    """
    lease_seconds = OFFLINE_LEASE_SECONDS if embedder.lexical else LEASE_SECONDS
    async with database.connection() as connection:
        due = await outbox.lease_due(
            connection, batch_max, lease_seconds, embedder.space, fresh=fresh
        )
    if not due:
        return Round()
    began = time.monotonic()
    settled, vectors = False, _Vectors()
    pieces = [piece for text in due for piece in _cut(text, embedder.chunk_characters)]
    space: Space | None = None
    try:
        async with database.connection() as connection:
            space = await spaces.get_or_create(connection, embedder.space)
            hashes = list({piece.content_hash for piece in pieces})
            vectors.made.update(await outbox.known(connection, space, hashes))
        paying = accounts or Accounts(database, GroupCommit(database))
        await _embed(paying, embedder, pieces, batch_max, lease_seconds, vectors)
        lacking = _lacking(pieces, vectors)
        written = await _store(database, space, pieces, vectors, lacking)
        await _put_off(database, due, pieces, vectors, lacking, retry_base_seconds)
        settled = True
    finally:
        if not settled:
            await _release(database, due, space, pieces, vectors)
    if written:
        log.info(
            events.EMBEDDINGS_WRITTEN,
            texts=written,
            model=embedder.model,
            seconds=round(time.monotonic() - began, 3),
        )
    limits = [one.after_seconds for one in vectors.denied.values() if one.limited]
    return Round(len(due), written, vectors.failure, max(limits, default=0.0))


def _cut(text: DueText, characters_max: int) -> Iterator[_Piece]:
    for chunk in chunks(text.text, characters_max):
        content = text.text[chunk.start : chunk.end]
        yield _Piece(text, chunk, content, content_hash(content))


async def _embed(
    accounts: Accounts,
    embedder: Embedder,
    pieces: Sequence[_Piece],
    batch_max: int,
    lease_seconds: float,
    vectors: _Vectors,
) -> None:
    """Embed what has no vector yet, each content once, and put it into `vectors`.

    What is paid by several is sent by several requests, some at once.
    """
    wanted = {one.content_hash: one for one in pieces if one.content_hash not in vectors.made}
    of_payers: dict[Payer, list[_Piece]] = {}
    for piece in wanted.values():
        of_payers.setdefault(piece.of.payer if embedder.paid else Payer(), []).append(piece)
    refused_texts: set[UUID] = set()
    lease = _Lease(accounts.database, list({piece.of.id for piece in pieces}), lease_seconds)
    together = anyio.CapacityLimiter(PAYERS_TOGETHER_MAX)

    async def embed_of(payer: Payer, of_payer: Sequence[_Piece]) -> None:
        account = PayersAccount(accounts, embedder.model, "embed", payer)
        async with together:
            await _embed_parts(
                embedder, account, list(_parts(of_payer, batch_max)), lease, vectors, refused_texts
            )

    async with anyio.create_task_group() as tasks:
        for payer, of_payer in of_payers.items():
            tasks.start_soon(embed_of, payer, of_payer)
    texts = {piece.of.id for piece in wanted.values()}
    if len(texts) > 1 and texts == refused_texts:
        # Then the embedder is at fault, not the texts.
        reason = next(iter(vectors.refused.values()))
        vectors.failure = EmbedderRefused(f"every text was refused: {reason}")
        vectors.refused.clear()


async def _embed_parts(
    embedder: Embedder,
    account: PayersAccount,
    parts: list[list[_Piece]],
    lease: "_Lease",
    vectors: _Vectors,
    refused_texts: set[UUID],
) -> None:
    """Embed the parts of one payer, the last first; ends early if the embedder fails."""
    while parts and vectors.failure is None:
        # A text that was refused is not stored: its other chunks are not paid for.
        part = [one for one in parts.pop() if one.of.id not in refused_texts]
        if not part:
            continue
        middle = len(part) // 2
        try:
            await lease.extend()
            made = await embedder.embed([piece.content for piece in part], account)
        except EmbedderRefused as refused:
            if middle:
                parts += [part[middle:], part[:middle]]
            else:
                vectors.refused[part[0].content_hash] = _reason(refused)
                refused_texts.add(part[0].of.id)
        except EmbedderDenied as denied:
            if denied.limited or not middle:
                # One text is too much, so all others are.
                vectors.denied[account.payer] = denied
                return
            parts += [part[middle:], part[:middle]]
        except Exception as failure:
            vectors.failure = failure
        else:
            hashes = [piece.content_hash for piece in part]
            vectors.made.update(zip(hashes, made, strict=True))


class _Lease:
    """The lease of a round's texts."""

    def __init__(self, database: Database, ids: Sequence[UUID], seconds: float) -> None:
        self._database = database
        self._ids = ids
        self._seconds = seconds
        self._leased_at = time.monotonic()

    async def extend(self) -> None:
        """Have at least two thirds of it left."""
        if time.monotonic() - self._leased_at > self._seconds / 3:
            self._leased_at = time.monotonic()
            async with self._database.connection() as connection:
                await outbox.extended(connection, self._ids, self._seconds)


def _parts(pieces: Sequence[_Piece], batch_max: int) -> Iterator[list[_Piece]]:
    """The pieces to send together; the last part is sent first."""
    suspects = [piece for piece in pieces if piece.of.tries > TRIES_TOGETHER_MAX]
    # In a new order each time: the texts before the refused one get through.
    shuffle(suspects)
    for start in range(0, len(suspects), SUSPECTS_TOGETHER_MAX):
        yield suspects[start : start + SUSPECTS_TOGETHER_MAX]
    fresh = [piece for piece in pieces if piece.of.tries <= TRIES_TOGETHER_MAX]
    for start in range(0, len(fresh), batch_max):
        yield fresh[start : start + batch_max]


async def _store(
    database: Database,
    space: Space,
    pieces: Sequence[_Piece],
    vectors: _Vectors,
    lacking: Set[UUID],
) -> int:
    """Store the texts of which each chunk has its vector; returns how many."""
    whole: dict[UUID, list[ChunkVector]] = {}
    for piece in pieces:
        if piece.of.id not in lacking:
            vector = vectors.made[piece.content_hash]
            one = ChunkVector(piece.chunk.start, piece.chunk.end, piece.content_hash, vector)
            whole.setdefault(piece.of.id, []).append(one)
    if not whole:
        return 0
    async with database.connection() as connection:
        return await outbox.written(connection, space, whole)


async def _put_off(
    database: Database,
    due: Sequence[DueText],
    pieces: Sequence[_Piece],
    vectors: _Vectors,
    lacking: Set[UUID],
    retry_base_seconds: float,
) -> None:
    left = [text for text in due if text.id in lacking]
    if not left:
        return
    refused = {
        piece.of.id: vectors.refused[piece.content_hash]
        for piece in pieces
        if piece.content_hash in vectors.refused
    }
    async with database.connection() as connection:
        for text in left:
            if reason := refused.get(text.id):
                delay = delay_seconds(text.tries, retry_base_seconds)
                dead = await outbox.refused(connection, text.id, delay, reason, REFUSALS_MAX)
                log.warning(
                    events.EMBEDDER_REFUSED,
                    memory_id=str(text.id),
                    tries=text.tries,
                    error=reason,
                    dead=dead,
                    delay_seconds=round(delay, 3),
                )
        for payer, denied in vectors.denied.items():
            ids = [one.id for one in left if one.payer == payer and one.id not in refused]
            delays = {one: denied.after_seconds * (1 + random() / 4) for one in ids}
            await outbox.postponed(connection, delays, _reason(denied), counted=False)
            if told.due(f"{payer}"):
                log.warning(
                    events.EMBEDDER_WAITS,
                    texts=len(ids),
                    reason=_reason(denied),
                    team_id=payer.team_id and str(payer.team_id),
                    delay_seconds=round(denied.after_seconds, 3),
                )
        if vectors.failure is not None:
            after_seconds = _after_seconds(vectors.failure)
            delays = {
                text.id: after_seconds + delay_seconds(text.tries, retry_base_seconds)
                for text in left
                if text.id not in refused and text.payer not in vectors.denied
            }
            await outbox.postponed(connection, delays, _reason(vectors.failure))


def _lacking(pieces: Sequence[_Piece], vectors: _Vectors) -> set[UUID]:
    """The texts that lack the vector of a chunk."""
    return {piece.of.id for piece in pieces if piece.content_hash not in vectors.made}


async def _release(
    database: Database,
    due: Sequence[DueText],
    space: Space | None,
    pieces: Sequence[_Piece],
    vectors: _Vectors,
) -> None:
    """End an interrupted round: store what may have been paid for, and end the others' leases
    early, so that the next round need not wait for them.
    """
    try:
        async with bounded(RELEASE_SECONDS):
            if space is not None and vectors.made:
                await _store(database, space, pieces, vectors, _lacking(pieces, vectors))
            async with database.connection() as connection:
                await outbox.released(connection, [text.id for text in due])
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
