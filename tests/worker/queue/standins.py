"""What surrounds a part of the daemon that a test runs alone: it records and does no work."""

from __future__ import annotations

from time import monotonic
from uuid import UUID, uuid4

from db.pool import Database
from worker.daemon.heartbeat import Heartbeat, Identity, Pulse
from worker.daemon.judge import Judge
from worker.daemon.vitals import Vitals
from worker.queue.promote import Promoter
from worker.queue.wake import Wake


class CountedWake(Wake):
    """Counts how often it was set."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def set(self) -> None:
        self.times += 1
        super().set()


class RecordedPromoter(Promoter):
    """Records what it shall look at, and does not look."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, Wake())
        self.ids: list[UUID] = []
        self.lanes: list[str] = []

    def ended(self, ids: list[UUID]) -> None:
        self.ids += ids

    def deferred(self, lanes: list[str]) -> None:
        self.lanes += lanes


class SteeredJudge(Judge):
    """Its verdicts are the test's."""

    def __init__(self) -> None:
        super().__init__(10, 2, None)
        self.verdicts: dict[UUID, int] = {}

    def dead(self) -> dict[UUID, int]:
        return self.verdicts


def heartbeat(
    url: str,
    worker_id: UUID | None,
    *,
    unbroken_seconds: float = 0,
    judge: Judge | None = None,
) -> Heartbeat:
    """A heartbeat that is not started; `beat` says when it last succeeded."""
    made = Heartbeat(
        url,
        "jobsworth",
        Identity(host="here", pid=1, version="0", modes=(), queues=(), slots=1),
        beat_seconds=2,
        stop_seconds=600,
        judge=judge or SteeredJudge(),
        vitals=Vitals(uuid4(), 1),
    )
    beat(made, worker_id, unbroken_seconds=unbroken_seconds)
    return made


def beat(heartbeat: Heartbeat, worker_id: UUID | None, *, unbroken_seconds: float = 0) -> None:
    """As if it had succeeded just now, and without a gap for so long."""
    heartbeat.pulse = Pulse(worker_id, monotonic(), monotonic() - unbroken_seconds)
