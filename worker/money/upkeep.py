"""The books' upkeep: answers on this machine's disk, abandoned calls, old windows, closed days.

In: what an attempt, a worker or a day left behind. Out: settled calls, and rows that are summed up
or forgotten.
"""

from functools import partial
from uuid import UUID

from db.money import budgets, limits, settlements
from db.pool import Database
from worker import events
from worker.daemon.upkeep import Did, Part
from worker.log import get_logger
from worker.money import days
from worker.money.recording import Recorder
from worker.money.spool import Spool

ABANDONED_BATCH = 200
WINDOWS_BATCH = 500
ABANDONED_PERIOD_SECONDS = 10.0
# Costs a listing of a folder, and no statement while it is empty.
SPOOL_PERIOD_SECONDS = 2.0
WINDOWS_PERIOD_SECONDS = 60.0
# Costs nothing while no call is sent.
RECORD_PERIOD_SECONDS = 1.0
WINDOWS_PAUSE_SECONDS = 0.2
FIRST_ID = UUID(int=0)

log = get_logger()


def parts(database: Database, spool: Spool, recorder: Recorder, *, windows_days: int) -> list[Part]:
    """`windows_days` is how long the ended windows of budgets are kept."""
    windows = Windows(database, windows_days)
    return [
        Part("spool", SPOOL_PERIOD_SECONDS, partial(_settle_spooled, spool)),
        Part("calls", ABANDONED_PERIOD_SECONDS, partial(_settle_abandoned, database)),
        Part("windows", WINDOWS_PERIOD_SECONDS, windows.forget),
        Part("recorded calls", RECORD_PERIOD_SECONDS, partial(_tend_recorded, recorder)),
        Part("ledger", days.PERIOD_SECONDS, partial(_close_day, days.Closer(database))),
    ]


async def _settle_spooled(spool: Spool) -> Did:
    await spool.drain()
    return Did()


async def _tend_recorded(recorder: Recorder) -> Did:
    await recorder.write()
    await recorder.forget_old()
    return Did()


async def _settle_abandoned(database: Database) -> Did:
    """Close the open calls of attempts that are over, at their estimates.

    Those that are open for long hold up no others by their estimates.
    """
    async with database.connection() as connection:
        settled = await settlements.settle_abandoned(connection, ABANDONED_BATCH)
        if settled.freed_budgets:
            await budgets.wake(connection, settled.freed_budgets)
        await limits.release_reserved(connection, ABANDONED_BATCH)
    if settled.calls:
        log.warning(events.CALLS_ABANDONED, calls=settled.calls)
    return Did()


async def _close_day(closer: days.Closer) -> Did:
    return Did(pause_seconds=await closer.work())


class Windows:
    """Forgets what calls counted in windows of budgets that ended long ago, slice by slice."""

    def __init__(self, database: Database, keep_days: int) -> None:
        self._database = database
        self._keep_days = keep_days
        self._forgotten_to = FIRST_ID

    async def forget(self) -> Did:
        """One slice; the next follows after a short pause while there is more."""
        async with self._database.connection() as connection:
            forgotten, stopped = await budgets.forget_windows(
                connection, self._forgotten_to, days=self._keep_days, most=WINDOWS_BATCH
            )
        self._forgotten_to = stopped or FIRST_ID
        return Did(pause_seconds=WINDOWS_PAUSE_SECONDS if forgotten == WINDOWS_BATCH else None)
