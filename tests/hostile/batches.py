"""Run hostile cases against one real daemon, beside neighbours, and tell how each ended.

A case is a place (`handlers.ASYNC_PLACES`, `PLAIN_PLACES`) and a deed (`deeds`, `loop_deeds`).
`CASES` is the whole grammar. `run_batch` holds what must be true of every batch: the daemon lives
under its first worker id, each case ends with a reason that a person can read, no neighbour fails
or crashes, no invariant is broken, and SIGTERM still ends the daemon with exit code 0.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import VIOLATIONS
from tests.hostile.deeds import ANYWHERE
from tests.hostile.handlers import ASYNC_PLACES, PLAIN_PLACES, mode_of
from tests.hostile.loop_deeds import IN_THE_LOOP
from tests.support import until_sync

SETTINGS = {
    "JOBSWORTH_HANDLERS": "tests.hostile.handlers",
    "JOBSWORTH_SLOTS": "60",
    "JOBSWORTH_THREADS": "30",
    "JOBSWORTH_POLL_SECONDS": "0.1",
    # Of a daemon that is not in a hurry: these cases shall not pass because of a rescue.
    "JOBSWORTH_HEARTBEAT_SECONDS": "0.5",
    "JOBSWORTH_LEASE_STOP_SECONDS": "60",
    "JOBSWORTH_RESCUE_SECONDS": "90",
}
BATCH_SECONDS = 240.0
END_SECONDS = 120.0
TOLD_SECONDS, TOLD_MAX = 5.0, 5


class Case(NamedTuple):
    """A deed, and where it is done."""

    place: str
    deed: str

    def __str__(self) -> str:
        return f"{self.deed} in {self.place}"


class Ended(NamedTuple):
    """How the job of a case ended."""

    case: Case
    status: str
    error: str | None
    result: Any


# Closes the numbers of the standard streams: a connection may have them by now, if a deed of the
# same batch closed them before.
ALONE = ("close stream objects",)
CASES: list[Case] = [
    *(
        Case(place, deed)
        for place in (*ASYNC_PLACES, *PLAIN_PLACES)
        for deed in ANYWHERE
        if deed not in ALONE
    ),
    *(Case(place, deed) for place in ASYNC_PLACES for deed in IN_THE_LOOP),
]


def run_batch(
    scene: Scene, cases: Sequence[Case], settings: Mapping[str, str] | None = None
) -> list[Ended]:
    """Run these cases in one daemon, with a neighbour for each; how each ended, in their order."""
    daemon = scene.start(SETTINGS | dict(settings or {}))
    worker_id = _worker_id(scene, daemon)
    jobs: list[UUID] = []
    neighbours: list[UUID] = []
    for n, case in enumerate(cases):
        payload = {"place": case.place, "deed": case.deed}
        jobs.append(scene.enqueue(mode_of(case.place), payload, failures_max=1))
        mode = "hostile.neighbour_thread" if n % 4 == 3 else "hostile.neighbour"
        neighbours.append(scene.enqueue(mode, {"n": n}))
    _await_ends(scene, daemon, [*jobs, *neighbours], cases)
    ended = [_ended(scene, job, case) for job, case in zip(jobs, cases, strict=True)]
    _check_neighbours(scene, daemon, neighbours)
    assert _worker_id(scene, daemon) == worker_id, "the worker was taken for dead"
    assert scene.rows(VIOLATIONS) == []
    assert [one for one in ended if one.status != "done" and not one.error] == []
    _tell_to_end(daemon)
    code = daemon.wait(END_SECONDS)
    assert code == 0, f"exit code {code} after SIGTERM\n{daemon.tail()}"
    return ended


def _tell_to_end(daemon: Daemon) -> None:
    """SIGTERM, and again: a deed may have it ignored just now, until the daemon takes it back."""
    for _ in range(TOLD_MAX):
        daemon.terminate()
        give_up = time.monotonic() + TOLD_SECONDS
        while time.monotonic() < give_up:
            if daemon.events("daemon.draining") or not daemon.running:
                return
            time.sleep(0.05)


def _await_ends(scene: Scene, daemon: Daemon, jobs: list[UUID], cases: Sequence[Case]) -> None:
    def all_ended() -> bool:
        assert daemon.running, f"the daemon ended\n{daemon.tail()}"
        return not _open(scene, jobs)

    try:
        until_sync(all_ended, BATCH_SECONDS, "every case and every neighbour has ended")
    except AssertionError as error:
        rows = [scene.job(job) for job in _open(scene, jobs)[:10]]
        left = [(row["mode"], row["payload"], row["status"], row["waiting_for"]) for row in rows]
        raise AssertionError(f"{error}\nopen: {left}\n{daemon.tail()}") from None


def _open(scene: Scene, jobs: list[UUID]) -> list[UUID]:
    rows = scene.rows(
        "select id from jobsworth.reactive_jobs where id = any(%(ids)s) and finished_at is null"
        " and not (status = 'waiting' and waiting_for = 'person')"
        " and not (status = 'waiting' and run_at > now() + interval '10 minutes')",
        {"ids": jobs},
    )
    return [row["id"] for row in rows]


def _ended(scene: Scene, job_id: UUID, case: Case) -> Ended:
    row = scene.job(job_id)
    error = row["error"]
    if row["status"] in ("waiting", "running", "queued"):
        error = scene.value("select detail from jobsworth.why(%(id)s)", {"id": job_id})
    assert row["crashes"] == 0, f"{case}: {row}"
    return Ended(case, row["status"], error, row["result"])


def _check_neighbours(scene: Scene, daemon: Daemon, neighbours: list[UUID]) -> None:
    bad = scene.rows(
        "select id, mode, status, failures, crashes, attempt, error from jobsworth.reactive_jobs"
        " where id = any(%(ids)s) and (status <> 'done' or failures > 0 or crashes > 0)",
        {"ids": neighbours},
    )
    harmed = {str(row["id"]) for row in bad}
    said = [record for record in daemon.records if record.get("job_id") in harmed]
    assert bad == [], f"neighbours that were not left alone: {bad}\nthe log of them: {said}"


def _worker_id(scene: Scene, daemon: Daemon) -> UUID:
    query = "select id from jobsworth.workers where pid = %(pid)s"
    return until_sync(lambda: scene.value(query, {"pid": daemon.pid}), 30, "the worker's row")
