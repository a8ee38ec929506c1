"""What handlers change of the process around them: its streams and its environment."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.chaos.scene import Scene

CALM = {
    "JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings,tests.hostile.handlers",
    "JOBSWORTH_LEASE_STOP_SECONDS": "60",
    "JOBSWORTH_RESCUE_SECONDS": "90",
}


def test_a_handler_that_closes_the_standard_streams_takes_no_log_line(scene: Scene) -> None:
    daemon = scene.start(CALM | {"JOBSWORTH_POOL_MIN": "1", "JOBSWORTH_POOL_MAX": "9"})
    deed = {"place": "handler", "deed": "close standard streams"}
    scene.until_status(scene.enqueue("hostile.async", deed), "done", seconds=60)
    jobs = [scene.enqueue("chaos.hold", {"times": 0}) for _ in range(20)]
    for job_id in jobs:
        ended = scene.until_status(job_id, "done", seconds=60)
        assert (ended["failures"], ended["attempt"]) == (0, 1)
    daemon.wait_for("attempt.ended", seconds=60, job_id=str(jobs[-1]))
    assert daemon.events("claim.failed") == []


@pytest.mark.parametrize("deed", ["no standard streams", "close stream objects"])
def test_a_handler_that_takes_the_streams_away_changes_no_exit_code(
    scene: Scene, deed: str
) -> None:
    daemon = scene.start(CALM)
    case = {"place": "handler", "deed": deed}
    scene.until_status(scene.enqueue("hostile.async", case), "done", seconds=60)
    daemon.terminate()
    assert daemon.wait(60) == 0


def test_the_watchdog_is_fed_without_the_environment(scene: Scene, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notified = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "500000"}
        scene.start(CALM | notified)
        deed = {"place": "handler", "deed": "no environment"}
        scene.until_status(scene.enqueue("hostile.async", deed), "done", seconds=60)
        manager.setblocking(False)
        try:
            while True:
                manager.recv(100)
        except BlockingIOError:
            manager.settimeout(60)
        fed = 0
        while fed < 3:
            fed += manager.recv(100) == b"WATCHDOG=1"  # beside what it says of its status
