"""One job kills its worker, again and again; the jobs beside it end done."""

from __future__ import annotations

import pytest

from tests.chaos.scene import Scene
from tests.chaos.verdict import VIOLATIONS
from tests.support import until_sync

pytestmark = pytest.mark.chaos

INNOCENTS = 12
CRASHES_MAX = 5
SURROUNDINGS = {
    "JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings",
    "JOBSWORTH_SLOTS": str(INNOCENTS + 1),
    "JOBSWORTH_CRASHES_MAX": str(CRASHES_MAX),
}
OPEN = "select count(*) from jobsworth.reactive_jobs where finished_at is null"
KILL = """
insert into jobsworth.reactive_jobs (mode, payload, priority) values ('end.poison', '{}', 4)
returning id
"""


def test_the_job_that_kills_its_worker_fails_and_no_other(scene: Scene) -> None:
    innocents = [scene.enqueue("chaos.hold", {"times": CRASHES_MAX}) for _ in range(INNOCENTS)]
    killer = scene.value(KILL)
    deaths = 0
    while scene.value(OPEN):
        daemon = scene.start(SURROUNDINGS)
        until_sync(lambda daemon=daemon: not daemon.running or not scene.value(OPEN), 30)
        deaths += not daemon.running
        if deaths == CRASHES_MAX - 1:
            scene.open_gate()
    assert deaths == CRASHES_MAX
    assert (scene.job(killer)["status"], scene.job(killer)["crashes"]) == ("failed", CRASHES_MAX)
    ended = [scene.job(job_id) for job_id in innocents]
    assert [(one["status"], one["failures"]) for one in ended] == [("done", 0)] * INNOCENTS
    assert scene.rows(VIOLATIONS) == []


def test_a_job_that_kills_its_worker_out_of_a_batch_fails_and_no_other(scene: Scene) -> None:
    surroundings = SURROUNDINGS | {"JOBSWORTH_CRASHES_MAX": "2"}
    members = [scene.enqueue("chaos.batch", {"n": n, "kills": n == 1}) for n in range(4)]
    deaths = 0
    while scene.value(OPEN):
        daemon = scene.start(surroundings)
        until_sync(lambda daemon=daemon: not daemon.running or not scene.value(OPEN), 30)
        deaths += not daemon.running
    ended = [scene.job(job_id) for job_id in members]
    killer = ended.pop(1)
    assert [(one["status"], one["result"], one["error"]) for one in ended] == [
        ("done", n, None) for n in (0, 2, 3)
    ]
    assert (killer["status"], killer["crashes"]) == ("failed", 2)
    assert "worker" in killer["error"]
    assert [one["failures"] for one in ended] == [0] * 3
    assert scene.rows(VIOLATIONS) == []


def test_three_kills_of_a_healthy_worker_make_nothing_wait(scene: Scene) -> None:
    jobs = [scene.enqueue("chaos.hold", {"times": CRASHES_MAX}) for _ in range(INNOCENTS)]
    slow = SURROUNDINGS | {
        "JOBSWORTH_RETRY_BASE_SECONDS": "600",
        "JOBSWORTH_RETRY_MAX_SECONDS": "600",
    }
    for attempt in (1, 2, 3, 4):
        daemon = scene.start(slow)
        for job_id in jobs:
            scene.until_noted("began", job_id, attempt)
        if attempt < 4:
            daemon.kill()
    scene.open_gate()
    for job_id in jobs:
        assert scene.until_status(job_id, "done")["crashes"] == 3
