"""What becomes of a job whose handler ends in this way or that, in a real daemon."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, LiteralString
from uuid import UUID

import httpx
import psycopg
import pytest

from db.server.embedded import Embedded
from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import VIOLATIONS
from tests.support import Workers, until_sync
from worker.queue.upkeep import TIMER_BATCH

HANDLERS = {"JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings"}
# So seldom that whatever happens in time did not wait for it.
NO_POLL = {"JOBSWORTH_POLL_SECONDS": "60"}
SOON_SECONDS = 20


def test_what_a_handler_returns_is_the_result(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "end.return", {"n": 1, "word": "two"})
    assert (ended["status"], ended["result"], ended["attempt"]) == ("done", [1, "two"], 1)


def test_a_raising_handler_is_tried_again_with_growing_pauses(scene: Scene) -> None:
    scene.start(HANDLERS | {"JOBSWORTH_RETRY_BASE_SECONDS": "0.2"})
    ended = _run(scene, "end.raise", {"times": 2})
    assert (ended["status"], ended["attempt"], ended["failures"]) == ("done", 3, 2)
    assert ended["error"] is None
    first, second = _pauses(scene, ended["id"])
    assert first >= 0.1
    assert second >= 0.2


def test_failures_are_bounded_and_the_last_error_is_kept(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "end.raise", {"times": 9}, failures_max=3)
    assert (ended["status"], ended["attempt"], ended["failures"]) == ("failed", 3, 3)
    assert ended["error"].startswith("ValueError: boom 3 (")


def test_retry_waits_as_long_as_it_says_and_counts(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "end.retry", {"after": 0.7})
    assert (ended["status"], ended["attempt"], ended["failures"]) == ("done", 2, 1)
    assert _pauses(scene, ended["id"])[0] >= 0.7


def test_fail_is_final(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "end.fail")
    assert (ended["status"], ended["attempt"], ended["failures"]) == ("failed", 1, 1)
    assert ended["error"] == "no try can help"


def test_cancel_by_the_handler_is_no_failure(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "end.cancel")
    assert (ended["status"], ended["failures"]) == ("canceled", 0)
    assert ended["error"] == "nothing to do any more"


def test_snooze_runs_again_without_a_failure_and_drops_effects(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "end.snooze", {"seconds": 0.4})
    assert (ended["status"], ended["attempt"], ended["failures"]) == ("done", 2, 0)
    assert _pauses(scene, ended["id"])[0] >= 0.4
    assert _memories(scene, ended["id"]) == 1


def test_sys_exit_fails_the_job_and_not_the_daemon(scene: Scene) -> None:
    daemon = scene.start(HANDLERS)
    ended = _run(scene, "end.exit", failures_max=1)
    assert (ended["status"], ended["error"]) == ("failed", "the handler called sys.exit(3)")
    assert _run(scene, "end.return", {"n": 1})["status"] == "done"
    assert daemon.running


@pytest.mark.parametrize(
    ("payload", "field", "reason"),
    [
        ({"n": "many"}, "n", "valid integer"),
        ({}, "n", "required"),
        ({"n": 1, "words": 2}, "words", "not"),
    ],
    ids=["type", "missing", "unknown"],
)
def test_a_bad_payload_fails_at_once_with_field_and_reason(
    scene: Scene, payload: dict[str, Any], field: str, reason: str
) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "end.return", payload)
    assert (ended["status"], ended["attempt"]) == ("failed", 1)
    assert field in ended["error"]
    assert reason in ended["error"]
    assert scene.diary() == []


def test_an_async_handler_past_its_deadline_fails(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "end.never", timeout_seconds="0.3", failures_max=2)
    assert (ended["status"], ended["attempt"], ended["failures"]) == ("failed", 2, 2)
    assert ended["error"] == "its deadline passed: it may take 0.3 s"


def test_a_thread_past_its_deadline_keeps_slot_and_job_until_it_returns(scene: Scene) -> None:
    daemon = scene.start(HANDLERS | {"JOBSWORTH_SLOTS": "1"})
    job_id = scene.enqueue("end.thread", timeout_seconds="0.2")
    scene.until_noted("began", job_id, 1)
    other = scene.enqueue("end.return", {"n": 1})
    until_sync(lambda: scene.job(job_id)["started_at"] is not None)
    _let_a_beat_pass(scene, daemon)
    assert scene.job(job_id)["status"] == "running"
    assert scene.job(other)["status"] == "queued"
    scene.open_gate()
    # Finished work beats a late stop.
    ended = scene.until_status(job_id, "done", "failed")
    assert (ended["status"], ended["result"]) == ("done", "finished all the same")
    scene.until_status(other, "done")


def test_work_that_finishes_all_the_same_beats_a_cancel(scene: Scene) -> None:
    scene.start(HANDLERS)
    job_id = scene.enqueue("end.deaf")
    scene.until_noted("began", job_id, 1)
    assert _cancel(scene, job_id) == "running"
    scene.open_gate()
    assert scene.until_status(job_id, "done", "canceled")["result"] == "finished all the same"


def test_a_queued_a_waiting_and_a_running_job_can_be_canceled(scene: Scene) -> None:
    scene.start(HANDLERS | {"JOBSWORTH_SLOTS": "1"} | NO_POLL)
    running = scene.enqueue("end.never")
    scene.until_noted("began", running, 1)
    queued = scene.enqueue("end.never")
    waiting = scene.enqueue("end.never", delay="1 hour")
    assert [_cancel(scene, job_id) for job_id in (queued, waiting)] == ["canceled", "canceled"]
    assert _cancel(scene, running) == "running"
    for job_id in (queued, waiting, running):
        ended = scene.until_status(job_id, "canceled")
        assert (ended["error"], ended["failures"]) == ("not wanted", 0)
    assert [entry.what for entry in scene.diary()] == ["began", "left"]


def test_a_message_joins_the_waiting_job_or_interrupts_the_running_one(scene: Scene) -> None:
    scene.start(HANDLERS | NO_POLL)
    thread = scene.thread()
    running = _say(scene, thread, "start", "end.never", "queue")
    scene.until_noted("began", running, 1)
    waiting = _say(scene, thread, "one", "end.messages", "merge")
    assert _say(scene, thread, "two", "end.messages", "merge") == waiting
    assert _cancel(scene, running) == "running"
    assert scene.until_status(waiting, "done")["result"] == ["one", "two"]

    running = _say(scene, thread, "start again", "end.never", "queue")
    scene.until_noted("began", running, 1)
    newest = _say(scene, thread, "stop", "end.messages", "interrupt")
    assert scene.until_status(newest, "done")["result"] == ["stop"]
    stopped = scene.job(running)
    assert (stopped["status"], stopped["superseded_by"]) == (
        *("canceled", scene.job(newest)["trigger_message_id"]),
    )
    assert scene.rows(VIOLATIONS) == []


def test_the_attempt_of_a_deleted_job_is_stopped(scene: Scene) -> None:
    daemon = scene.start(HANDLERS | {"JOBSWORTH_SLOTS": "1"} | NO_POLL)
    deleted = scene.enqueue("end.never")
    scene.until_noted("began", deleted, 1)
    scene.conn.execute("delete from jobsworth.reactive_jobs where id = %s", [deleted])
    scene.until_noted("left", deleted, 1)
    assert daemon.wait_for("attempt.lease_lost")["error"] == "the job was deleted"
    assert _run(scene, "end.return", {"n": 1})["status"] == "done"


def test_a_mode_that_nobody_knows_waits_for_a_worker_that_does(scene: Scene) -> None:
    first = scene.start({"JOBSWORTH_HANDLERS": "tests.chaos.handlers"})
    job_id = scene.enqueue("end.return", {"n": 1})
    assert scene.until_status(job_id, "waiting")["waiting_for"] == "handler"
    first.wait_for("handler.missing")
    [why] = scene.rows("select * from jobsworth.why(%(id)s)", {"id": job_id})
    assert (why["reason"], "end.return" in why["detail"]) == ("handler", True)
    scene.start(HANDLERS)
    assert scene.until_status(job_id, "done")["attempt"] == 1


def test_a_poison_job_ends_failed_while_its_neighbours_finish(scene: Scene) -> None:
    poison = scene.enqueue("end.poison", crashes_max=2)
    neighbours = [scene.enqueue("chaos.hold") for _ in range(3)]
    # Twice beside its neighbours, then alone, so that it is known who kills.
    for _ in range(3):
        assert scene.start(HANDLERS).wait() == -9
    scene.start(HANDLERS)
    ended = scene.until_status(poison, "failed")
    assert (ended["crashes"], ended["failures"]) == (3, 0)
    assert ended["error"] == "its worker died during attempt 3 (crash 3)"
    scene.open_gate()
    for job_id in neighbours:
        ended = scene.until_status(job_id, "done")
        assert ended["failures"] == 0
    assert scene.rows(VIOLATIONS) == []


def test_a_timer_soon_due_does_not_wait_for_the_poll(scene: Scene) -> None:
    _idle(scene, scene.start(HANDLERS | NO_POLL))
    _check_in_time(scene, scene.enqueue("end.return", {"n": 1}, delay="0.5 seconds"), 0.5)


def test_a_timer_due_later_does_not_wait_for_the_poll(scene: Scene) -> None:
    _idle(scene, scene.start(HANDLERS | NO_POLL))
    _check_in_time(scene, scene.enqueue("end.return", {"n": 1}, delay="2.5 seconds"), 2.5)


def test_a_sleeping_and_a_failing_job_do_not_wait_for_the_poll(scene: Scene) -> None:
    _idle(scene, scene.start(HANDLERS | NO_POLL))
    sleeper = scene.enqueue("end.sleep", {"seconds": 0.3})
    scene.until_noted("began", sleeper, 1)
    failing = scene.enqueue("end.raise", {"times": 1})
    assert scene.until_status(sleeper, "done", seconds=SOON_SECONDS)["result"] == 2
    assert scene.until_status(failing, "done", seconds=SOON_SECONDS)["result"] == 2


def test_a_daemon_that_starts_takes_what_is_queued_at_once(scene: Scene) -> None:
    waiting = scene.enqueue("end.return", {"n": 1})
    scene.start(HANDLERS | NO_POLL)
    scene.until_status(waiting, "done", seconds=SOON_SECONDS)


def test_overdue_timers_are_promoted_in_batches_oldest_first(scene: Scene) -> None:
    batches = 3
    scene.conn.execute("insert into jobsworth.queues (name, paused) values ('default', true)")
    scene.conn.execute(
        "insert into jobsworth.reactive_jobs (mode, run_at)"
        " select 'end.never', now() + interval '1 hour' from generate_series(1, %(jobs)s)",
        {"jobs": batches * TIMER_BATCH},
    )
    overdue = [row["id"] for row in scene.rows("select id from jobsworth.reactive_jobs")]
    random.Random(1).shuffle(overdue)
    scene.conn.execute(
        "update jobsworth.reactive_jobs j set run_at = now() - d.n * interval '1 minute'"
        " from unnest(%(ids)s::uuid[]) with ordinality as d (id, n) where j.id = d.id",
        {"ids": overdue},
    )
    scene.start(HANDLERS)
    waiting = "select count(*) from jobsworth.reactive_jobs where status = 'waiting'"
    until_sync(lambda: scene.value(waiting) == 0)
    rows = scene.rows("select id, position from jobsworth.reactive_jobs")
    positions = {row["id"]: row["position"] for row in rows}
    oldest_first = [positions[job_id] for job_id in reversed(overdue)]
    for earlier, later in pairwise(range(0, batches * TIMER_BATCH + 1, TIMER_BATCH)):
        rest = oldest_first[later:]
        assert not rest or max(oldest_first[earlier:later]) < min(rest)


def test_slots_full_of_endless_threads_end_the_daemon(scene: Scene) -> None:
    daemon = scene.start(HANDLERS | {"JOBSWORTH_SLOTS": "2", "JOBSWORTH_THREADS": "2"})
    jobs = [scene.enqueue("end.thread", timeout_seconds="0.2") for _ in range(2)]
    for job_id in jobs:
        scene.until_noted("began", job_id, 1)
    stuck = daemon.wait_for("slots.stuck", seconds=30)
    assert (stuck["slots"], stuck["modes"]) == (2, ["end.thread"])
    assert daemon.wait(30) == 70
    scene.open_gate()
    scene.start(HANDLERS)
    for job_id in jobs:
        ended = scene.until_status(job_id, "done")
        assert (ended["attempt"], ended["crashes"]) == (2, 1)


@pytest.mark.own_server
def test_readiness_follows_the_database(
    database_url: str, server: Embedded, workers: Workers
) -> None:
    server.stop()
    worker = workers.start(database_url)
    address = worker.wait_for("health.listened", seconds=30)["url"]
    assert _ready(address) == 503
    server.restart()
    until_sync(lambda: _ready(address) == 200, 30)
    server.stop("immediate")
    until_sync(lambda: _ready(address) == 503, 30)
    assert httpx.get(f"{address}/healthz").status_code == 200
    server.restart()
    until_sync(lambda: _ready(address) == 200, 30)
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("select jobsworth.enqueue('no.such.mode')")
        until_sync(
            lambda: (
                conn.execute(
                    "select waiting_for from jobsworth.reactive_jobs where status = 'waiting'"
                ).fetchall()
                == [("handler",)]
            ),
            30,
        )
    worker.terminate()
    assert worker.wait() == 0


def _run(
    scene: Scene, mode: str, payload: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    job_id = scene.enqueue(mode, payload, **options)
    return scene.until_status(job_id, "done", "failed", "canceled")


def _pauses(scene: Scene, job_id: UUID) -> list[float]:
    """Seconds from the end of each attempt to the beginning of the next."""
    entries = [entry for entry in scene.diary() if entry.job == str(job_id)]
    lefts = [entry.at_ns for entry in entries if entry.what == "left"]
    begins = [entry.at_ns for entry in entries if entry.what == "began"]
    return [(began - left) / 1e9 for left, began in zip(lefts, begins[1:], strict=False)]


def _memories(scene: Scene, job_id: UUID) -> int:
    return scene.value(
        "select count(*) from jobsworth.memories where job_id = %(id)s",
        {"id": job_id},
    )


SAY: LiteralString = """
with way as materialized (
  select w.message_id, w.merged_into
  from jobsworth.make_way(%(thread)s, %(mode)s, %(policy)s) w
), said as (
  insert into jobsworth.chat_messages (id, thread_id, role, text, merged_into)
  select w.message_id, %(thread)s, 'user', %(text)s, w.merged_into from way w
)
select case when w.merged_into is null
  then jobsworth.enqueue(%(mode)s, thread_id => %(thread)s, trigger_message_id => w.message_id)
  else (select j.id from jobsworth.reactive_jobs j where j.trigger_message_id = w.merged_into) end
from way w
"""


def _say(scene: Scene, thread: UUID, text: str, mode: str, policy: str) -> UUID:
    """A message in the thread; the job that handles it."""
    values = {"thread": thread, "text": text, "mode": mode, "policy": policy}
    return scene.value(SAY, values)


def _cancel(scene: Scene, job_id: UUID) -> str:
    return scene.value("select jobsworth.cancel(%(id)s, 'not wanted')::text", {"id": job_id})


def _ready(address: str) -> int:
    return httpx.get(f"{address}/readyz").status_code


def _let_a_beat_pass(scene: Scene, daemon: Daemon) -> None:
    """Until the daemon has beaten anew: whatever it would do at once, it has done."""
    beaten = "select beaten_at from jobsworth.workers where pid = %(pid)s"
    before = scene.value(beaten, {"pid": daemon.pid})
    until_sync(lambda: (scene.value(beaten, {"pid": daemon.pid}) - before).total_seconds() > 1)


def _idle(scene: Scene, daemon: Daemon) -> None:
    """Until the daemon has nothing to do and asks to be told."""
    idle = "select coalesce(bool_or(idle), false) from jobsworth.workers where pid = %(pid)s"
    until_sync(lambda: scene.value(idle, {"pid": daemon.pid}))


def _check_in_time(scene: Scene, job_id: UUID, delay_seconds: float) -> None:
    """Promoted at its time, give or take a slow machine; the poll is a minute away."""
    ended = scene.until_status(job_id, "done", seconds=SOON_SECONDS)
    late = (ended["started_at"] - ended["created_at"]).total_seconds() - delay_seconds
    assert 0 <= late < SOON_SECONDS
