"""The watch: stops attempts that cannot prove their lease, and ends a worker that cannot move.

In: the heartbeat and the attempts, four times a second. Out: stopped attempts, `Vitals`, and an
order to stop with `STUCK` when attempts that do not end have held all slots for ten seconds.
"""

from collections.abc import Sequence
from time import monotonic

import anyio

from db.pool import Database
from worker import events
from worker.daemon import systemd
from worker.daemon.heartbeat import Heartbeat
from worker.daemon.open_files import keep_standard_streams
from worker.daemon.signals import Signals, Stop
from worker.daemon.vitals import Deaf, Vitals
from worker.log import get_logger
from worker.masking import mask
from worker.outages import REMEDY
from worker.outcomes import Lost
from worker.queue.attempt_log import AttemptLog
from worker.queue.running import Running
from worker.queue.wake import Wakes

STUCK = 70
WATCH_SECONDS = 0.25
STUCK_SECONDS = 10.0

log = get_logger()


class Watch:
    """Compares the attempts of this worker with its heartbeat."""

    def __init__(
        self,
        heartbeat: Heartbeat,
        running: Running,
        attempt_log: AttemptLog,
        vitals: Vitals,
        stop: Stop,
        signals: Signals,
        wakes: Wakes,
        databases: Sequence[Database],
        *,
        slots: int,
        threads: int,
    ) -> None:
        """Attempts use the pools `databases`.

        `slots` attempts that do not end, or `threads` such threads, keep this worker from any work.
        """
        self._heartbeat = heartbeat
        self._running = running
        self._attempt_log = attempt_log
        self._vitals = vitals
        self._stop = stop
        self._signals = signals
        self._wakes = wakes
        self._databases = databases
        self._slots = slots
        self._threads_max = min(slots, threads)
        self._threads_stuck = 0
        self._stuck_since: float | None = None
        self._lost = False
        self._told = ""
        # A handler may change the environment.
        self._notify_socket = systemd.notify_socket()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await anyio.sleep(WATCH_SECONDS)
            self._vitals.running = len(self._running)
            self._look_for_deaf(monotonic())
            self._attempt_log.flush()
            self._stop_without_lease()
            self._give_up_if_stuck()
            self._tell_manager()
            self._take_signals_back()
            keep_standard_streams()

    def _stop_without_lease(self) -> None:
        alive = self._heartbeat.alive()
        if alive:
            others = self._running.stop_those_of_others(self._heartbeat.pulse.worker_id)
            if others:
                log.warning(events.ATTEMPTS_STOPPED, jobs=others, reason="declared dead")
        elif self._heartbeat.pulse.worker_id is not None:
            stopped = self._running.lose_all(Lost("no heartbeat succeeded in time"))
            if stopped or not self._lost:
                log.warning(events.ATTEMPTS_STOPPED, jobs=stopped, reason="no heartbeat")
                for database in self._databases:
                    database.cut()
        if self._lost == alive:
            self._tell_database(lost=not alive)
        self._lost = not alive

    def _tell_database(self, *, lost: bool) -> None:
        self._vitals.database_state = "lost" if lost else "ok"
        if lost:
            trouble = self._heartbeat.trouble
            log.warning(
                events.DATABASE_LOST,
                error=trouble or "no heartbeat was answered",
                remedy=getattr(trouble, "remedy", "") or REMEDY,
                age_seconds=round(self._heartbeat.age_seconds(), 1),
            )
        else:
            log.info(events.DATABASE_RECOVERED)
            self._wakes.work.set()
            self._wakes.lost_claims.set()  # jobs whose attempts were stopped, or never began

    def _tell_manager(self) -> None:
        """Tell `systemctl status` what this worker does, when that has changed."""
        vitals = self._vitals
        doing = "stopping, " if vitals.draining else ""
        text = f"{doing}{vitals.running} of {self._slots} slots run"
        if vitals.stuck:
            text += f", {vitals.stuck} of them cannot be stopped"
        if self._lost:
            text += f"; the database is lost: {self._heartbeat.trouble or 'no answer'}"
        if text != self._told:
            self._told = text
            systemd.status(mask(text), self._notify_socket)

    def _look_for_deaf(self, at: float) -> None:
        """Tell of attempts that do not end: `why` says so of their jobs."""
        deaf = self._running.deaf(at)
        self._vitals.stuck = len(deaf)
        self._threads_stuck = sum(attempt.in_thread for attempt in deaf)
        self._vitals.deaf = tuple(
            Deaf(one.job.id, one.in_thread, at - (one.told_at or at)) for one in deaf
        )

    def _give_up_if_stuck(self) -> None:
        if self._threads_stuck < self._threads_max and self._vitals.stuck < self._slots:
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or monotonic()
        if monotonic() - self._stuck_since < STUCK_SECONDS or self._stop.exit_code:
            return
        log.error(
            events.SLOTS_STUCK,
            slots=self._vitals.stuck,
            modes=sorted({a.job.mode for a in self._running.deaf(monotonic())}),
        )
        self._stop.fail(STUCK)

    def _take_signals_back(self) -> None:
        names = self._signals.take_back()
        if names:
            modes = sorted({attempt.job.mode for attempt in self._running})
            log.warning(events.SIGNALS_TAKEN_BACK, signals=names, modes=modes)
