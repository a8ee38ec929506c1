"""Real git repositories, a real HTTP service that serves what is live, and a recorder on disk."""

import http.server
import json
import os
import subprocess
import threading
import uuid
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import anyio

from worker.deployments.pipeline.config import Environment, load_environments
from worker.deployments.pipeline.phases import EndStatus, PhaseName, PhaseResult, PhaseStatus
from worker.deployments.pipeline.probe import ProbeResult

GIT_ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(repository: Path, *arguments: str, stdin: bytes = b"") -> str:
    command = ["git", "-C", str(repository), *arguments]
    done = subprocess.run(command, env=GIT_ENV, input=stdin, capture_output=True, check=True)
    return done.stdout.decode().strip()


def make_repository(path: Path) -> Path:
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--initial-branch=main")
    return path


def commit(repository: Path, files: Mapping[str, str]) -> str:
    for name, text in files.items():
        file = repository / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if text.startswith("#!"):
            file.chmod(0o755)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--allow-empty", "--message=change")
    return git(repository, "rev-parse", "HEAD")


@contextmanager
def serve(environment_dir: Path) -> Generator[str]:
    """A service whose /health answers with the status written in `current/health`."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "/health")
            else:
                self.send_response(_health(environment_dir))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _health(environment_dir: Path) -> int:
    try:
        return int((environment_dir / "current" / "health").read_text())
    except OSError:
        return 503


def environment(directory: Path, repository: Path, probe: str, **keys: object) -> Environment:
    """An environment from a real deploy.toml; a JSON string, number or list is valid TOML."""
    lines = [line for key, value in keys.items() for line in _toml(key, value)]
    file = directory / "deploy.toml"
    file.write_text(
        "[environments.staging]\n"
        f"repository = {json.dumps(str(repository))}\n"
        + "\n".join(lines)
        + f"\n[environments.staging.probe]\n{probe}\nattempts = 2\ninterval_seconds = 0.01\n"
    )
    return load_environments(file)["staging"]


def _toml(key: str, value: object) -> list[str]:
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value)
        return [line for name, inner in pairs.items() for line in _toml(f"{key}.{name}", inner)]
    return [f"{key} = {json.dumps(value)}"]


class Crash(Exception):
    """The worker dies at this instant."""


class FileRecorder:
    """A recorder that keeps its records in a file; `crash_at` names the instant of a crash.

    `before:build` is before the phase runs, `during:build` after it ran but before it is recorded,
    `after:build` after it is recorded, `started:switch` after that was committed, `end` before the
    end status is recorded.
    """

    def __init__(self, file: Path, crash_at: str = "") -> None:
        self.file = file
        self.crash_at = crash_at
        self.ran: list[PhaseName] = []
        self.statuses: list[str] = []
        self.report_text = ""
        self.probe: ProbeResult | None = None
        self.is_canceled = False

    def canceled(self) -> bool:
        return self.is_canceled

    def remembers(self, name: PhaseName) -> bool:
        return name in self._read()

    async def phase(
        self, name: PhaseName, status: PhaseStatus, run: Callable[[], Awaitable[PhaseResult]]
    ) -> PhaseResult:
        memory = self._read()
        if name in memory:
            return PhaseResult.model_validate_json(memory[name])
        self.statuses.append(status)
        self._crash(f"before:{name}")
        self.ran.append(name)
        result = await run()
        self._crash(f"during:{name}")
        self._write(name, result.model_dump_json())
        self._crash(f"after:{name}")
        return result

    async def started(self, name: PhaseName) -> bool:
        key = f"started:{name}"
        before = key in self._read()
        self._write(key, "")
        self._crash(key)
        return before

    async def status(self, status: EndStatus, report_text: str, probe: ProbeResult | None) -> None:
        self._crash("end")
        self.statuses.append(status)
        self.report_text = report_text
        self.probe = probe

    def _crash(self, instant: str) -> None:
        if instant == self.crash_at:
            raise Crash(instant)

    def _read(self) -> dict[str, str]:
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def _write(self, key: str, value: str) -> None:
        unfinished = self.file.with_suffix(f".{uuid.uuid4().hex}")
        unfinished.write_text(json.dumps(self._read() | {key: value}))
        unfinished.replace(self.file)


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    with anyio.fail_after(seconds):
        while not true():
            await anyio.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has, as a container's init may never reap it."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


def pid_in(file: Path) -> Callable[[], bool]:
    return lambda: file.exists() and file.read_text().strip().isdigit()
