"""Group commit: what many attempts want written at the same moment is one transaction.

In: calls about to be sent, paid answers, steps. Out: the same, committed, each told to the attempt
that waits for it. Invariants: nothing is told before its commit; an attempt that is stopped takes
nothing of its neighbours' along, and knows what became of its own; and no fault, lock or lost lease
of one fails or delays another: what a batch did not write, its attempt writes alone.

Who comes first writes at once; those who come meanwhile are the next batch, led by the first of
them (as in LevelDB's queue of writers). So nobody waits when there is no load, and the more there
is, the larger the batches.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import anyio

from db.fence import PINNED
from db.money import settlements, starts
from db.money.settlements import SETTLING, Settlement
from db.money.starts import Starting, Verdict
from db.pool import Connection, Database, LastStatement, bounded, commit_with
from db.steps import steps
from db.steps.steps import PaidAnswer, Record
from worker import events
from worker.log import get_logger

T = TypeVar("T")
R = TypeVar("R")
Found = Sequence[tuple[Any, ...]]

BATCH_MAX = 250
TOGETHER_SECONDS = 10.0
SETTLE_SECONDS = 30.0

log = get_logger()


class Kind(NamedTuple, Generic[T, R]):
    """A kind of write.

    `together` writes many and returns, by position, what became of those that it wrote; or the
    statement that does, if that locks what other daemons want: it goes along with the commit.
    `alone` has the last word on any other. What a batch did may be unknown (its commit was not
    answered), so writing twice must be harmless. Kinds are written in the order of their `turn`.
    """

    together: Callable[
        [Connection, Sequence[T]], Awaitable[Mapping[int, R] | LastStatement[Mapping[int, R]]]
    ]
    alone: Callable[[Database, T], Awaitable[R]]
    turn: int = 0


class GroupCommit:
    """Writes what attempts want written in batches, one batch at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gathering = _Batch()
        self._turn = anyio.Lock()

    async def write(self, kind: Kind[T, R], item: T) -> R:
        """What became of `item`, committed on return. A cancellation lands after that."""
        batch = self._gathering
        items = batch.items.setdefault(kind, [])
        n = len(items)
        items.append(item)
        batch.size += 1
        if batch.size == BATCH_MAX:
            self._gathering = _Batch()
        with anyio.CancelScope(shield=True):
            if batch.size == 1:
                await self._lead(batch)
            else:
                await batch.ended.wait()
        written = batch.written.get(kind, {})
        return written[n] if n in written else await kind.alone(self._database, item)

    async def _lead(self, batch: "_Batch") -> None:
        try:
            # Even a free lock lets all other tasks run first: whoever can join does.
            async with self._turn:
                self._close(batch)
                await self._commit(batch)
        finally:
            # Nobody waits for a leader that is no more (`asyncio.timeout` tears through shields).
            self._close(batch)
            batch.ended.set()

    async def _commit(self, batch: "_Batch") -> None:
        try:
            async with (
                bounded(TOGETHER_SECONDS),
                self._database.transaction(SETTLING) as connection,
            ):
                written: dict[Kind[Any, Any], Mapping[int, Any]] = {}
                lasts: dict[Kind[Any, Any], LastStatement[Mapping[int, Any]]] = {}
                for kind, items in sorted(batch.items.items(), key=lambda of: of[0].turn):
                    did = await kind.together(connection, items)
                    if isinstance(did, LastStatement):
                        lasts[kind] = did
                    else:
                        written[kind] = did
                if lasts:
                    brought = await commit_with(connection, list(lasts.values()))
                    written.update(zip(lasts, brought, strict=True))
            batch.written = written
        except Exception as error:
            log.warning(events.BATCH_SPLIT, writes=batch.size, error=str(error))
        # Before the next has its turn, so that what these attempts write next can go along.
        batch.ended.set()

    def _close(self, batch: "_Batch") -> None:
        if self._gathering is batch:
            self._gathering = _Batch()


class _Batch:
    def __init__(self) -> None:
        self.items: dict[Kind[Any, Any], list[Any]] = {}
        self.size = 0
        self.written: dict[Kind[Any, Any], Mapping[int, Any]] = {}
        self.ended = anyio.Event()


class Paid(NamedTuple):
    """How a call ended, and its answer; None if there is none that can be kept."""

    settlement: Settlement
    answer: PaidAnswer | None


class Booked(NamedTuple):
    """The answer that stands, and the budgets that got room by the batch and have waiters: for
    `db.money.budgets.wake`, once the batch is committed.
    """

    stands: Any
    rooms: Sequence[UUID] = ()


async def _start_together(
    _: Connection, calls: Sequence[Starting]
) -> LastStatement[Mapping[int, Verdict]]:
    last = starts.start_statement(calls)

    def by_position(found: Found) -> Mapping[int, Verdict]:
        verdicts = last.read(found).verdicts
        return {
            n: verdicts[one.request_id] for n, one in enumerate(calls) if one.request_id in verdicts
        }

    return LastStatement(last.query, last.params, by_position)


async def _start_alone(database: Database, call: Starting) -> Verdict:
    # One statement is a transaction; what it locks is held for no round trip.
    async with database.connection() as connection:
        return await starts.start_call(connection, call)


async def _record_together(connection: Connection, ran: Sequence[Record]) -> dict[int, Any]:
    outputs = await steps.record_all(connection, ran)
    keys = [(one.lease.job_id, one.name) for one in ran]
    return {n: outputs[key] for n, key in enumerate(keys) if key in outputs}


async def _record_alone(database: Database, ran: Record) -> Any:
    async with database.connection() as connection:
        _, stands = await steps.record(connection, **ran._asdict())
    return stands


async def _settle_together(
    connection: Connection, paid: Sequence[Paid]
) -> LastStatement[Mapping[int, Booked]]:
    answers = [answer for _, answer in paid if answer]
    stand = await steps.keep_answers(connection, answers) if answers else {}
    last = settlements.settle_statement([settlement for settlement, _ in paid])

    def by_position(found: Found) -> Mapping[int, Booked]:
        rooms = last.read(found).freed_budgets
        return {
            n: Booked(stand[answer.job_id, answer.name] if answer else None, () if n else rooms)
            for n, (_, answer) in enumerate(paid)
        }

    return LastStatement(last.query, last.params, by_position)


async def _settle_alone(database: Database, paid: Paid) -> Booked:
    settlement, answer = paid
    async with bounded(SETTLE_SECONDS), database.transaction(PINNED) as connection:
        stands = answer and await steps.keep_answer(connection, **answer._asdict())
        [settled] = await commit_with(connection, [settlements.settle_statement([settlement])])
        return Booked(stands, settled.freed_budgets)


RECORD = Kind(_record_together, _record_alone, turn=1)
"""Steps that were run; brings the outputs that stand. Raises `LeaseLost`."""

SETTLE = Kind(_settle_together, _settle_alone, turn=2)
"""Calls that ended, each in one commit with its answer; brings the answers that stand."""

START = Kind(_start_together, _start_alone, turn=3)
"""Calls about to be sent; brings what was decided. Raises as `starts.start_call` does."""
