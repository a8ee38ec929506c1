"""Group commit: what many attempts want written at the same moment is one transaction.

In: calls about to be sent, paid answers, steps. Out: the same, committed, each answered to the
attempt that waits for it. Invariants: no attempt is answered before the commit; a stopped attempt
does not undo its neighbours' writes, and learns the result of its own; and an error, a lock or a
lost lease of one attempt neither fails nor delays another: an attempt writes alone what its batch
did not write.

The first attempt to come writes at once. Those that come meanwhile form the next batch, and the
first of them writes it (as in LevelDB's queue of writers). So without load no attempt waits, and
under load the batches grow.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import anyio

from db.errors import JobsworthError, Unavailable
from db.fence import PINNED
from db.money import budgets, settlements, starts
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


class WriteKind(NamedTuple, Generic[T, R]):
    """How items of one kind are written, and what is answered for each.

    `together` writes many items and returns the answers by position, for those that it wrote. If
    that locks rows which other daemons want, it returns the statement instead, which is then sent
    with the commit. `alone` writes one item that its batch did not write. The batch may have
    written it all the same (its commit was not answered), so writing an item twice must be
    harmless. A batch writes its kinds in ascending `order`.
    """

    together: Callable[
        [Connection, Sequence[T]], Awaitable[Mapping[int, R] | LastStatement[Mapping[int, R]]]
    ]
    alone: Callable[[Database, T], Awaitable[R]]
    order: int = 0


class GroupCommit:
    """Writes what attempts want written in batches, one batch at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gathering = _Batch()
        self._writing = anyio.Lock()

    async def write(self, kind: WriteKind[T, R], item: T) -> R:
        """Write `item` and return its answer, committed. A cancellation lands after that.

        Raises `Unavailable` if the connections were cut meanwhile, because the worker has lost its
        heartbeat, and the database's errors.
        """
        batch, cuts = self._gathering, self._database.cuts
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
        if n in written:
            return written[n]
        if self._database.cuts > cuts:
            # Not a cancellation: what was paid is kept on disk before that lands.
            raise Unavailable("the connections were cut", "no heartbeat proves the lease")
        return await kind.alone(self._database, item)

    async def _lead(self, batch: "_Batch") -> None:
        cuts = self._database.cuts
        try:
            # Acquiring lets all other tasks run first, even when the lock is free: more can join.
            async with self._writing:
                self._close(batch)
                # After a cut, attempts of this batch have to stop, and would wait for the network.
                if self._database.cuts == cuts:
                    await self._commit(batch)
        finally:
            # Also if the writer was torn out (`asyncio.timeout` ignores shields): nothing may wait.
            self._close(batch)
            batch.ended.set()

    async def _commit(self, batch: "_Batch") -> None:
        try:
            async with (
                bounded(TOGETHER_SECONDS),
                self._database.transaction(SETTLING) as connection,
            ):
                written: dict[WriteKind[Any, Any], Mapping[int, Any]] = {}
                with_commit: dict[WriteKind[Any, Any], LastStatement[Mapping[int, Any]]] = {}
                for kind, items in sorted(batch.items.items(), key=lambda pair: pair[0].order):
                    answers = await kind.together(connection, items)
                    if isinstance(answers, LastStatement):
                        with_commit[kind] = answers
                    else:
                        written[kind] = answers
                if with_commit:
                    found = await commit_with(connection, list(with_commit.values()))
                    written.update(zip(with_commit, found, strict=True))
            batch.written = written
        except Exception as error:
            log.warning(events.BATCH_SPLIT, writes=batch.size, error=error)
        # Before the next batch is closed, so that these attempts' next writes can join it.
        batch.ended.set()

    def _close(self, batch: "_Batch") -> None:
        if self._gathering is batch:
            self._gathering = _Batch()


class _Batch:
    def __init__(self) -> None:
        self.items: dict[WriteKind[Any, Any], list[Any]] = {}
        self.size = 0
        self.written: dict[WriteKind[Any, Any], Mapping[int, Any]] = {}
        self.ended = anyio.Event()


class Paid(NamedTuple):
    """How a call ended, and its answer; None if there is no answer to keep."""

    settlement: Settlement
    answer: PaidAnswer | None


class Booked(NamedTuple):
    """The answer that counts, which is the first one recorded.

    `freed` are the budgets and limits in which the batch made room and for which jobs wait:
    `wake_waiting` moves those on, after the commit.
    """

    stands: Any
    freed: Sequence[UUID] = ()


async def wake_waiting(database: Database, freed: Sequence[UUID]) -> None:
    """Wake the jobs that wait for these budgets and limits, in which there is room again."""
    # The sweep wakes them too, so an error here must not fail the call that is settled.
    try:
        async with database.connection() as connection:
            await budgets.wake(connection, freed)
    except JobsworthError as error:
        log.warning(events.UPKEEP_FAILED, part="budgets", error=error)


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
    # One statement is a transaction; it holds its locks for no round trip.
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
    recorded = await steps.keep_answers(connection, answers) if answers else {}
    last = settlements.settle_statement([settlement for settlement, _ in paid])

    def by_position(found: Found) -> Mapping[int, Booked]:
        freed = last.read(found).freed_budgets
        return {
            n: Booked(recorded[answer.job_id, answer.name] if answer else None, () if n else freed)
            for n, (_, answer) in enumerate(paid)
        }

    return LastStatement(last.query, last.params, by_position)


async def _settle_alone(database: Database, paid: Paid) -> Booked:
    settlement, answer = paid
    async with bounded(SETTLE_SECONDS), database.transaction(PINNED) as connection:
        stands = answer and await steps.keep_answer(connection, **answer._asdict())
        [settled] = await commit_with(connection, [settlements.settle_statement([settlement])])
        return Booked(stands, settled.freed_budgets)


RECORD = WriteKind(_record_together, _record_alone, order=1)
"""Records steps that ran; answers with the outputs that count. Raises `LeaseLost`."""

SETTLE = WriteKind(_settle_together, _settle_alone, order=2)
"""Settles calls, each in one commit with its answer; answers with the answers that count."""

START = WriteKind(_start_together, _start_alone, order=3)
"""Books calls about to be sent; answers with the verdicts. Raises as `starts.start_call`."""
