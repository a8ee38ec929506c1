"""The judge: which other workers are dead, found by watching them.

In: what each heartbeat of this worker saw of the others. Out: the dead ones. A worker is dead when
its number of beats has not changed for `silent_seconds` of our own monotonic clock; no two clocks
are compared, so one that jumps neither kills nor hides anybody. A worker is dead at once if it ran
on this machine and its process is gone.

Invariant: silence counts only while our own heart beats without a gap. After an outage everybody
has been silent, so the watch begins anew.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from db.queue.workers import Sighting
from worker.daemon.processes import Process, has_ended


class Watched(NamedTuple):
    """A worker under watch; times are monotonic seconds."""

    beats: int
    since: float  # when an answer first showed this number
    until: float  # when the last look that showed this number was begun
    has_ended: bool


class Judge:
    """Written by the heartbeat's thread; may be read from any thread."""

    def __init__(self, silent_seconds: float, own: Process | None) -> None:
        """`own` is the process of this worker; None if the system does not tell."""
        self._silent_seconds = silent_seconds
        self._own = own
        self._watched: dict[UUID, Watched] = {}

    def saw(self, others: Sequence[Sighting], asked_at: float, answered_at: float) -> None:
        """Take note of a look at the other workers."""
        self._watched = {
            other.id: self._watch(other, asked_at, answered_at, self._watched.get(other.id))
            for other in others
        }

    def start_anew(self) -> None:
        """Forget who has been silent: we may have been cut off ourselves."""
        self._watched = {}

    def dead(self) -> dict[UUID, int]:
        """The dead workers, each with the number of its last beat."""
        return {
            worker_id: one.beats
            for worker_id, one in self._watched.items()
            if one.has_ended or one.until - one.since >= self._silent_seconds
        }

    def is_first(self, own_id: UUID) -> bool:
        """Whether no living worker has a lower id: work that one of all shall do is its own."""
        return all(own_id < worker_id for worker_id in self._watched.keys() - self.dead().keys())

    def next_verdict_in(self, at: float) -> float:
        """Seconds until a look can find somebody dead; infinite if nobody is silent."""
        due = (
            one.since + self._silent_seconds - at
            for one in self._watched.values()
            if one.since < one.until < one.since + self._silent_seconds
        )
        return max(0.0, min(due, default=float("inf")))

    def _watch(
        self, other: Sighting, asked_at: float, answered_at: float, before: Watched | None
    ) -> Watched:
        ended = (
            self._own is not None
            and other.process_start is not None
            and other.pid_space == self._own.pid_space
            and has_ended(other.pid, other.process_start)
        )
        if before is None or before.beats != other.beats:
            return Watched(other.beats, answered_at, answered_at, ended)
        return Watched(other.beats, before.since, asked_at, ended)
