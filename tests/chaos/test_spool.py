"""The database goes away while a paid answer is on its way; it is paid for once all the same."""

from __future__ import annotations

import signal
from pathlib import Path
from uuid import UUID

import pytest

from db.server.embedded import Embedded, StopMode
from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import check_no_violations
from tests.support import until_sync

pytestmark = [pytest.mark.chaos, pytest.mark.own_server, pytest.mark.both]

# As a real worker's is beside a restart of seconds: its attempts are not stopped meanwhile.
STEADY = {"JOBSWORTH_LEASE_STOP_SECONDS": "60", "JOBSWORTH_RESCUE_SECONDS": "61"}

# An immediate stop loses what was committed asynchronously: the tests' servers do that for speed.
SYNCHRONOUS = """
do $$ begin
  execute format('alter database %I set synchronous_commit = on', current_database());
end $$
"""
CALLS = """
select c.request_id, c.status::text, c.input_tokens, c.output_tokens,
  (select count(*) from jobsworth.token_ledger l
    where l.call_id = c.id and l.entry = 'settle') as settled
from jobsworth.llm_calls c
where c.job_id = %(id)s
"""
STEP = """
select s.output from jobsworth.steps s
where s.job_id = %(id)s and s.name = 'call' and s.finished_at is not null
"""


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_an_answer_that_meets_no_database_is_settled_when_it_is_back(
    scene: Scene, server: Embedded, mode: StopMode
) -> None:
    daemon, job_id = _caught_in_a_call(scene, STEADY)
    _stop(scene, server, mode)
    scene.open_gate()
    daemon.wait_for("spool.written", job_id=str(job_id))
    assert _files(scene)
    server.restart()
    scene.until_status(job_id, "done", seconds=60)
    _check_paid_once(scene, job_id)
    assert daemon.running


def test_an_answer_that_comes_long_after_its_attempt_lost_touch_is_kept(
    scene: Scene, server: Embedded
) -> None:
    """The attempt has to stop, and waits for its answer; the job goes on when that is settled."""
    daemon, job_id = _caught_in_a_call(scene)
    _stop(scene, server, "fast")
    daemon.wait_for("attempts.stopped", jobs=1)
    assert not daemon.events("attempt.lease_lost")
    scene.open_gate()
    daemon.wait_for("spool.written", job_id=str(job_id))
    server.restart()
    daemon.wait_for("attempt.lease_lost", job_id=str(job_id))
    scene.until_status(job_id, "done", seconds=60)
    _check_paid_once(scene, job_id)


def test_a_worker_that_dies_with_the_answer_on_disk_leaves_it_to_the_next_one(
    scene: Scene, server: Embedded
) -> None:
    daemon, job_id = _caught_in_a_call(scene, STEADY | {"JOBSWORTH_CRASH_POINT": "spool.written"})
    _stop(scene, server, "fast")
    scene.open_gate()
    assert daemon.wait() == -signal.SIGKILL
    assert _files(scene)
    server.restart()
    heir = scene.start()
    heir.wait_for("spool.drained", calls=1)
    scene.until_status(job_id, "done", seconds=60)
    _check_paid_once(scene, job_id)


def test_a_worker_that_dies_before_the_answer_is_on_disk_leaves_a_call_at_its_estimate(
    scene: Scene, server: Embedded
) -> None:
    daemon, job_id = _caught_in_a_call(scene, STEADY | {"JOBSWORTH_CRASH_POINT": "call.answered"})
    _stop(scene, server, "fast")
    scene.open_gate()
    assert daemon.wait() == -signal.SIGKILL
    assert _files(scene) == []
    server.restart()
    scene.start()
    scene.until_status(job_id, "done", seconds=60)
    until_sync(lambda: len(_settled(scene, job_id)) == 2, 30, "the abandoned call is settled")
    assert [(row[1:]) for row in _settled(scene, job_id)] == [
        ("unknown", 100, 50, 1),
        ("ok", 70, 30, 1),
    ]
    check_no_violations(scene)


def _caught_in_a_call(scene: Scene, env: dict[str, str] | None = None) -> tuple[Daemon, UUID]:
    """A daemon that waits for the answer to a call of its first attempt."""
    scene.conn.execute(SYNCHRONOUS)
    scene.conn.close()
    daemon = scene.start(env)
    job_id = scene.enqueue("chaos.zombie", {"where": "call"}, thread_id=scene.thread())
    scene.until_noted("billed", job_id, 1)
    return daemon, job_id


def _stop(scene: Scene, server: Embedded, mode: StopMode) -> None:
    scene.conn.close()
    server.stop(mode)


def _files(scene: Scene) -> list[Path]:
    return list((scene.directory / "spool").rglob("*.json"))


def _settled(scene: Scene, job_id: UUID) -> list[tuple[object, ...]]:
    rows = scene.rows(CALLS, {"id": job_id})
    return [tuple(row.values()) for row in rows if row["status"] != "started"]


def _check_paid_once(scene: Scene, job_id: UUID) -> None:
    """One call on the bill, one in the books, to the token; its answer is the step."""
    [billed] = [entry.name for entry in scene.diary() if entry.what == "billed"]
    assert _settled(scene, job_id) == [(billed, "ok", 70, 30, 1)]
    assert scene.value(STEP, {"id": job_id}) == billed
    until_sync(lambda: _files(scene) == [], 10, "the spool is empty")
    check_no_violations(scene)
