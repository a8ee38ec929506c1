"""A handler that blocks the event loop is named while it does, and forgiven for a bounded time."""

from __future__ import annotations

import socket
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from structlog.testing import capture_logs

from tests.chaos.scene import Scene
from tests.support import until_sync
from worker.daemon import loop_watch
from worker.daemon.vitals import Vitals

HANDLERS = {"JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings"}
# A daemon that is not in a hurry: on a busy machine nobody takes it for dead.
CALM = HANDLERS | {"JOBSWORTH_LEASE_STOP_SECONDS": "60", "JOBSWORTH_RESCUE_SECONDS": "90"}
BLOCK_SECONDS = 8


@pytest.mark.parametrize("mode", ["end.block", "end.block_in_child"])
def test_a_handler_that_blocks_the_loop_is_named_while_it_does(scene: Scene, mode: str) -> None:
    daemon = scene.start(CALM | {"JOBSWORTH_HTTP_PORT": "0"})
    address = daemon.wait_for("health.listened", seconds=60)["url"]
    job_id = scene.enqueue(mode, {"seconds": BLOCK_SECONDS})
    blocked = daemon.wait_for("loop.blocked", seconds=60, mode=mode, job_id=str(job_id))
    assert scene.job(job_id)["status"] == "running"
    assert blocked["seconds"] < BLOCK_SECONDS
    assert "time.sleep(seconds)" in blocked["stack"]
    assert "endings.py" in blocked["stack"]
    daemon.wait_for("loop.freed", seconds=60, mode=mode)
    scene.until_status(job_id, "done", seconds=60)
    page = httpx.get(f"{address}/metrics", timeout=30).text
    assert f'jobsworth_loop_blocks_total{{mode="{mode}"}} 1.0' in page


def test_the_watchdog_is_fed_while_a_handler_blocks_the_loop(scene: Scene, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        notified = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "500000"}
        daemon = scene.start(CALM | notified)
        scene.enqueue("end.block", {"seconds": BLOCK_SECONDS})
        daemon.wait_for("loop.blocked", seconds=60)
        _drop_what_came(manager)
        for _ in range(3):
            assert manager.recv(100) == b"WATCHDOG=1"
        assert daemon.events("loop.freed") == []


def test_a_loop_that_is_blocked_for_too_long_ends_the_worker(scene: Scene) -> None:
    daemon = scene.start(CALM | {"JOBSWORTH_LOOP_BLOCK_SECONDS": "2"})
    job_id = scene.enqueue("end.block", {"seconds": 600})
    assert daemon.wait_for("loop.stuck", seconds=60)["mode"] == "end.block"
    assert daemon.wait(60) == 70
    assert scene.job(job_id)["status"] == "running"  # it is rescued, as after any death


def test_a_daemon_that_was_stopped_as_a_whole_does_not_end_for_it(scene: Scene) -> None:
    daemon = scene.start(CALM | {"JOBSWORTH_LOOP_BLOCK_SECONDS": "1"})
    first = scene.enqueue("end.return", {"n": 1})
    scene.until_status(first, "done", seconds=60)
    daemon.pause()
    _let_pass(scene, 3)
    daemon.resume()
    second = scene.enqueue("end.return", {"n": 2})
    scene.until_status(second, "done", seconds=60)
    assert daemon.events("loop.stuck") == []


async def test_a_loop_that_no_job_blocks_is_not_blamed_on_a_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_watch, "TURN_SECONDS", 0.01)
    vitals = Vitals(UUID(int=1), 1, clock=lambda: 0.0)
    vitals.loop_turned()
    monkeypatch.setattr(loop_watch, "BLOCKED_SECONDS", 0.0)  # it is never seen to turn again
    modes: list[str] = []
    watch = loop_watch.LoopWatch(vitals, lambda: None, modes.append, block_seconds_max=60)
    with capture_logs() as logs:
        watch.start()
        until_sync(lambda: bool(modes))  # which blocks this loop
        watch.stop()
        watch.join()
    [told] = [one for one in logs if one["event"] == "loop.blocked"]
    assert (modes, told["job_id"]) == ([""], None)
    assert told["remedy"].startswith("no handler is at fault")


def _drop_what_came(manager: socket.socket) -> None:
    manager.setblocking(False)
    try:
        while True:
            manager.recv(100)
    except BlockingIOError:
        manager.settimeout(60)


def _let_pass(scene: Scene, seconds: int) -> None:
    """Until the database's clock has moved on."""
    began = scene.value("select clock_timestamp()")
    until_sync(lambda: (scene.value("select clock_timestamp()") - began).total_seconds() > seconds)
