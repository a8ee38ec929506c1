"""The installed command `jobsworth` as a process: in a folder, with an environment of its own."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support import connect, environment, until_sync

HANDLERS = "myapp"


def surroundings(
    url: str | None, path: Path | None = None, env: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a user who has Jobsworth installed: PYTHONPATH is `path`, or unset."""
    clean = environment(url, env)
    del clean["PYTHONPATH"]
    # A new environment is compiled once, not by each command.
    clean.pop("PYTHONDONTWRITEBYTECODE", None)
    return clean | ({} if path is None else {"PYTHONPATH": str(path)})


def run(
    *command: object, folder: Path, env: Mapping[str, str], seconds: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` to its end."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def write_handlers(folder: Path) -> None:
    """Make the module `HANDLERS` in `folder`, with the modes `plain` and `isolated`."""
    (folder / f"{HANDLERS}.py").write_text(
        "from worker.handlers import handler\n"
        "@handler('plain')\n"
        "def plain() -> str: return 'in a thread'\n"
        "@handler('isolated', isolate='process')\n"
        "def isolated() -> str: return 'in a process'\n"
    )


def run_one_job_of_each_mode(command: Path, url: str, folder: Path, env: Mapping[str, str]) -> str:
    """Enqueue a job of each mode of `HANDLERS`, and run a worker until both are done.

    Returns what the worker logged.
    """
    for mode in ("plain", "isolated"):
        enqueued = run(command, "enqueue", mode, folder=folder, env=env)
        assert enqueued.returncode == os.EX_OK, enqueued.stderr
    settings = {"JOBSWORTH_HANDLERS": HANDLERS, "JOBSWORTH_HTTP_PORT": "off"}
    worker = subprocess.Popen(
        [command, "worker"],
        cwd=folder,
        env=dict(env) | settings,
        stderr=subprocess.PIPE,
        text=True,
    )
    wanted = {"plain": "in a thread", "isolated": "in a process"}
    try:
        until_sync(lambda: _results(url) == wanted, seconds=120)
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=120)
    finally:
        worker.kill()
    assert worker.returncode == os.EX_OK, log
    return log


def _results(url: str) -> dict[str, object]:
    query = "select mode, result from jobsworth.reactive_jobs where result is not null"
    with connect(url) as conn:
        return {row["mode"]: row["result"] for row in conn.execute(query)}
