"""The heartbeat: who lives, who is declared dead, and what either finds out about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import VIOLATIONS
from tests.support import until_sync

HANDLERS = {"JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings"}
CUT = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name = 'jobsworth heartbeat'
"""
WORKER = "select id, modes, queues, slots, running from jobsworth.workers where pid = %(pid)s"


def test_a_worker_says_who_it_is_and_what_it_knows(scene: Scene) -> None:
    daemon = scene.start(HANDLERS | {"JOBSWORTH_QUEUES": "default,other", "JOBSWORTH_SLOTS": "3"})
    job_id = scene.enqueue("chaos.hold")
    scene.until_noted("began", job_id, 1)
    until_sync(lambda: _worker(scene, daemon)["running"] == 1)
    row = _worker(scene, daemon)
    assert (row["queues"], row["slots"]) == (["default", "other"], 3)
    assert {"chaos.hold", "end.return", "answer"} <= set(row["modes"])


def test_a_cut_connection_costs_no_job_and_no_name(scene: Scene) -> None:
    daemon, job_id = _running(scene)
    name = _worker(scene, daemon)["id"]
    scene.conn.execute(CUT)
    daemon.wait_for("heartbeat.missed")
    _let_beats_pass(scene, daemon, 2)
    assert _worker(scene, daemon)["id"] == name
    scene.open_gate()
    ended = scene.until_status(job_id, "done")
    assert (ended["attempt"], ended["worker_id"]) == (1, name)
    assert not daemon.events("attempts.stopped")


def test_a_worker_whose_row_is_gone_stops_its_jobs_and_takes_a_new_name(scene: Scene) -> None:
    daemon, job_id = _running(scene)
    old = _worker(scene, daemon)["id"]
    scene.conn.execute("delete from jobsworth.workers")
    replaced = daemon.wait_for("worker.replaced", old=str(old))
    daemon.wait_for("attempts.stopped", reason="declared dead")
    daemon.wait_for("attempt.lease_lost", job_id=str(job_id))
    ended = scene.until_status(job_id, "done")
    assert (ended["attempt"], ended["crashes"]) == (2, 1)
    assert str(ended["worker_id"]) == replaced["new"]
    assert scene.rows(VIOLATIONS) == []


def test_a_blocked_event_loop_does_not_lose_its_neighbours_leases(scene: Scene) -> None:
    daemon, neighbour = _running(scene)
    scene.start(HANDLERS).wait_for("daemon.ready")
    scene.conn.execute("update jobsworth.workers set queues = '{}' where pid <> %s", [daemon.pid])
    blocking = scene.enqueue("end.block", {"seconds": 6})
    scene.until_noted("left", blocking, 1)
    scene.open_gate()
    for job_id in (neighbour, blocking):
        ended = scene.until_status(job_id, "done")
        assert (ended["attempt"], ended["crashes"]) == (1, 0)
    assert not daemon.events("attempts.stopped")
    assert not daemon.events("worker.replaced")


def test_only_a_worker_that_has_itself_beaten_long_enough_rescues(scene: Scene) -> None:
    scene.conn.execute(
        "insert into jobsworth.reactive_jobs (mode) values ('chaos.hold')",
    )
    scene.conn.execute(
        "update jobsworth.reactive_jobs set status = 'running', lease_no = 1, attempt = 1,"
        " worker_id = %s, started_at = now() - interval '1 hour'",
        [uuid4()],
    )
    rescuer = scene.start(HANDLERS | {"JOBSWORTH_RESCUE_SECONDS": "4"})
    rescued = rescuer.wait_for("jobs.rescued", jobs=1)
    ready = rescuer.wait_for("daemon.ready")
    assert _seconds_between(ready, rescued) >= 3.9


def _running(scene: Scene) -> tuple[Daemon, UUID]:
    """A daemon whose job waits at the gate."""
    daemon = scene.start(HANDLERS)
    job_id = scene.enqueue("chaos.hold")
    scene.until_noted("began", job_id, 1)
    return daemon, job_id


def _worker(scene: Scene, daemon: Daemon) -> dict[str, Any]:
    [row] = scene.rows(WORKER, {"pid": daemon.pid})
    return row


def _let_beats_pass(scene: Scene, daemon: Daemon, beats: int) -> None:
    beaten = "select beaten_at from jobsworth.workers where pid = %(pid)s"
    for _ in range(beats):
        before = scene.value(beaten, {"pid": daemon.pid})
        until_sync(lambda before=before: scene.value(beaten, {"pid": daemon.pid}) != before)


def _seconds_between(earlier: dict[str, str], later: dict[str, str]) -> float:
    first, second = (datetime.fromisoformat(record["timestamp"]) for record in (earlier, later))
    return (second - first).total_seconds()
