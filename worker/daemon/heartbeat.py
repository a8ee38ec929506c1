"""The heartbeat: a thread and a connection of its own, so a blocked event loop loses no lease.

In: the worker's identity. Out: `beaten_at` every two seconds, and what follows from a missed beat.
After `stop_seconds` without success, counted on the process's own monotonic clock from before the
last successful beat was sent, the attempts must stop: other workers may take their jobs soon. A
beat that updates no row means that they have; the worker then takes a new id. Only a worker that
has itself beaten without a gap may rescue, so that after an outage no living worker loses its jobs.

The numbers are 2, 8 and 12 seconds: beat, stop the attempts, rescue. A daemon that stops deletes
its row: a plain function that still runs in a thread then is rescued at once, which counts as a
crash.
"""

import threading
from dataclasses import dataclass, replace
from random import random
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import psycopg

from db.queue import workers
from worker import events
from worker.daemon.vitals import Vitals
from worker.log import get_logger

CONNECT_SECONDS = 3
BEAT_TIMEOUT_MILLISECONDS = 3000

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


@dataclass(frozen=True, slots=True)
class Pulse:
    """The state of the heartbeat; monotonic seconds. `worker_id` is None until first registered."""

    worker_id: UUID | None = None
    beaten_at: float = float("-inf")
    unbroken_since: float = float("inf")


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
        vitals: Vitals,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.pulse = Pulse()
        self._url = url
        self._schema = schema
        self._identity = identity
        self._beat_seconds = beat_seconds
        self._stop_seconds = stop_seconds
        self._vitals = vitals
        self._stopping = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None

    def age_seconds(self) -> float:
        """Seconds since the last successful beat was begun."""
        return monotonic() - self.pulse.beaten_at

    def alive(self) -> bool:
        """Whether attempts may go on and new jobs may be claimed."""
        return self.pulse.worker_id is not None and self.age_seconds() < self._stop_seconds

    def proven_id(self) -> UUID | None:
        """The worker id to claim under; None while no recent heartbeat proves it."""
        return self.pulse.worker_id if self.alive() else None

    def unbroken_seconds(self) -> float:
        """How long it has beaten without a gap."""
        if self._stopping.is_set() or not self.alive():
            return 0.0
        return monotonic() - self.pulse.unbroken_since

    def stop(self) -> None:
        """End the thread after its current beat."""
        self._stopping.set()

    def run(self) -> None:
        """Beat until stopped; no error ends this thread."""
        while not self._stopping.is_set():
            began = monotonic()
            self._vitals.heartbeat_tried()
            try:
                self._beat(began)
                pause = self._beat_seconds
            except Exception as error:
                self._missed(error)
                pause = min(0.5, self._beat_seconds)
            self._stopping.wait(pause * (0.9 + 0.2 * random()))
        if self._connection is not None:
            self._connection.close()

    def _beat(self, began: float) -> None:
        connection = self._connected()
        worker_id = self.pulse.worker_id
        vitals = self._vitals
        deaf = {
            str(one.job_id): {"seconds": round(one.seconds, 1), "thread": one.in_thread}
            for one in vitals.deaf
        }
        if worker_id is not None and workers.beat(
            connection, self._schema, worker_id, vitals.running, vitals.draining, deaf
        ):
            gap = began - self.pulse.beaten_at > self._stop_seconds
            since = began if gap else self.pulse.unbroken_since
            self.pulse = Pulse(worker_id, began, since)
            self._vitals.heartbeat_succeeded()
            return
        fresh = uuid4()
        workers.register(connection, self._schema, {"id": fresh, **_columns(self._identity)})
        self.pulse = Pulse(fresh, began, began)
        if worker_id is not None:
            log.warning(events.WORKER_REPLACED, old=str(worker_id), new=str(fresh))
        self._vitals.worker_id = fresh
        self._vitals.heartbeat_succeeded()

    def _missed(self, error: Exception) -> None:
        log.warning(
            events.HEARTBEAT_MISSED,
            error=str(error).splitlines()[0] if str(error) else type(error).__name__,
            age_seconds=round(self.age_seconds(), 1) if self.pulse.worker_id else None,
        )
        self.pulse = replace(self.pulse, unbroken_since=float("inf"))
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                application_name="jobsworth heartbeat",
                prepare_threshold=None,
                # A cut network must not hang a beat for longer than attempts may go on without.
                keepalives_idle=2,
                keepalives_interval=2,
                keepalives_count=2,
                tcp_user_timeout=6000,
            )
            self._connection.execute(
                "select set_config('statement_timeout', %s, false)",
                (str(BEAT_TIMEOUT_MILLISECONDS),),
            )
        return self._connection


def _columns(identity: Identity) -> dict[str, Any]:
    return {
        "host": identity.host,
        "pid": identity.pid,
        "version": identity.version,
        "modes": list(identity.modes),
        "queues": list(identity.queues),
        "slots": identity.slots,
    }
