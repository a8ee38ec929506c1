"""The heartbeat: a thread and a connection of its own, so a blocked event loop loses no lease.

In: the worker's identity. Out: `beaten_at` every two seconds, and what follows from a missed beat.
After `stop_seconds` without success, counted on the process's own monotonic clock from before the
last successful beat was sent, the attempts must stop: other workers may take their jobs soon. A
beat that updates no row means that they have; the worker then takes a new id. Each beat also sees
the other workers, and the `Judge` finds out who is dead.

The numbers are 2, 7 and 10 seconds: beat, stop the attempts, rescue. They keep two promises. What
a dead worker ran runs again within 15 s: another worker looks at most 2.2 s after the last beat,
finds it dead 10 s later, and takes its jobs at most 0.3 s after that; 2.5 s are left for a machine
that is busy. And no job is taken while its handler runs: the watch tells handlers to stop at most
0.25 s after the 7 s, so they have 2.75 s to end.

A daemon that stops deletes its row: a plain function that still runs in a thread then is rescued at
once, which counts as a crash.
"""

import threading
from dataclasses import dataclass, replace
from random import random
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import psycopg

from db.errors import of_driver
from db.network import bounded_url, cut_after
from db.queue import workers
from db.sessions import begin_session_sync, connect_parameters
from worker import events
from worker.daemon.judge import Judge
from worker.daemon.processes import Process
from worker.daemon.vitals import Vitals
from worker.log import get_logger
from worker.repeats import Repeats

CONNECT_SECONDS = 3
BEAT_TIMEOUT_MILLISECONDS = 2500
RETRY_SECONDS = 0.1
RETRY_SECONDS_MAX = 0.5
# A proxy that swallows what it acknowledges must not hang a beat: attempts may go on for 7 s
# without one. A beat that hangs begins 2.2 s after the last one, so 1.8 s are left for the next.
ANSWER_SECONDS = 3.0

log = get_logger()


@dataclass(frozen=True, slots=True)
class Identity:
    """What the worker's row says of it."""

    host: str
    pid: int
    version: str
    modes: tuple[str, ...]
    queues: tuple[str, ...]
    slots: int
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """The state of the heartbeat; monotonic seconds. `worker_id` is None until first registered."""

    worker_id: UUID | None = None
    beaten_at: float = float("-inf")
    unbroken_since: float | None = None


class Heartbeat(threading.Thread):
    """Registers the worker and keeps it alive. `pulse` may be read from any thread."""

    def __init__(
        self,
        url: str,
        schema: str,
        identity: Identity,
        *,
        beat_seconds: float,
        stop_seconds: float,
        judge: Judge,
        vitals: Vitals,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.pulse = Pulse()
        self._url = url
        self._schema = schema
        self._identity = identity
        self._beat_seconds = beat_seconds
        self._stop_seconds = stop_seconds
        self._judge = judge
        self._vitals = vitals
        self._stopping = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self.trouble: Exception | None = None
        """Why the last heartbeat failed; None if it did not."""
        self._repeats = Repeats()

    def age_seconds(self) -> float:
        """Seconds since the last successful beat was begun."""
        return monotonic() - self.pulse.beaten_at

    def alive(self) -> bool:
        """Whether attempts may go on and new jobs may be claimed."""
        return self.proven_id() is not None

    def proven_id(self) -> UUID | None:
        """The worker id to claim under; None while no recent heartbeat proves it."""
        pulse = self.pulse
        return pulse.worker_id if monotonic() - pulse.beaten_at < self._stop_seconds else None

    def unbroken_seconds(self) -> float:
        """How long it has beaten without a gap."""
        since = self.pulse.unbroken_since
        if since is None or self._stopping.is_set() or not self.alive():
            return 0.0
        return monotonic() - since

    def dead_workers(self) -> dict[UUID, int]:
        """The other workers that are dead, each with the number of its last beat.

        Empty while no recent beat of our own proves that we are not the one who is cut off.
        """
        return self._judge.dead() if self.alive() and not self._stopping.is_set() else {}

    def is_first(self) -> bool:
        """Whether this worker lives, and no other that lives has a lower id."""
        own_id = self.proven_id()
        return own_id is not None and self._judge.is_first(own_id)

    def stop(self) -> None:
        """End the thread after its current beat."""
        self._stopping.set()

    def run(self) -> None:
        """Beat until stopped; no error ends this thread."""
        missed = 0
        while not self._stopping.is_set():
            self._vitals.heartbeat_tried()
            try:
                self._beat()
                if missed:
                    self.trouble = None
                    log.info(events.DATABASE_RECOVERED)
                missed = 0
                pause = self._beat_seconds * (0.9 + 0.2 * random())
                pause = min(pause, self._judge.next_verdict_in(monotonic()))
            except Exception as error:
                self._missed(error)
                pause = min(RETRY_SECONDS * 2**missed, RETRY_SECONDS_MAX, self._beat_seconds)
                missed = min(missed + 1, 10)
            self._stopping.wait(pause)
        if self._connection is not None:
            self._connection.close()

    def _beat(self) -> None:
        connection = self._connected()
        with cut_after(ANSWER_SECONDS, connection):
            self._beat_on(connection)

    def _beat_on(self, connection: psycopg.Connection[Any]) -> None:
        worker_id, began = self.pulse.worker_id, monotonic()
        others = worker_id and self._beat_as(connection, worker_id)
        if worker_id is None or others is None:
            worker_id = self._register(connection)
            began = monotonic()
            others = self._beat_as(connection, worker_id) or []
        answered = monotonic()
        if answered - self.pulse.beaten_at > self._stop_seconds:
            self._break()
        self._judge.saw(others, began, answered)
        self.pulse = Pulse(worker_id, began, self.pulse.unbroken_since or answered)
        self._vitals.heartbeat_succeeded()
        self._repeats.forget()

    def _beat_as(
        self, connection: psycopg.Connection[Any], worker_id: UUID
    ) -> list[workers.Sighting] | None:
        vitals = self._vitals
        deaf = {
            str(one.job_id): {"seconds": round(one.seconds, 1), "thread": one.in_thread}
            for one in vitals.deaf
        }
        return workers.beat(
            connection, self._schema, worker_id, vitals.running, vitals.draining, deaf
        )

    def _register(self, connection: psycopg.Connection[Any]) -> UUID:
        old, fresh = self.pulse.worker_id, uuid4()
        workers.register(connection, self._schema, {"id": fresh, **_columns(self._identity)})
        if old is not None:
            log.warning(events.WORKER_REPLACED, old=str(old), new=str(fresh))
            self._break()
        self._vitals.worker_id = fresh
        return fresh

    def _missed(self, error: Exception) -> None:
        self.trouble = of_driver(error)
        if self._repeats.due(str(self.trouble)):
            log.warning(
                events.HEARTBEAT_MISSED,
                error=self.trouble,
                age_seconds=round(self.age_seconds(), 1) if self.pulse.worker_id else None,
            )
        self._break()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _break(self) -> None:
        """There was a gap, or we were declared dead."""
        self.pulse = replace(self.pulse, unbroken_since=None)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                bounded_url(self._url),
                connect_timeout=CONNECT_SECONDS,
                prepare_threshold=None,
                **connect_parameters("jobsworth heartbeat"),
            )
            with cut_after(ANSWER_SECONDS, self._connection):
                direct = begin_session_sync(self._connection, BEAT_TIMEOUT_MILLISECONDS / 1000)
            # Behind a pooler it would stay with the next client.
            if direct:
                self._connection.execute(
                    "select set_config('statement_timeout', %s, false)",
                    (str(BEAT_TIMEOUT_MILLISECONDS),),
                )
        return self._connection


def _columns(identity: Identity) -> dict[str, Any]:
    process = identity.process
    return {
        "pid_space": process and process.pid_space,
        "process_start": process and process.start,
        "host": identity.host,
        "pid": identity.pid,
        "version": identity.version,
        "modes": list(identity.modes),
        "queues": list(identity.queues),
        "slots": identity.slots,
    }
