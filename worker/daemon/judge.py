"""The judge: which other workers are dead, found by watching them.

In: what each heartbeat of this worker saw of the others. Out: the dead ones. A worker is dead when
its number of beats has not changed for `silent_seconds` of our own monotonic clock; no two clocks
are compared, so one that jumps neither kills nor hides anybody. A worker is dead at once if it ran
on this machine and its process is gone.

Invariant: of a time in which we could not look, at most two beats count as silence. After an outage
everybody has been silent, and each has some seconds to be heard again.

A worker is found dead within `silent_seconds` and the pause until the next look (1.1 beats) after
its last beat. Rejected: a watch that begins anew after a failed look. One connection of ours that
was cut after a worker's death doubled the time until its jobs ran again.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from db.queue.workers import Sighting
from worker.daemon.processes import Process, has_ended


class Watched(NamedTuple):
    """A worker under watch; times are monotonic seconds."""

    beats: int
    since: float  # when an answer first showed this number, and what of our own gaps does not count
    until: float  # when the last look that showed this number was begun
    has_ended: bool


class Judge:
    """Written by the heartbeat's thread; may be read from any thread."""

    def __init__(self, silent_seconds: float, beat_seconds: float, own: Process | None) -> None:
        """`own` is the process of this worker; None if the system does not tell."""
        self._silent_seconds = silent_seconds
        self._gap_seconds_max = 2 * beat_seconds
        self._own = own
        self._watched: dict[UUID, Watched] = {}

    def saw(self, others: Sequence[Sighting], asked_at: float, answered_at: float) -> None:
        """Take note of a look at the other workers."""
        self._watched = {
            other.id: self._watch(other, asked_at, answered_at, self._watched.get(other.id))
            for other in others
        }

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
        uncounted = max(0.0, asked_at - before.until - self._gap_seconds_max)
        return Watched(other.beats, before.since + uncounted, asked_at, ended)
