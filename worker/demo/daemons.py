"""The demo's daemons: real `jobsworth worker` processes that it starts, kills and stops.

In: the stage they work on. Out: processes, which log to files in the demo's folder. Invariant: no
daemon outlives the block.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio

from db.errors import JobsworthError
from worker.demo.provider.model import ServedModel
from worker.demo.stage import Stage
from worker.settings import PREFIX, Settings

HANDLERS = "demo_jobs"
# Copied, not imported: only the daemons need its imports.
HANDLERS_FILE = Path(__file__).with_name("handlers.py")
STOP_SECONDS = 20.0
LOG_LINES_SHOWN = 5
# Settings that the daemons do not inherit from the demo's environment.
OWN_SETTINGS = (
    *("DATABASE_URL", "SCHEMA", "DATA_DIR", "DEPLOY_FILE", "RELEASES_DIR", "HANDLERS", "QUEUES"),
    *("HTTP_HOST", "HTTP_PORT", "LOG_LEVEL", "LOG_FORMAT", "LOG_ATTEMPTS", "DRAIN_SECONDS"),
    *("MODEL", "MODEL_URL", "MODEL_KEY", "MODEL_SECONDS", "MAX_OUTPUT_TOKENS", "INSTRUCTIONS"),
    "EMBEDDER",
    *("HISTORY_TOKENS", "UNKNOWN_PRICE", "SPOOL_DIR", "SPOOL_BYTES_MAX"),
)


class DaemonEnded(JobsworthError):
    """A daemon ended although nobody told it to."""


class Daemon:
    """One daemon process and its log file."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.number = number
        self.process = process
        self.log = log
        self.told_to_end = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def __str__(self) -> str:
        return f"daemon {self.number} (process {self.pid})"

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process has ended."""
        self.told_to_end = True
        self.process.kill()
        self.process.wait()

    def require_alive(self) -> None:
        """Raise `DaemonEnded` with the end of its log if it ended without being told to."""
        code = self.process.poll()
        if code is not None and not self.told_to_end:
            lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            raise DaemonEnded(
                "\n".join([f"{self} ended by itself with exit code {code}:", *lines]),
                f"its whole log is {self.log} (keep it with --keep)",
            )


class Daemons:
    """Starts and stops daemons; `all` holds every daemon that was ever started."""

    def __init__(
        self, settings: Settings, stage: Stage, deploy_file: Path, model: ServedModel
    ) -> None:
        self.all: list[Daemon] = []
        self._folder = stage.folder
        self._environment = _environment(settings, stage, deploy_file) | model.environment
        shutil.copyfile(HANDLERS_FILE, stage.folder / f"{HANDLERS}.py")

    def start(self) -> Daemon:
        """Start one more daemon."""
        number = len(self.all) + 1
        log = self._folder / f"daemon-{number}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", "worker"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches only the demo, which then stops the daemons.
                start_new_session=True,
            )
        daemon = Daemon(number, process, log)
        self.all.append(daemon)
        return daemon

    @property
    def living(self) -> list[Daemon]:
        return [daemon for daemon in self.all if daemon.process.poll() is None]

    def require_alive(self) -> None:
        """Raise `DaemonEnded` if a daemon ended without being told to."""
        for daemon in self.all:
            daemon.require_alive()

    async def stop(self) -> list[str]:
        """Tell all daemons to stop, and wait; return a line for each that did not end with 0."""
        stopping = self.living
        for daemon in stopping:
            daemon.told_to_end = True
            daemon.process.send_signal(signal.SIGTERM)
        problems: list[str] = []
        with anyio.move_on_after(STOP_SECONDS):
            while self.living:
                await anyio.sleep(0.05)
        for daemon in stopping:
            code = daemon.process.poll()
            if code != 0:
                ended = "did not stop" if code is None else f"ended with exit code {code}"
                problems.append(f"{daemon} {ended} after SIGTERM")
        return problems


@contextmanager
def daemons_of(
    settings: Settings, stage: Stage, deploy_file: Path, model: ServedModel
) -> Generator[Daemons]:
    """The demo's daemons; all that still run are killed when the block ends."""
    daemons = Daemons(settings, stage, deploy_file, model)
    try:
        yield daemons
    finally:
        for daemon in daemons.living:
            daemon.kill()


def _environment(settings: Settings, stage: Stage, deploy_file: Path) -> dict[str, str]:
    own = {f"{PREFIX}{name}" for name in OWN_SETTINGS}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in own}
    ours = Path(__file__).resolve().parents[2]
    path = (str(ours), *filter(None, [os.environ.get("PYTHONPATH")]), str(Path.cwd()))
    return inherited | {
        "PYTHONPATH": os.pathsep.join(path),
        f"{PREFIX}DATABASE_URL": stage.url,
        f"{PREFIX}SCHEMA": stage.schema,
        f"{PREFIX}DATA_DIR": str(stage.folder),
        f"{PREFIX}RELEASES_DIR": str(stage.releases_dir),
        f"{PREFIX}DEPLOY_FILE": str(deploy_file),
        f"{PREFIX}HANDLERS": ",".join([*settings.handlers, HANDLERS]),
        f"{PREFIX}EMBEDDER": settings.embedder,
        f"{PREFIX}HTTP_HOST": "127.0.0.1",
        f"{PREFIX}HTTP_PORT": "0",
        f"{PREFIX}LOG_FORMAT": "json",
    }
