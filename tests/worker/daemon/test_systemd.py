"""sd_notify, against sockets of the kinds systemd offers."""

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.scene import Scene
from worker.daemon import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A service manager's socket, named in NOTIFY_SOCKET."""
    name = f"@jobsworth-{uuid.uuid4()}" if request.param == "abstract" else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0", 1))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listening


def test_each_call_is_one_datagram_of_the_protocol(manager: socket.socket):
    systemd.ready()
    systemd.watchdog()
    systemd.stopping()
    assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_status_stays_one_line_and_sets_nothing_else(manager: socket.socket):
    systemd.status("3 running\nREADY=1 · ok")
    assert manager.recv(100).decode() == "STATUS=3 running READY=1 · ok"


def test_a_manager_that_does_not_read_holds_up_nothing(manager: socket.socket):
    for _ in range(2_000):
        systemd.watchdog()
    assert manager.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "vsock:2:1234", "@" + "x" * 300])
def test_without_a_reachable_manager_nothing_happens(
    address: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.ready()
    assert os.environ.get("NOTIFY_SOCKET") == address


@pytest.mark.parametrize(
    ("microseconds", "watched", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "self", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_told_twice_within_its_time(
    microseconds: str | None,
    watched: str | None,
    interval: float | None,
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", watched)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(os.getpid()) if value == "self" else value)
    assert systemd.watchdog_interval_seconds() == interval


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_worker_tells_what_it_does_and_why_it_was_refused(
    scene: Scene, manager: socket.socket
) -> None:
    daemon = scene.start({"NOTIFY_SOCKET": os.environ["NOTIFY_SOCKET"], "JOBSWORTH_SLOTS": "3"})
    job_id = scene.enqueue("chaos.hold")
    scene.until_noted("began", job_id, 1)
    _hears(manager, "STATUS=1 of 3 slots run")
    scene.open_gate()
    _hears(manager, "STATUS=0 of 3 slots run")
    daemon.terminate()
    assert daemon.wait(60) == 0
    scene.conn.execute("update jobsworth.alembic_version set version_num = '9999'")
    scene.start({"NOTIFY_SOCKET": os.environ["NOTIFY_SOCKET"]})
    _hears(manager, "STATUS=refused: ")


def _hears(manager: socket.socket, wanted: str) -> None:
    manager.settimeout(60)
    while not manager.recv(4096).decode().startswith(wanted):
        pass
