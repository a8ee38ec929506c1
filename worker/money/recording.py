"""Recording of what models are asked, so that it can be read for some days.

In: calls that are about to be sent, with their texts. Out: rows of `call_texts` and `call_records`,
written by upkeep within about a second, masked. Invariant: recording delays no call and fails none;
what cannot be kept is dropped, and said once a minute.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from time import monotonic
from uuid import UUID

import anyio
import anyio.to_thread

from db.documents import to_text
from db.errors import JobsworthError
from db.money import call_texts
from db.money.call_texts import CallTexts, NewText
from db.pool import Database
from worker import events
from worker.log import get_logger
from worker.masking import mask
from worker.repeats import Repeats

TEXT_CHARACTERS_MAX = 200_000
# Hashes of which is known that their texts are kept for today.
KNOWN_MAX = 20_000
WAITING_BYTES_MAX = 32_000_000
HASH_BYTES = 16
FORGET_BATCH = 1_000
FORGET_PERIOD_SECONDS = 600.0
# The content of a file within a message.
_FILE = re.compile(rb'"data": "([A-Za-z0-9+/=_-]{500,})"')
BATCH_CALLS = 200

log = get_logger()


class Recorder:
    """Keeps what calls ask, in memory until `write`. With `days` 0 it keeps nothing."""

    def __init__(self, database: Database, days: int) -> None:
        self._database = database
        self._days = days
        self._day = _today()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._calls: list[CallTexts] = []
        self._new: dict[bytes, tuple[UUID | None, bytes]] = {}
        self._bytes = 0
        self._repeats = Repeats()
        self._writing = anyio.Lock()
        self._forget_at = float("-inf")

    @property
    def on(self) -> bool:
        return self._days > 0

    def note(self, call_id: UUID, team_id: UUID | None, texts: Sequence[bytes]) -> None:
        """Keep what this call asks: JSON texts, of which most have been sent before."""
        if not self.on:
            return
        if self._bytes > WAITING_BYTES_MAX:
            self._dropped("the database has not taken the earlier ones")
            return
        self._begin_day()
        team = b"" if team_id is None else team_id.bytes
        asked = [hashlib.sha256(team + text).digest()[:HASH_BYTES] for text in texts]
        for key, text in zip(asked, texts, strict=True):
            if key not in self._known and key not in self._new:
                self._new[key] = (team_id, text)
                self._bytes += len(text)
        self._calls.append(CallTexts(call_id, team_id, asked))

    async def write(self) -> None:
        """Write what is kept in memory. On an error it stays there, as far as there is room."""
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        while self._calls:
            calls, new, day = self._calls[:BATCH_CALLS], dict(self._new), self._day
            texts = await anyio.to_thread.run_sync(_masked, new)
            try:
                async with self._database.connection() as connection:
                    await call_texts.keep(connection, day, calls, texts)
            except JobsworthError as error:
                self._dropped(str(error))
                if not error.retriable:
                    self._forget(calls, new)
                return
            self._forget(calls, new)
            self._know(new)

    async def forget_old(self) -> None:
        """Delete a slice of what is too old, if it is time; the next slice follows at once.

        With `days` 0 everything is too old, but today's.
        """
        if monotonic() < self._forget_at:
            return
        async with self._database.connection() as connection:
            gone = await call_texts.forget(connection, days=self._days, most=FORGET_BATCH)
        if gone < FORGET_BATCH:
            self._forget_at = monotonic() + FORGET_PERIOD_SECONDS

    def _forget(self, calls: Sequence[CallTexts], new: Iterable[bytes]) -> None:
        del self._calls[: len(calls)]
        for key in new:
            self._bytes -= len(self._new.pop(key)[1])

    def _know(self, new: Iterable[bytes]) -> None:
        self._known.update(dict.fromkeys(new))
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def _begin_day(self) -> None:
        """Texts are kept by day. What still waits is written for the day on which it is written."""
        today = _today()
        if today != self._day and not self._calls:
            self._day = today
            self._known.clear()

    def _dropped(self, why: str) -> None:
        if self._repeats.due(why):
            log.warning(events.CALLS_UNRECORDED, error=why, waiting=len(self._calls))


def _masked(new: Mapping[bytes, tuple[UUID | None, bytes]]) -> dict[bytes, NewText]:
    """The texts to write. To mask takes 30 µs for a kilobyte, so it is done in a thread."""
    return {
        key: NewText(team_id, to_text(mask(_bounded(text)))) for key, (team_id, text) in new.items()
    }


def _bounded(text: bytes) -> str:
    said = _FILE.sub(_size, text).decode(errors="replace")
    if len(said) <= TEXT_CHARACTERS_MAX:
        return said
    return f"{said[:TEXT_CHARACTERS_MAX]}… ({len(said):,} characters)"


def _size(found: re.Match[bytes]) -> bytes:
    return b'"data": "(%d characters of base64)"' % len(found[1])


def _today() -> date:
    return datetime.now(UTC).date()
