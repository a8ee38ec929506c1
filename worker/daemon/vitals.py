"""How this worker is: the one object through which the daemon's parts tell it.

In: stamps from the claim loop, the heartbeat's thread and the attempts. Out: ages and counts for
the health endpoint, the metrics and the service manager's watchdog. Invariant: nothing here waits,
locks or reads anything but the clock, so a probe cannot hold up what it asks about. Each attribute
is replaced in one go, so other threads may read it.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

DatabaseState = Literal["unknown", "ok", "lost"]


class Vitals:
    """`running` and `stuck` are jobs: all that hold a slot, and those whose thread will not end."""

    def __init__(
        self, worker_id: UUID, slots: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.worker_id = worker_id
        self.started_at = datetime.now(UTC)
        self.slots = slots
        self.running = 0
        self.stuck = 0
        self.draining = False
        self.database_state: DatabaseState = "unknown"
        self._clock = clock
        self._claim_loop_at: float | None = None
        self._heartbeat_tried_at: float | None = None
        self._heartbeat_succeeded_at: float | None = None

    def claim_loop_progress(self) -> None:
        """The claim loop began another turn: whatever came of the last one, a free slot or not."""
        self._claim_loop_at = self._clock()

    def claim_loop_alive(self, limit_seconds: float) -> bool:
        """False if the claim loop hangs: it has started, should go on, and has not for too long.

        A lost database is no hang, for the loop goes on trying; a restart would not help.
        """
        age = self.claim_loop_age_seconds
        return self.draining or age is None or age <= limit_seconds

    @property
    def claim_loop_age_seconds(self) -> float | None:
        """Time since the claim loop's last turn began; None before the first."""
        return self._age(self._claim_loop_at)

    def heartbeat_tried(self) -> None:
        """The heartbeat's thread began another beat, or leaves it out on purpose."""
        self._heartbeat_tried_at = self._clock()

    def heartbeat_succeeded(self) -> None:
        """The worker's row says that it lives."""
        self._heartbeat_tried_at = self._heartbeat_succeeded_at = self._clock()

    @property
    def heartbeat_age_seconds(self) -> float | None:
        """Time since the last heartbeat that succeeded; None before the first."""
        return self._age(self._heartbeat_succeeded_at)

    def heartbeat_thread_alive(self, limit_seconds: float) -> bool:
        """False if the heartbeat's thread ended or hangs; failing beats are a sign of life."""
        age = self._age(self._heartbeat_tried_at)
        return age is None or age <= limit_seconds

    def _age(self, at: float | None) -> float | None:
        return None if at is None else self._clock() - at
