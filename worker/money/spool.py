"""The spool: a paid answer survives a database that is away.

In: how a paid call ended. Out: the same, settled in the database; a settlement that the database
does not take in time is on this machine's disk until it does. Invariants: an answer is in the
database, or in a file, or on its way into one of them while its attempt waits; a file is removed
after its settlement was committed, never before. Settling a settled call again changes nothing.

A settlement that the database does not commit for two seconds is written to disk, one synced file
a call, while the database goes on being tried. Time does not count in which this process was busy,
or in which the database committed calls that had ended before this one. The spool is drained before
the first claim, by upkeep, and by the job's own next attempt, which parks while it cannot be
drained. A worker that loses the database lets calls on their way end (for five minutes) before it
stops their attempts, because nobody else would see those answers.

Rejected: a lock file for the folder (one `flock` for each file is dropped by a kill, and settling
twice is harmless); a task for each settlement (one look every half second finds the late ones).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol
from uuid import UUID

import anyio
import anyio.to_thread

from db.errors import DatabaseError, JobsworthError
from db.money import calls
from db.pool import Database
from worker import crash_points, events
from worker.log import get_logger
from worker.money.group_commit import SETTLE, Paid, WriteKind
from worker.money.spool_folder import Found, SpoolFolder, SpoolUnreadable

# A settlement that is not committed by then is written to disk; the database is still tried.
SPOOL_AFTER_SECONDS = 2.0
LOOK_SECONDS = 0.5
# How long the database is tried: with the answer on disk, and when the disk does not take it.
KEPT_SECONDS_MAX = 30.0
UNKEPT_SECONDS_MAX = 600.0
PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 5.0
# How long a job waits for answers that another daemon is settling, before it parks.
CLEAR_SECONDS = 2.0
CLEAR_PAUSE_SECONDS = 0.05

log = get_logger()


class Books(Protocol):
    """Where a settlement is written: `GroupCommit`."""

    async def write(self, kind: WriteKind[Paid, Any], item: Paid) -> Any: ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """A settlement that is not committed yet."""

    job_id: UUID | None
    paid: Paid
    since: float
    # The spool's own clock at that time.
    at: float
    file: str | None = None
    failed: bool = False
    settled: bool = False
    keeping: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def key(self) -> UUID:
        """What the file is found by: its job, or the call itself."""
        return self.job_id or self.paid.settlement.call_id


class Spool:
    """Settles calls, by way of the disk if the database is away, and drains the disk."""

    def __init__(
        self, database: Database, folder: SpoolFolder, written: Callable[[], None] | None = None
    ) -> None:
        """`written` counts the files that are written."""
        self.folder = folder
        self._written = written
        self._database = database
        self._waiting: set[_Waiting] = set()
        # Seconds in which the loop looked at all; it does not go on while the loop is held up.
        self._clock = 0.0
        # The last settlement that was committed: when, by that clock, and since when it waited.
        self._settled_at = 0.0
        self._settled_since = 0.0
        # Files that are left alone: unreadable, or of a call that this database does not have.
        self._refused: set[str] = set()
        self._unreadable = False
        self._draining = anyio.Lock()

    async def settle(self, books: Books, job_id: UUID | None, paid: Paid) -> Any:
        """Settle a call, of a job or of none; returns the answer that counts, committed.

        Raises the database's error if it is away for too long, and a cancellation once the
        settlement is on disk: `drain` settles it later then.
        """
        waiting = _Waiting(job_id, paid, monotonic(), self._clock)
        self._waiting.add(waiting)
        try:
            stands = await self._until_settled(books, waiting)
            waiting.settled = True
            self._settled_at = self._clock
            self._settled_since = max(self._settled_since, waiting.since)
        finally:
            self._waiting.discard(waiting)
        self._forget(waiting)
        return stands

    async def run(self) -> None:
        """Write settlements to disk that the database keeps waiting, until cancelled."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Write to disk what is late now: one look, which `run` makes every `LOOK_SECONDS`."""
        self._clock += LOOK_SECONDS
        for waiting in [w for w in self._waiting if self._is_late(w) and not w.failed]:
            await self._keep(waiting)

    def _is_late(self, waiting: _Waiting) -> bool:
        """True if the database keeps it waiting: it commits nothing, or what came later."""
        if waiting.at >= self._clock - SPOOL_AFTER_SECONDS:
            return False
        silent = self._settled_at < self._clock - SPOOL_AFTER_SECONDS
        return silent or waiting.since < self._settled_since - SPOOL_AFTER_SECONDS

    async def clear(self, job_id: UUID) -> bool:
        """Settle this job's spooled answers; true when none is left. Unreadable files are ignored.

        Waits a little for answers that another daemon is settling.
        """
        give_up = monotonic() + CLEAR_SECONDS
        while self._usable(self._find(), job_id):
            try:
                await self.drain(job_id)
            except DatabaseError as error:
                if error.retriable:
                    return False
                raise
            if monotonic() > give_up:
                return False
            await anyio.sleep(CLEAR_PAUSE_SECONDS)
        return True

    async def drain(self, job_id: UUID | None = None) -> int:
        """Settle the answers on disk, or those of one job; returns how many files were settled.

        Stops at the first error of a database that is away, and raises it. Without `job_id` it
        waits for another drain of this process first.
        """
        if job_id is not None:
            return await self._drain(job_id)
        async with self._draining:
            return await self._drain(None)

    async def _drain(self, job_id: UUID | None) -> int:
        found, drained = self._find(), 0
        for name in set(found.strange) - self._refused:
            self._refuse(name, "it is not a file of the spool")
        try:
            for name in self._usable(found, job_id):
                drained += await self._drain_file(name)
        finally:
            if drained:
                log.warning(events.SPOOL_DRAINED, calls=drained)
        return drained

    def warn_if_unusable(self) -> None:
        """Say so if answers could not be kept on this machine."""
        if not self.folder.usable():
            self._failed("the folder cannot be written", None)

    async def _until_settled(self, books: Books, waiting: _Waiting) -> Any:
        pause = PAUSE_SECONDS
        while True:
            try:
                return await books.write(SETTLE, waiting.paid)
            except DatabaseError as error:
                if not error.retriable:
                    raise
                kept = await self._keep(waiting)
                if monotonic() - waiting.since > (KEPT_SECONDS_MAX if kept else UNKEPT_SECONDS_MAX):
                    raise
            # A cancellation lands here, but not while the answer exists only in this process.
            with anyio.CancelScope(shield=not kept):
                await anyio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def _keep(self, waiting: _Waiting) -> bool:
        """Write it to disk, once: `run` and its own attempt may both call this."""
        with anyio.CancelScope(shield=True):
            async with waiting.keeping:
                if waiting.file is not None or waiting.settled:
                    return True
                try:
                    name = await anyio.to_thread.run_sync(
                        self.folder.write, waiting.key, waiting.paid
                    )
                except (OSError, ValueError) as error:
                    waiting.failed = True
                    self._failed(getattr(error, "strerror", None) or str(error), waiting)
                    return False
                crash_points.reach("spool.written")
                waiting.file = name
                self._tell_written(waiting)
                if waiting.settled:
                    self._forget(waiting)
        return True

    def _forget(self, waiting: _Waiting) -> None:
        if waiting.file is not None:
            self._remove(waiting.file)

    # A failing disk is logged once, and stops neither a job nor the daemon.
    def _remove(self, name: str) -> None:
        try:
            self.folder.remove(name)
        except OSError as error:
            self._refuse(name, f"it is settled and cannot be removed: {error.strerror}")

    def _find(self) -> Found:
        try:
            found = self.folder.find()
        except OSError as error:
            if not self._unreadable:
                self._failed(f"the folder cannot be read: {error.strerror}", None)
            self._unreadable = True
            return Found([], [])
        self._unreadable = False
        return found

    def _usable(self, found: Found, job_id: UUID | None) -> list[str]:
        return [
            entry.name
            for entry in found.entries
            if (job_id is None or entry.job_id == job_id) and entry.name not in self._refused
        ]

    async def _drain_file(self, name: str) -> bool:
        """Settle one file; False if another daemon has it, or it is left alone."""
        try:
            with self.folder.taken(name) as paid:
                if paid is None:
                    return False
                async with self._database.connection() as connection:
                    booked = await calls.is_booked(connection, paid.settlement.call_id)
                if not booked:
                    self._refuse(name, "its call is not in the books of this database")
                    return False
                await SETTLE.alone(self._database, paid)
                crash_points.reach("spool.drained")
                self._remove(name)
                return True
        except SpoolUnreadable as error:
            self._refuse(name, str(error))
        except JobsworthError as error:
            if error.retriable:
                raise
            self._refuse(name, error.message)
        return False

    def _refuse(self, name: str, reason: str) -> None:
        self._refused.add(name)
        log.error(
            events.SPOOL_REFUSED,
            file=str(self.folder.path / name),
            reason=reason,
            remedy="it is left alone; move it away once you know what it is",
        )

    def _tell_written(self, waiting: _Waiting) -> None:
        log.warning(
            events.SPOOL_WRITTEN,
            job_id=waiting.job_id and str(waiting.job_id),
            call_id=str(waiting.paid.settlement.call_id),
            file=waiting.file,
        )
        if self._written is not None:
            self._written()

    def _failed(self, reason: str, waiting: _Waiting | None) -> None:
        log.error(
            events.SPOOL_FAILED,
            folder=str(self.folder.path),
            reason=reason,
            call_id=waiting and str(waiting.paid.settlement.call_id),
            remedy="make room there, or set JOBSWORTH_SPOOL_DIR to a folder that can be written",
        )
