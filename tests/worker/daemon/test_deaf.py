"""An attempt that does not end when it is told to: its job says so, since when, and what helps."""

from __future__ import annotations

import re
from uuid import UUID

import pytest

from tests.chaos.scene import Scene
from tests.support import run_cli, until_sync

HANDLERS = {"JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings"}
TOLD = r"was told to end at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC and cannot be stopped: "


@pytest.mark.parametrize(
    ("mode", "timeout_seconds", "reason"),
    [
        ("end.thread", "0.2", "its thread has not returned"),
        ("end.deaf", "0.2", "its handler takes no notice"),
        ("end.swallow", "0.2", "its handler takes no notice"),
        # Nobody stops the attempt: its handler has ended, and what it left was told to end.
        ("end.leave_deaf", "3600", "its handler takes no notice"),
    ],
)
def test_why_and_job_show_say_that_an_attempt_cannot_be_stopped(
    scene: Scene, mode: str, timeout_seconds: str, reason: str
) -> None:
    daemon = scene.start(HANDLERS)
    job_id = scene.enqueue(mode, timeout_seconds=timeout_seconds, failures_max=1)

    def told() -> bool:
        return "cannot be stopped" in _why(scene, job_id)["detail"]

    until_sync(told, 60)
    why = _why(scene, job_id)
    assert re.search(TOLD + reason, why["detail"])
    assert why["remedy"].startswith(f"wait until it returns, or end process {daemon.pid} on ")
    shown = " ".join(run_cli("job", "show", str(job_id), url=scene.url).stdout.split())
    assert reason in shown
    assert f"end process {daemon.pid} on " in shown
    scene.open_gate()
    scene.until_status(job_id, "done", "failed", seconds=60)


def test_slots_full_of_handlers_that_take_no_notice_end_the_worker(scene: Scene) -> None:
    daemon = scene.start(HANDLERS | {"JOBSWORTH_SLOTS": "2"})
    for _ in range(2):
        scene.enqueue("end.swallow", timeout_seconds="0.2")
    stuck = daemon.wait_for("slots.stuck", seconds=90)
    assert (stuck["slots"], stuck["modes"]) == (2, ["end.swallow"])
    assert daemon.wait(60) == 70


def _why(scene: Scene, job_id: UUID) -> dict[str, str]:
    [why] = scene.rows("select * from jobsworth.why(%(id)s)", {"id": job_id})
    return why
