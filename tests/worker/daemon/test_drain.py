"""How a daemon ends: it drains, it gives back, it hurries, and it never waits for a thread."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from uuid import UUID

import pytest

from tests.chaos.nursery import Daemon
from tests.chaos.scene import QUICK, Scene
from tests.support import Workers

HANDLERS = {"JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings"}
DRAIN_LONG = HANDLERS | {"JOBSWORTH_DRAIN_SECONDS": "60"}
DRAIN_SHORT = HANDLERS | {"JOBSWORTH_DRAIN_SECONDS": "0.3"}

WORKERS = "select count(*) from jobsworth.workers"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_draining_daemon_finishes_its_jobs_and_claims_no_more(
    scene: Scene, number: signal.Signals
) -> None:
    daemon, running = _running(scene, DRAIN_LONG, "chaos.hold")
    os.kill(daemon.pid, number)
    daemon.wait_for("daemon.draining", running=1)
    late = scene.enqueue("chaos.hold")
    scene.open_gate()
    assert daemon.wait() == 0
    assert scene.job(running)["status"] == "done"
    assert (scene.job(late)["status"], scene.job(late)["attempt"]) == ("queued", 0)
    assert scene.value(WORKERS) == 0


def test_what_outlives_the_drain_is_given_back_without_a_burnt_try(scene: Scene) -> None:
    daemon, running = _running(scene, DRAIN_SHORT, "chaos.hold")
    daemon.terminate()
    assert daemon.wait() == 0
    daemon.wait_for("jobs.released", jobs=1, kept=0)
    row = scene.job(running)
    assert (row["status"], row["failures"], row["crashes"]) == ("queued", 0, 0)
    scene.start(HANDLERS)
    assert scene.until_status(running, "done")["attempt"] == 2


def test_a_second_signal_gives_back_at_once(scene: Scene) -> None:
    daemon, running = _running(scene, DRAIN_LONG, "chaos.hold")
    daemon.terminate()
    daemon.wait_for("daemon.draining")
    daemon.terminate()
    assert daemon.wait(20) == 0
    row = scene.job(running)
    assert (row["status"], row["failures"], row["crashes"]) == ("queued", 0, 0)


def test_a_thread_that_will_not_end_does_not_keep_the_daemon(scene: Scene) -> None:
    daemon, running = _running(scene, DRAIN_SHORT, "end.thread")
    daemon.terminate()
    assert daemon.wait(20) == 0
    daemon.wait_for("daemon.stopped", kept=1)
    assert scene.job(running)["status"] == "running"
    scene.open_gate()
    scene.start(HANDLERS)
    ended = scene.until_status(running, "done")
    assert (ended["attempt"], ended["crashes"]) == (2, 1)


def test_a_process_is_killed_when_its_job_is_given_back(scene: Scene) -> None:
    daemon = scene.start(DRAIN_SHORT)
    job_id = scene.enqueue("process.never")
    pids = scene.until_pids(1)
    daemon.terminate()
    assert daemon.wait() == 0
    scene.until_gone(pids)
    assert scene.job(job_id)["status"] == "queued"


def test_an_idle_daemon_ends_at_once(scene: Scene) -> None:
    daemon = scene.start(DRAIN_LONG)
    daemon.wait_for("daemon.ready")
    daemon.terminate()
    assert daemon.wait(20) == 0
    assert [record["exit_code"] for record in daemon.events("daemon.stopped")] == [0]


def test_the_command_itself_drains_on_sigterm(
    database_url: str, tmp_path: Path, workers: Workers, scene: Scene
) -> None:
    """The same as above, but for nothing forked: `python -m worker.cli worker` from its start."""
    env = QUICK | DRAIN_LONG | {"JOBSWORTH_CHAOS_DIR": str(tmp_path)}
    worker = workers.start(database_url, env)
    running = scene.enqueue("chaos.hold")
    worker.wait_for("daemon.ready", seconds=30)
    scene.until_noted("began", running, 1)
    worker.terminate()
    worker.wait_for("daemon.draining", running=1)
    scene.open_gate()
    assert worker.wait() == 0
    assert scene.job(running)["status"] == "done"


def _running(scene: Scene, env: dict[str, str], mode: str) -> tuple[Daemon, UUID]:
    """A daemon in the middle of a job."""
    daemon = scene.start(env)
    job_id = scene.enqueue(mode)
    scene.until_noted("began", job_id, 1)
    return daemon, job_id
