"""A worker is stopped past its rescue and goes on: it writes nothing that is not its own.

A prompt zombie looks at its own clock and stops its attempts. A late one (its clock is set not to
matter) goes on writing: then the fence alone must hold.
"""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import VIOLATIONS, effects_of
from tests.support import until_sync

pytestmark = [pytest.mark.chaos, pytest.mark.both]

PROMPT: dict[str, str] = {}
LATE = {"JOBSWORTH_LEASE_STOP_SECONDS": "300", "JOBSWORTH_RESCUE_SECONDS": "600"}
zombies = pytest.mark.parametrize("kind", [PROMPT, LATE], ids=["prompt", "late"])

CALLS = """
select c.attempt, c.status::text, c.request_id,
  (select count(*) from jobsworth.token_ledger l
   where l.call_id = c.id and l.entry = 'settle') as settled
from jobsworth.llm_calls c
where c.job_id = %(job_id)s
order by c.id
"""

ANSWER = "select s.output from jobsworth.steps s where s.job_id = %(job_id)s and s.name = %(name)s"
AFTER = "select s.name from jobsworth.steps s where s.job_id = %(job_id)s and s.name like 'after%%'"
HOLD_ROW = "select from jobsworth.reactive_jobs where id = %(id)s for no key update"


@zombies
def test_a_zombie_in_a_step_does_not_record_it(scene: Scene, kind: dict[str, str]) -> None:
    zombie, job_id = _caught(scene, kind, "step")
    heir = _bury(scene, zombie, job_id)
    recorded = _step(scene, job_id, "step")
    scene.open_gate()
    _rise(scene, zombie, job_id)
    assert _step(scene, job_id, "step") == recorded == scene.job(job_id)["result"]
    _check_only_the_heir_wrote(scene, job_id)
    _check_works(scene, zombie, heir)


@zombies
def test_a_zombie_in_a_call_settles_it_and_nothing_else(scene: Scene, kind: dict[str, str]) -> None:
    zombie, job_id = _caught(scene, kind, "call")
    heir = _bury(scene, zombie, job_id)
    answer = _step(scene, job_id, "call")
    scene.open_gate()
    _rise(scene, zombie, job_id)
    # One that nobody answers for is closed by upkeep.
    until_sync(lambda: all(call["settled"] for call in scene.rows(CALLS, {"job_id": job_id})), 90)
    first, second = scene.rows(CALLS, {"job_id": job_id})
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert (first["settled"], second["settled"]) == (1, 1)
    # The late one brings its answer into the books, unless somebody has closed the call before.
    brought = kind is LATE and not heir.events("calls.abandoned")
    assert first["status"] in (("ok",) if brought else ("ok", "unknown"))
    assert answer == second["request_id"] == _step(scene, job_id, "call")
    _check_only_the_heir_wrote(scene, job_id)
    _check_works(scene, zombie, heir)


@zombies
def test_a_zombie_that_finishes_finishes_nothing(scene: Scene, kind: dict[str, str]) -> None:
    zombie, job_id = _caught(scene, kind, "return", stopped=False)
    with scene.conn.transaction():
        # What somebody holds is left for the next batch: the finish is tried again and again.
        scene.conn.execute(HOLD_ROW, {"id": job_id})
        scene.open_gate()
        scene.until_noted("left", job_id, 1)
        zombie.pause()
    heir = _bury(scene, zombie, job_id)
    _rise(scene, zombie, job_id)
    _check_only_the_heir_wrote(scene, job_id)
    _check_works(scene, zombie, heir)


def _caught(
    scene: Scene, kind: dict[str, str], where: str, *, stopped: bool = True
) -> tuple[Daemon, UUID]:
    """A daemon, stopped in the middle of its first attempt of a job."""
    zombie = scene.start(kind)
    job_id = scene.enqueue("chaos.zombie", {"where": where}, thread_id=scene.thread())
    begun = {"step": "step", "call": "billed", "return": "billed"}[where]
    scene.until_noted(begun, job_id, 1)
    if stopped:
        zombie.pause()
    return zombie, job_id


def _bury(scene: Scene, zombie: Daemon, job_id: UUID) -> Daemon:
    """Another daemon takes the job, ends it, and removes the row of the dead one."""
    heir = scene.start()
    ended = scene.until_status(job_id, "done")
    assert (ended["attempt"], ended["crashes"]) == (2, 1)
    gone = "select not exists (select from jobsworth.workers where pid = %(pid)s)"
    until_sync(lambda: scene.value(gone, {"pid": zombie.pid}), 15, "burial")
    return heir


def _rise(scene: Scene, zombie: Daemon, job_id: UUID) -> None:
    """The stopped daemon goes on, finds out, and is done with the job."""
    zombie.resume()
    zombie.wait_for("worker.replaced")
    zombie.wait_for("attempt.lease_lost", job_id=str(job_id))
    scene.until_noted("left", job_id, 1)


def _step(scene: Scene, job_id: UUID, name: str) -> str:
    return scene.value(ANSWER, {"job_id": job_id, "name": name})


def _check_only_the_heir_wrote(scene: Scene, job_id: UUID) -> None:
    job = scene.job(job_id)
    assert [row["name"] for row in scene.rows(AFTER, {"job_id": job_id})] == ["after 2"]
    assert (job["status"], job["attempt"]) == ("done", 2)
    assert effects_of(scene, job_id) == {
        "messages": ["said by attempt 2"],
        "artifacts": ["saved by attempt 2"],
        "followups": ["2"],
    }
    assert scene.rows(VIOLATIONS) == []


def _check_works(scene: Scene, zombie: Daemon, heir: Daemon) -> None:
    """The one that rose works on under its new id."""
    heir.kill()
    job_id = scene.enqueue("chaos.child", {"n": 1})
    worker_id = zombie.wait_for("worker.replaced")["new"]
    assert str(scene.until_status(job_id, "done")["worker_id"]) == worker_id
    assert zombie.running
