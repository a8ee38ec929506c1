"""The API as it is served: by the daemon, and by `jobsworth serve`."""

from __future__ import annotations

import signal
import subprocess
import sys

import httpx

from tests.support import Workers, environment


def test_a_daemon_and_serve_alone_answer(database_url: str, workers: Workers) -> None:
    worker = workers.start(database_url, {"JOBSWORTH_HTTP_PORT": "0"})
    address = worker.wait_for("health.listened", seconds=60)["url"]
    made = httpx.post(f"{address}/jobs", json={"mode": "nobody"}, timeout=60)
    assert made.status_code == 201
    assert httpx.get(f"{address}/healthz", timeout=60).status_code == 200

    serving = subprocess.Popen(
        [sys.executable, "-m", "jobsworth", "serve", "--port", "0", "--base-path", "jobs/here"],
        env=environment(database_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert serving.stdout is not None
    try:
        url = serving.stdout.readline().strip()
        assert url.endswith("/jobs/here")
        [job] = httpx.get(f"{url}/jobs", timeout=60).json()["items"]
        assert job["id"] == made.json()["id"]
        assert httpx.get(f"{url}/openapi.json", timeout=60).json()["paths"]["/jobs"]
        serving.send_signal(signal.SIGTERM)
        _, said = serving.communicate(timeout=60)
    finally:
        serving.kill()
    assert serving.returncode == 0
    assert "only requests of this machine are answered" in said
