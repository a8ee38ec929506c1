"""Run one command of a deployment, and return how it ended.

Stage: called by every phase that starts a program (git, build, test, switch, rollback, probe).
In: an argument list (never a shell line), a directory, an environment, bounds.
Out: a `CommandResult`; a command that cannot start, fails or takes too long is a result, not an
exception.
Invariant: when this returns, every process of the command has ended, also one that left its group,
or the result names those that could not be ended. The exception is a command called with
`leaves_running` that ended well: a switch command may start a server that stays.
"""

import os
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import Process

from worker.deployments.pipeline.orphans import CommandMark
from worker.deployments.pipeline.process_group import TOKEN_VARIABLE, end_command
from worker.masking import NO_SECRETS, Masker

OUTPUT_BYTES_MAX = 64 * 1024
KILL_GRACE_SECONDS = 5.0
"""Bound on waiting for a killed process, which may be in uninterruptible sleep."""
DRAIN_BYTES_MAX = 1024 * 1024
"""Bound on reading after the command's end: a grandchild may go on writing into the pipe."""
INHERITED_NAMES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR"}
)


@dataclass(frozen=True, slots=True)
class CommandResult:
    exit_code: int | None
    """None if it did not start or was ended here; negative for the signal that ended it."""
    output: str
    """The last `output_bytes_max` bytes of stdout and stderr, in the order they were written."""
    output_bytes_cut: int
    duration_seconds: float
    timed_out: bool
    start_error: str | None = None
    left_running: tuple[int, ...] = ()
    """Ids of its processes that could not be ended."""

    @property
    def passed(self) -> bool:
        return self.exit_code == 0

    @property
    def detail(self) -> str:
        if self.start_error is not None:
            return self.start_error
        if self.left_running:
            named = ", ".join(map(str, self.left_running))
            return f"{self._ending}; its process {named} could not be ended and may go on"
        return f"{self._ending}, its processes were ended" if self.timed_out else self._ending

    @property
    def _ending(self) -> str:
        if self.timed_out:
            return f"timed out after {self.duration_seconds:.1f} s"
        if self.exit_code is not None and self.exit_code < 0:
            return f"ended by signal {-self.exit_code}"
        return f"exit code {self.exit_code}"


async def run_command(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout_seconds: float,
    output_bytes_max: int = OUTPUT_BYTES_MAX,
    mark: CommandMark | None = None,
    masker: Masker = NO_SECRETS,
    leaves_running: bool = False,
) -> CommandResult:
    """Run a command to its end, or end it after `timeout_seconds`.

    `mark`, if given, lets a later worker find the command if this one dies meanwhile.
    `leaves_running`: processes that it started may outlive it, unless it fails.
    """
    started = time.monotonic()
    token = uuid.uuid4().hex
    tail = OutputTail(output_bytes_max, masker)
    # Not the subprocess's own pipe: that waits for every holder of its write end, so a forgotten
    # background process would block it.
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    try:
        try:
            process = await _start(argv, token, cwd=cwd, env=env, output=write_end, mark=mark)
        except OSError as error:
            return _not_started(argv, cwd, error, time.monotonic() - started)
        finally:
            os.close(write_end)
        timed_out, left = await _run_to_end(
            process, token, read_end, tail, timeout_seconds, leaves_running=leaves_running
        )
    finally:
        os.close(read_end)
        if mark is not None:
            mark.remove()
    return CommandResult(
        exit_code=None if timed_out else process.returncode,
        output=tail.text(),
        output_bytes_cut=tail.bytes_cut,
        duration_seconds=time.monotonic() - started,
        timed_out=timed_out,
        left_running=tuple(sorted(left)),
    )


def command_environment(
    inherited: Mapping[str, str], *additions: Mapping[str, str]
) -> dict[str, str]:
    """The harmless variables of the daemon's own environment, then `additions`.

    It is an allow list, so that no secret of the daemon reaches a command, whatever its name.
    """
    env = {
        name: value
        for name, value in inherited.items()
        if name in INHERITED_NAMES or name.startswith("LC_")
    }
    env.setdefault("PATH", os.defpath)
    for addition in additions:
        env.update(addition)
    return env


class OutputTail:
    """Keeps the last bytes of a stream, masked, and counts those dropped before."""

    def __init__(self, bytes_max: int, masker: Masker = NO_SECRETS) -> None:
        self._bytes_max: int = bytes_max
        self._masker: Masker = masker
        self._data: bytearray = bytearray()
        self._dropped: int = 0

    @property
    def bytes_cut(self) -> int:
        return self._dropped + self._start

    def add(self, chunk: bytes) -> None:
        self._data += chunk
        # `text` starts that much later, so that it never starts with half a secret.
        surplus = len(self._data) - self._bytes_max - self._masker.margin
        if surplus > 0:
            del self._data[:surplus]
            self._dropped += surplus

    def text(self) -> str:
        """The kept bytes as text, without NUL, which PostgreSQL cannot store."""
        shown = self._masker.mask_bytes(bytes(self._data), self._start)
        text = shown.decode("utf-8", "replace").replace("\x00", "\ufffd")
        # A replacement character is longer than the byte it stands for: bound the result again.
        data = text.encode()
        return data[max(0, len(data) - self._bytes_max) :].decode("utf-8", "ignore")

    @property
    def _start(self) -> int:
        return max(0, len(self._data) - self._bytes_max)


async def _start(
    argv: Sequence[str],
    token: str,
    *,
    cwd: Path,
    env: Mapping[str, str],
    output: int,
    mark: CommandMark | None,
) -> Process:
    # Shielded: a cancellation after the fork and before the pid is known would leave the group.
    with anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={**env, TOKEN_VARIABLE: token},
            start_new_session=True,
            pass_fds=() if mark is None else (mark.fd,),
        )
        if mark is not None:
            mark.write(process.pid, token)
        return process
    raise AssertionError("a shield that nobody cancels swallows nothing")


def _not_started(
    argv: Sequence[str], cwd: Path, error: OSError, duration_seconds: float
) -> CommandResult:
    program = argv[0]
    if not cwd.is_dir():
        reason = f"its directory {cwd} does not exist"
    elif isinstance(error, FileNotFoundError):
        reason = "the program does not exist; install it, or write its full path"
    elif isinstance(error, PermissionError):
        reason = "it is not executable; commit it with its execute permission"
    else:
        reason = error.strerror or str(error)
    return CommandResult(
        exit_code=None,
        output="",
        output_bytes_cut=0,
        duration_seconds=duration_seconds,
        timed_out=False,
        start_error=f"cannot start {program!r}: {reason}",
    )


async def _run_to_end(
    process: Process,
    token: str,
    read_end: int,
    tail: OutputTail,
    timeout_seconds: float,
    *,
    leaves_running: bool,
) -> tuple[bool, set[int]]:
    """Wait for the command's end: whether the time ran out, and the processes that are left.

    An interrupted wait ends them all.
    """
    exited, left = False, set[int]()
    try:
        with anyio.move_on_after(timeout_seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_collect, read_end, tail)
                await process.wait()
                exited = True
                tasks.cancel_scope.cancel()
    finally:
        if not (exited and leaves_running and process.returncode == 0):
            with anyio.CancelScope(shield=True):
                left = await _end(process, token, read_end, tail)
        _drain(read_end, tail)
    return not exited, left


async def _collect(read_end: int, tail: OutputTail) -> None:
    while True:
        await anyio.wait_readable(read_end)
        if _read_into(read_end, tail) == 0:
            return


async def _end(process: Process, token: str, read_end: int, tail: OutputTail) -> set[int]:
    left = await end_command(process.pid, token, while_waiting=lambda: _drain(read_end, tail))
    with anyio.move_on_after(KILL_GRACE_SECONDS):
        await process.wait()
    return left


def _drain(read_end: int, tail: OutputTail) -> None:
    read = 0
    while read < DRAIN_BYTES_MAX:
        count = _read_into(read_end, tail)
        if not count:
            return
        read += count


def _read_into(read_end: int, tail: OutputTail) -> int | None:
    """Read once; the number of bytes, 0 at the end of the stream, None if none are ready."""
    try:
        chunk = os.read(read_end, 64 * 1024)
    except BlockingIOError:
        return None
    tail.add(chunk)
    return len(chunk)
