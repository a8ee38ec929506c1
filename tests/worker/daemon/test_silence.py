"""A network that goes silent: the worker notices, says so, and has new connections at once."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.chaos.nursery import Daemon
from tests.chaos.scene import USUAL, Scene
from tests.proxy import Proxy
from tests.support import until_sync

BEATEN = "select extract(epoch from clock_timestamp() - max(beaten_at)) from jobsworth.workers"


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


def test_every_silent_connection_is_replaced(scene: Scene, proxy: Proxy) -> None:
    """The proxy swallows what it acknowledges; new connections get through."""
    daemon = _at_work(scene, proxy)
    proxy.swallow(spare_new=True)
    job_id = scene.enqueue("chaos.child", {"n": 1})
    daemon.wait_for("listen.recovered", seconds=30)
    scene.until_status(job_id, "done", seconds=30)
    until_sync(lambda: scene.value(BEATEN) < 4, 30)
    assert not daemon.events("attempts.stopped")


def test_a_worker_behind_a_silent_network_says_so_and_recovers(scene: Scene, proxy: Proxy) -> None:
    daemon = _at_work(scene, proxy)
    proxy.swallow()
    until_sync(lambda: "this worker has lost its database" in _reasons(daemon, "/readyz"), 30)
    # A restart would not help: the process itself is well.
    assert _reasons(daemon, "/healthz") == ""
    job_id = scene.enqueue("chaos.child", {"n": 1})
    proxy.heal()
    scene.until_status(job_id, "done", seconds=60)
    until_sync(lambda: _reasons(daemon, "/readyz") == "", 30)


def test_a_worker_stops_although_its_database_is_silent(scene: Scene, proxy: Proxy) -> None:
    daemon = _at_work(scene, proxy)
    proxy.swallow()
    daemon.wait_for("heartbeat.missed", seconds=30)
    daemon.terminate()
    assert daemon.wait(60) == 0


def _at_work(scene: Scene, proxy: Proxy) -> Daemon:
    """A worker at the usual pace that has run a job through the proxy."""
    scene.url, direct = proxy.url, scene.url
    daemon = scene.start(USUAL | {"JOBSWORTH_HTTP_PORT": "0"})
    scene.url = direct
    scene.until_status(scene.enqueue("chaos.child", {"n": 0}), "done")
    return daemon


def _reasons(daemon: Daemon, path: str) -> str:
    """Why the worker is not well, as its endpoint says; empty if it is."""
    address = daemon.wait_for("health.listened")["url"]
    try:
        with urllib.request.urlopen(address + path, timeout=5) as answer:
            assert answer.status == 200
            return ""
    except urllib.error.HTTPError as error:
        return " ".join(json.load(error)["reasons"])
