"""The health of this worker, in one object that the daemon's parts keep up to date.

In: stamps from the claim loop, the heartbeat's thread and the attempts. Out: ages and counts for
the health endpoint, the metrics, the heartbeat and the service manager's watchdog. Invariant: no
method waits, locks or reads anything but the clock, so a probe cannot hold up the worker. Each
attribute is replaced in one go, so other threads may read it.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from uuid import UUID

DatabaseState = Literal["unknown", "ok", "lost"]


class Deaf(NamedTuple):
    """A job whose attempt was told to end so long ago and goes on, in a thread or not."""

    job_id: UUID
    in_thread: bool
    seconds: float


class Vitals:
    """`running` counts the jobs that hold a slot, `stuck` those that do not end when told to."""

    def __init__(
        self, worker_id: UUID, slots: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.worker_id = worker_id
        self.started_at = datetime.now(UTC)
        self.slots = slots
        self.running = 0
        self.stuck = 0
        self.deaf: tuple[Deaf, ...] = ()
        self.draining = False
        self.database_state: DatabaseState = "unknown"
        self.database_trouble: str | None = None
        self._clock = clock
        self._loop_at: float | None = None
        self._claim_loop_at: float | None = None
        self._heartbeat_tried_at: float | None = None
        self._heartbeat_succeeded_at: float | None = None

    def loop_turned(self) -> None:
        """Note that the event loop runs what is due."""
        self._loop_at = self._clock()

    @property
    def loop_age_seconds(self) -> float:
        """Seconds since the event loop was last seen to run; 0 before the first time."""
        return self._age(self._loop_at) or 0.0

    def claim_loop_progress(self) -> None:
        """Note that the claim loop began another turn, with or without a free slot."""
        self._claim_loop_at = self._clock()

    def claim_loop_alive(self, limit_seconds: float) -> bool:
        """False if the claim loop has begun no turn for too long, and the worker is not draining.

        Without a database the loop goes on trying, so it counts as alive: a restart would not help.
        """
        age = self.claim_loop_age_seconds
        return self.draining or age is None or age <= limit_seconds

    @property
    def claim_loop_age_seconds(self) -> float | None:
        """Seconds since the claim loop's last turn began; None before the first."""
        return self._age(self._claim_loop_at)

    def heartbeat_tried(self) -> None:
        """Note that the heartbeat's thread began another beat."""
        self._heartbeat_tried_at = self._clock()

    def heartbeat_succeeded(self) -> None:
        """Note that a beat is committed in the worker's row."""
        self._heartbeat_tried_at = self._heartbeat_succeeded_at = self._clock()

    @property
    def heartbeat_age_seconds(self) -> float | None:
        """Seconds since the last successful heartbeat; None before the first."""
        return self._age(self._heartbeat_succeeded_at)

    def heartbeat_thread_alive(self, limit_seconds: float) -> bool:
        """False if the heartbeat's thread ended or hangs; a failing beat counts as alive."""
        age = self._age(self._heartbeat_tried_at)
        return age is None or age <= limit_seconds

    def _age(self, at: float | None) -> float | None:
        return None if at is None else self._clock() - at
