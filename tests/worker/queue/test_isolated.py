"""Handlers in a process of their own: whatever becomes of the process, the daemon lives."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.chaos.scene import Scene

HANDLERS = {"JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings"}


def test_result_and_effects_come_out_of_the_process(scene: Scene) -> None:
    daemon = scene.start(HANDLERS)
    ended = _run(scene, "process.return", {"n": 7})
    assert ended["status"] == "done"
    assert ended["result"]["n"] == 7
    assert ended["result"]["pid"] not in (daemon.pid, os.getpid())
    saved = scene.value("select convert_from(content, 'utf8') from jobsworth.artifacts")
    assert saved == str(ended["result"]["pid"])


def test_what_it_prints_is_no_part_of_its_answer(scene: Scene) -> None:
    scene.start(HANDLERS)
    assert _run(scene, "process.print")["result"] == "printed"


def test_retry_means_the_same_in_a_process(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "process.retry")
    assert (ended["status"], ended["result"], ended["failures"]) == ("done", 2, 1)


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("process.raise", "ValueError: boom in a process"),
        ("process.exit", "the handler called sys.exit(3)"),
        ("process.os_exit", "the handler's process ended without a result: exit code 4"),
        ("process.segfault", "the handler's process ended without a result: signal 11"),
        ("process.memory", "MemoryError"),
    ],
)
def test_a_process_that_dies_fails_its_job_and_not_the_daemon(
    scene: Scene, mode: str, error: str
) -> None:
    daemon = scene.start(HANDLERS)
    ended = _run(scene, mode, failures_max=1)
    assert (ended["status"], ended["failures"], ended["crashes"]) == ("failed", 1, 0)
    assert error in ended["error"]
    told = scene.value("select coalesce(traceback, '') from jobsworth.attempt_history")
    assert ("in process_raise: raise ValueError" in told) == (mode == "process.raise")
    assert _run(scene, "end.return", {"n": 1})["status"] == "done"
    assert daemon.running


def test_a_bad_payload_is_refused_before_a_process_is_made(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "process.return", {"n": "many"})
    assert (ended["status"], ended["attempt"]) == ("failed", 1)
    assert "valid integer" in ended["error"]


def test_a_deadline_kills_the_whole_process_group(scene: Scene) -> None:
    scene.start(HANDLERS)
    # Long enough for the process to have written its pids down.
    job_id = scene.enqueue("process.never", timeout_seconds="8", failures_max=1)
    pids = scene.until_pids(1)
    ended = scene.until_status(job_id, "failed")
    assert ended["error"] == "its deadline passed: it may take 8 s"
    scene.until_gone(pids)


def test_a_cancel_kills_the_whole_process_group(scene: Scene) -> None:
    scene.start(HANDLERS)
    job_id = scene.enqueue("process.never")
    pids = scene.until_pids(1)
    scene.value("select jobsworth.cancel(%(id)s, 'not wanted')::text", {"id": job_id})
    assert scene.until_status(job_id, "canceled")["error"] == "not wanted"
    scene.until_gone(pids)


def test_a_daemon_that_is_killed_takes_its_processes_along(scene: Scene) -> None:
    daemon = scene.start(HANDLERS)
    scene.enqueue("process.never")
    pids = scene.until_pids(1)
    daemon.kill()
    scene.until_gone(pids)


def test_every_method_of_a_plain_handler_works_in_a_process(scene: Scene) -> None:
    daemon = scene.start(HANDLERS)
    [row] = scene.rows("insert into jobsworth.agents (name) values ('bob') returning id")
    agent, thread = row["id"], scene.thread()
    payload = {"agent_id": str(agent), "thread_id": str(thread)}
    ended = _run(scene, "process.everything", payload)
    assert (ended["status"], ended["error"]) == ("done", None)
    assert ended["result"] == f"process.everything 1 {thread}"
    assert scene.value("select value from jobsworth.run_metrics where name = 'loss'") == 0.5
    texts = scene.rows("select text from jobsworth.chat_messages order by text")
    assert [row["text"] for row in texts] == ["said", "sent"]
    files = scene.rows("select name, content, uri from jobsworth.artifacts order by name")
    assert [(row["name"], row["uri"]) for row in files] == [
        ("elsewhere", "https://example.org/x"),
        ("report.txt", None),
    ]
    assert bytes(files[1]["content"]) == b"\0binary\xff"
    assert daemon.wait_for("handler.logged")["job_id"] == str(ended["id"])


def test_what_a_process_cannot_have_is_said(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "process.database", failures_max=1)
    assert ended["status"] == "failed"
    assert "has no connection of the worker's" in ended["error"]


def test_answers_may_be_as_large_as_those_of_other_handlers(scene: Scene) -> None:
    scene.start(HANDLERS)
    sizes = {"file_bytes": 40 * 2**20, "result_bytes": 20 * 2**20}
    job_id = scene.enqueue("process.large", sizes)
    assert scene.until_status(job_id, "done", "failed", seconds=90)["error"] is None
    query = "select length(content) from jobsworth.artifacts"
    assert scene.value(query) == sizes["file_bytes"]
    query = "select length(result #>> '{}') from jobsworth.reactive_jobs where id = %(id)s"
    assert scene.value(query, {"id": job_id}) == sizes["result_bytes"]


def test_what_a_handler_leaves_behind_ends_with_its_job(scene: Scene) -> None:
    scene.start(HANDLERS)
    ended = _run(scene, "process.leaves")
    assert (ended["status"], ended["result"]) == ("done", "left")
    scene.until_gone(scene.until_pids(1))


def test_a_neighbour_that_ignores_the_ends_of_children_holds_up_no_process(scene: Scene) -> None:
    scene.start(HANDLERS)
    _run(scene, "end.deaf_to_children")
    assert _run(scene, "process.return", {"n": 7})["status"] == "done"


def _run(
    scene: Scene, mode: str, payload: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    job_id = scene.enqueue(mode, payload, **options)
    return scene.until_status(job_id, "done", "failed", "canceled")
