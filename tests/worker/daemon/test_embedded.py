"""A worker on the embedded database keeps it up."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx

from tests.support import Workers, run_cli, until_sync


def test_a_server_that_was_ended_is_started_again_by_its_worker(
    tmp_path: Path, workers: Workers
) -> None:
    data = tmp_path / "data"
    env = {"JOBSWORTH_DATA_DIR": str(data), "JOBSWORTH_DATABASE_URL": "embedded"}
    worker = workers.start(None, env)
    address = worker.wait_for("health.listened", seconds=120)["url"]
    worker.wait_for("daemon.ready", seconds=120)
    job_id = run_cli("enqueue", "execute", "--delay", "1h", env=env).stdout.strip()

    [pid_file] = data.glob("pg*/postmaster.pid")
    # It ends at once by the first. By the second it would wait for its sessions to end, and refuse
    # new ones.
    for number in (signal.SIGQUIT, signal.SIGTERM):
        begun = len(worker.records)
        os.kill(int(pid_file.read_text().split()[0]), number)
        worker.wait_for("database.started", since=begun)
    until_sync(lambda: httpx.get(f"{address}/readyz").status_code == 200)
    assert [job["id"] for job in json.loads(run_cli("jobs", "--json", env=env).stdout)] == [job_id]

    worker.terminate()
    assert worker.wait() == 0
    assert not pid_file.exists()
