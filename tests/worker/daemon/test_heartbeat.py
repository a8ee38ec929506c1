"""The heartbeat: who lives, who is declared dead, and what either finds out about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest

from db.server.embedded import Embedded
from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import VIOLATIONS
from tests.support import until_sync

HANDLERS = {"JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings"}
CUT = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name = 'jobsworth heartbeat'
"""
CLOCK = """
create function public.clock() returns trigger language plpgsql as $$
begin
  new.beaten_at := now() """
CLOCK_END = """;
  return new;
end $$
"""
ON_BEAT = """
create trigger clock before insert or update of beaten_at on jobsworth.workers
for each row execute function public.clock()
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


PATIENT = HANDLERS | {"JOBSWORTH_RESCUE_SECONDS": "600"}
RESTING = HANDLERS | {"JOBSWORTH_SLOTS": "1", "JOBSWORTH_QUEUES": "elsewhere"}


def test_a_missed_heartbeat_does_not_keep_a_worker_from_rescuing(scene: Scene) -> None:
    doomed, job_id = _running(scene)
    judge = _beating(scene, HANDLERS)
    _tell_no_process(scene)
    scene.conn.execute(CUT)
    judge.wait_for("heartbeat.missed")
    doomed.kill()
    judge.wait_for("jobs.rescued", jobs=1)
    assert scene.until_status(job_id, "done")["attempt"] == 2


@pytest.mark.own_server
def test_after_a_restart_of_the_server_workers_rescue_as_before(
    scene: Scene, server: Embedded
) -> None:
    doomed, job_id = _running(scene)
    judge = _beating(scene, HANDLERS)
    _tell_no_process(scene)
    scene.conn.close()
    server.restart("fast")
    for daemon in (doomed, judge):
        daemon.wait_for("database.lost")
        daemon.wait_for("database.recovered")
    doomed.kill()
    judge.wait_for("jobs.rescued", jobs=1)
    assert scene.until_status(job_id, "done")["attempt"] == 2


@pytest.mark.parametrize("off", ["- interval '1 hour'", "+ interval '1 hour'"])
def test_no_clock_makes_a_worker_dead_or_hides_that_it_is(scene: Scene, off: LiteralString) -> None:
    """The server's clock has jumped: every heartbeat seems an hour old, or is to come."""
    scene.conn.execute(CLOCK + off + CLOCK_END)
    scene.conn.execute(ON_BEAT)
    living, job_id = _running(scene)
    doomed = _beating(scene, RESTING)
    other = scene.enqueue("chaos.hold", queue="elsewhere")
    scene.until_noted("began", other, 1)
    _tell_no_process(scene)
    doomed.kill()
    scene.start(RESTING)
    scene.until_status(other, "done")
    scene.open_gate()
    ended = scene.until_status(job_id, "done")
    assert (ended["attempt"], ended["crashes"]) == (1, 0)
    assert not living.events("worker.replaced")


def test_the_jobs_of_a_process_that_is_gone_run_again_at_once(scene: Scene) -> None:
    """A supervisor has started a worker again on the same machine."""
    doomed = scene.start(PATIENT)
    jobs = [scene.enqueue("chaos.hold") for _ in range(3)]
    for job_id in jobs:
        scene.until_noted("began", job_id, 1)
    doomed.kill()
    heir = scene.start(PATIENT)
    for job_id in jobs:
        ended = scene.until_status(job_id, "done")
        assert (ended["attempt"], ended["crashes"]) == (2, 1)
    assert heir.events("jobs.rescued", jobs=3)


def test_a_process_that_stands_still_keeps_its_jobs_while_it_may(scene: Scene) -> None:
    """Another worker on the same machine sees that the process is there."""
    stopped, job_id = _running(scene, PATIENT | {"JOBSWORTH_LEASE_STOP_SECONDS": "300"})
    stopped.pause()
    other = _beating(scene, PATIENT)
    _let_beats_pass(scene, other, 10)
    assert scene.job(job_id)["attempt"] == 1
    stopped.resume()
    scene.open_gate()
    assert scene.until_status(job_id, "done")["attempt"] == 1


def _tell_no_process(scene: Scene) -> None:
    """As if each daemon ran on a machine of its own: nobody sees the others' processes."""
    scene.conn.execute("update jobsworth.workers set pid_space = null")


def _beating(scene: Scene, env: Mapping[str, str]) -> Daemon:
    """A daemon whose heart has begun to beat."""
    daemon = scene.start(env)
    until_sync(lambda: scene.rows(WORKER, {"pid": daemon.pid}), 20)
    return daemon


def _running(scene: Scene, env: Mapping[str, str] = HANDLERS) -> tuple[Daemon, UUID]:
    """A daemon whose job waits at the gate."""
    daemon = scene.start(env)
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
