"""Notifications are hints: with them jobs start at once, without them within a poll interval."""

from __future__ import annotations

from tests.chaos.scene import Scene
from tests.support import connect, until_sync

NO_POLL = {"JOBSWORTH_POLL_SECONDS": "60"}
CUT = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name = 'jobsworth listen'
"""
LISTENS = """
select exists (select from pg_stat_activity
  where datname = current_database() and application_name = 'jobsworth listen')
"""
IDLE = "select coalesce(bool_and(idle), false) from jobsworth.workers"


def test_an_idle_worker_is_told_of_work(scene: Scene) -> None:
    scene.start(NO_POLL)
    until_sync(lambda: scene.value(IDLE) and scene.value(LISTENS))
    for _ in range(3):
        scene.until_status(scene.enqueue("chaos.child", {"n": 1}), "done")


def test_a_plain_insert_tells_it_as_well(scene: Scene) -> None:
    scene.start(NO_POLL)
    until_sync(lambda: scene.value(IDLE) and scene.value(LISTENS))
    job_id = scene.value(
        """insert into jobsworth.reactive_jobs (mode, payload)
        values ('chaos.child', '{"n": 1}') returning id"""
    )
    scene.until_status(job_id, "done")


def test_a_cut_listener_costs_a_poll_interval_and_comes_back(scene: Scene) -> None:
    daemon = scene.start({"JOBSWORTH_POLL_SECONDS": "0.5"})
    until_sync(lambda: scene.value(LISTENS))
    scene.conn.execute(CUT)
    daemon.wait_for("listen.lost")
    scene.until_status(scene.enqueue("chaos.child", {"n": 1}), "done")
    daemon.wait_for("listen.recovered")


def test_what_comes_while_nobody_listens_is_found_when_the_listener_is_back(scene: Scene) -> None:
    daemon = scene.start(NO_POLL)
    until_sync(lambda: scene.value(IDLE) and scene.value(LISTENS))
    daemon.pause()
    scene.conn.execute(CUT)
    until_sync(lambda: not scene.value(LISTENS))
    job_id = scene.enqueue("chaos.child", {"n": 1})
    daemon.resume()
    daemon.wait_for("listen.recovered")
    scene.until_status(job_id, "done")


def test_a_busy_worker_is_not_notified(scene: Scene) -> None:
    scene.start({"JOBSWORTH_SLOTS": "1"})
    jobs = [scene.enqueue("chaos.hold") for _ in range(2)]
    scene.until_noted("began", jobs[0], 1)
    scene.conn.execute("update jobsworth.workers set idle = false")
    with connect(scene.url) as listener:
        listener.execute('listen "jobsworth.wake"')
        scene.enqueue("chaos.hold")
        scene.conn.execute("select pg_notify('jobsworth.wake', 'the end')")
        heard = [note.payload for note in listener.notifies(timeout=10, stop_after=1)]
    assert heard == ["the end"]


def test_a_promotion_is_claimed_at_once_whoever_has_room(scene: Scene) -> None:
    """Nobody polls: each worker takes what it promoted, or tells one that can."""
    for _ in range(3):
        scene.start(NO_POLL | {"JOBSWORTH_SLOTS": "1"})
    until_sync(lambda: scene.value("select count(*) from jobsworth.workers where idle") == 3)
    jobs = [
        scene.enqueue("chaos.child", {"n": n}, lane=f"lane {lane}")
        for lane in range(3)
        for n in range(5)
    ]
    for job_id in jobs:
        scene.until_status(job_id, "done")


def test_a_due_timer_wakes_a_worker_that_can_run_the_job(scene: Scene) -> None:
    scene.start(NO_POLL | {"JOBSWORTH_HANDLERS": "tests.worker.endings"})
    scene.start(NO_POLL)
    until_sync(lambda: scene.value("select count(*) from jobsworth.workers where idle") == 2)
    job_id = scene.enqueue("end.sleep", {"seconds": 0.01}, delay="0.2 seconds")
    scene.until_status(job_id, "done")
