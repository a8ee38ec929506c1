"""The database goes away under load, politely and not; the daemons come back by themselves."""

from __future__ import annotations

import pytest

from db.server.embedded import Embedded, StopMode
from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import check_everything, check_lanes
from tests.support import until_sync

pytestmark = [pytest.mark.chaos, pytest.mark.own_server, pytest.mark.both]

MODES: tuple[StopMode, ...] = ("fast", "immediate", "immediate")
LANES = 4
DONE_BETWEEN = 15

# An immediate stop loses what was committed asynchronously: the tests' servers do that for speed.
SYNCHRONOUS = """
do $$ begin
  execute format('alter database %I set synchronous_commit = on', current_database());
end $$
"""
DONE = "select count(*) from jobsworth.reactive_jobs where status = 'done'"
CRASHES = "select id, crashes from jobsworth.reactive_jobs where crashes > 0"


def test_restarts_under_load_lose_and_double_nothing(scene: Scene, server: Embedded) -> None:
    scene.conn.execute(SYNCHRONOUS)
    scene.conn.close()
    threads = [scene.thread() for _ in range(LANES)]
    daemons = [scene.start(), scene.start()]
    for number, mode in enumerate(MODES):
        for n in range(4):
            for thread in threads:
                work = {"n": 10 * number + n, "children": n % 2}
                scene.enqueue("chaos.work", work, thread_id=thread)
                scene.enqueue("chaos.work", work | {"ask": True}, thread_id=thread, lane="")
        _until_done(scene, DONE_BETWEEN)
        server.restart(mode)
        scene.conn.close()
    scene.until_all_ended(180)
    check_everything(scene)
    check_lanes(scene, killed_at_ns={})
    _check_recovered(scene, daemons)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_after_a_long_outage_nobody_is_rescued_in_error(
    scene: Scene, server: Embedded, mode: StopMode
) -> None:
    scene.conn.execute(SYNCHRONOUS)
    scene.conn.close()
    daemons = [scene.start({"JOBSWORTH_SLOTS": "3"}) for _ in range(2)]
    held = [scene.enqueue("chaos.hold") for _ in range(6)]
    for job_id in held:
        scene.until_noted("began", job_id, 1)
    scene.conn.close()
    server.stop(mode)
    for daemon in daemons:
        daemon.wait_for("attempts.stopped", jobs=3)
    server.restart()
    for job_id in held:
        scene.until_status(job_id, "done")
    _check_recovered(scene, daemons)


def test_a_daemon_comes_up_before_its_database(scene: Scene, server: Embedded) -> None:
    scene.conn.close()
    server.stop()
    daemon = scene.start()
    daemon.wait_for("database.lost")
    server.restart()
    daemon.wait_for("daemon.ready")
    scene.until_status(scene.enqueue("chaos.child", {"n": 1}), "done")


def test_a_daemon_waiting_for_its_database_can_be_stopped(scene: Scene, server: Embedded) -> None:
    scene.conn.close()
    server.stop()
    daemon = scene.start()
    daemon.wait_for("database.lost")
    daemon.terminate()
    assert daemon.wait(10) == 0


def _until_done(scene: Scene, more: int) -> None:
    before = scene.value(DONE)

    def done() -> bool:
        scene.decide()
        return scene.value(DONE) >= before + more

    until_sync(done, 180, "work between two restarts")


def _check_recovered(scene: Scene, daemons: list[Daemon]) -> None:
    """Nobody was taken for dead, and every daemon works."""
    assert scene.rows(CRASHES) == []
    for daemon in daemons:
        assert daemon.running, daemon.tail()
        assert not daemon.events("jobs.rescued")
        assert not daemon.events("worker.replaced")
