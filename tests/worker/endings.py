"""Handlers that end in every way there is, the rude ones too."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import anyio
import anyio.lowlevel

from jobsworth import Cancel, Fail, Job, Retry, Snooze, handler
from tests.chaos.handlers import GATE_POLL_SECONDS, GATE_SECONDS_MAX, noted

FOREVER_SECONDS = 600.0
# The loop holds its tasks weakly.
LEFT: list[asyncio.Task[str]] = []


@handler("end.return")
async def end_return(job: Job, n: int, word: str = "x") -> list[object]:
    with noted(job):
        return [n, word]


@handler("end.raise")
async def end_raise(job: Job, times: int) -> int:
    """Raises in its first attempts."""
    with noted(job):
        if job.attempt <= times:
            raise ValueError(f"boom {job.attempt}")
        return job.attempt


@handler("end.retry")
async def end_retry(job: Job, after: float) -> None:
    with noted(job):
        if job.attempt == 1:
            raise Retry(after, "the provider is busy")


@handler("end.fail")
async def end_fail() -> None:
    raise Fail("no try can help")


@handler("end.cancel")
async def end_cancel() -> None:
    raise Cancel("nothing to do any more")


@handler("end.snooze")
async def end_snooze(job: Job, seconds: float) -> None:
    with noted(job):
        job.remember("dropped by the snooze, kept by the return")
        if job.attempt == 1:
            raise Snooze(seconds)


@handler("end.sleep")
async def end_sleep(job: Job, seconds: float) -> int:
    with noted(job):
        await job.sleep(seconds)
        return job.attempt


@handler("end.messages")
async def end_messages(job: Job) -> list[str]:
    return [message.text for message in await job.messages()]


@handler("end.never")
async def end_never(job: Job) -> None:
    with noted(job):
        await anyio.sleep(FOREVER_SECONDS)


@handler("end.deaf")
async def end_deaf(job: Job) -> str:
    """Takes no notice of being stopped, and finishes at its gate."""
    with noted(job), anyio.CancelScope(shield=True), anyio.fail_after(GATE_SECONDS_MAX):
        while not _gate().exists():
            await anyio.sleep(GATE_POLL_SECONDS)
    return "finished all the same"


@handler("end.swallow")
async def end_swallow() -> str:
    """Swallows each cancellation, until its gate opens."""
    give_up = time.monotonic() + GATE_SECONDS_MAX
    while not _gate().exists() and time.monotonic() < give_up:
        with suppress(asyncio.CancelledError):
            await anyio.sleep(GATE_POLL_SECONDS)
    return "finished all the same"


@handler("end.leave_deaf")
async def end_leave_deaf() -> str:
    """Ends, and leaves a task that swallows each cancellation until its gate opens."""
    LEFT.append(asyncio.create_task(end_swallow()))
    await anyio.sleep(GATE_POLL_SECONDS)
    return "ended before its task"


@handler("end.thread")
def end_thread(job: Job) -> str:
    """A plain function that nobody can interrupt, until its gate opens."""
    with noted(job):
        _wait_for_gate()
    return "finished all the same"


@handler("end.block")
async def end_block(job: Job, seconds: float) -> None:
    """Blocks the event loop, which a handler should not."""
    with noted(job):
        time.sleep(seconds)  # noqa: ASYNC251 - the point


@handler("end.block_in_child")
async def end_block_in_child(job: Job, seconds: float) -> None:
    """Blocks the event loop in a child task."""

    async def child() -> None:
        await anyio.lowlevel.checkpoint()
        time.sleep(seconds)  # noqa: ASYNC251 - the point

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)


@handler("end.deaf_to_children")
async def end_deaf_to_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


@handler("end.exit")
async def end_exit() -> None:
    sys.exit(3)


@handler("end.poison")
async def end_poison() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@handler("process.return", isolate="process")
def process_return(job: Job, n: int) -> dict[str, int]:
    job.save("pid.txt", str(os.getpid()))
    return {"n": n, "pid": os.getpid()}


@handler("process.raise", isolate="process")
def process_raise() -> None:
    raise ValueError("boom in a process")


@handler("process.retry", isolate="process")
def process_retry(job: Job) -> int:
    if job.attempt == 1:
        raise Retry(0.05, "the provider is busy")
    return job.attempt


@handler("process.never", isolate="process")
def process_never(job: Job) -> None:
    """Has a child of its own, and writes down both pids."""
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER_SECONDS})"])
    (_directory() / "pids.new").write_text(f"{os.getpid()} {child.pid}")
    (_directory() / "pids.new").rename(_directory() / f"pids.{job.attempt}")
    time.sleep(FOREVER_SECONDS)


@handler("process.memory", isolate="process", memory_mb=1500)
def process_memory() -> int:
    return len(bytearray(4_000_000_000))


@handler("process.exit", isolate="process")
def process_exit() -> None:
    sys.exit(3)


@handler("process.os_exit", isolate="process")
def process_os_exit() -> None:
    os._exit(4)


@handler("process.segfault", isolate="process")
def process_segfault() -> None:
    ctypes.string_at(0)


@handler("process.print", isolate="process")
def process_print() -> str:
    print("x" * 1_000_000)
    return "printed"


@handler("process.everything", isolate="process")
def process_everything(job: Job, agent_id: str, thread_id: str) -> str:
    """Uses each method that a plain handler has."""
    job.say("said", thread_id=UUID(thread_id), model="m", input_tokens=1)
    job.send(UUID(agent_id), "sent", thread_id=UUID(thread_id))
    job.metric("loss", 0.5)
    job.enqueue("end.return", {"n": 1}, delay_seconds=3600, agent_id=UUID(agent_id))
    job.save("report.txt", b"\0binary\xff")
    job.save("elsewhere", uri="https://example.org/x")
    job.remember("remembered", metadata={"a": [1]})
    job.log.info("handler.logged")
    return f"{job.mode} {job.attempt} {job.payload['thread_id']}"


@handler("process.database", isolate="process")
def process_database(job: Job) -> object:
    return job.database


@handler("process.large", isolate="process")
def process_large(job: Job, file_bytes: int, result_bytes: int) -> str:
    job.save("large.bin", b"x" * file_bytes)
    return "y" * result_bytes


@handler("process.leaves", isolate="process")
def process_leaves(job: Job) -> str:
    """Leaves children behind: in its group, in a session of their own, of a parent that is gone."""
    endless = f"import os, time; time.sleep({FOREVER_SECONDS})"
    pids = [
        subprocess.Popen([sys.executable, "-c", endless]).pid,
        subprocess.Popen([sys.executable, "-c", endless], start_new_session=True, env={}).pid,
    ]
    orphan = (
        "import os, subprocess, sys; print(subprocess.Popen([sys.executable, '-c',"
        f" {endless!r}], start_new_session=True, stdout=subprocess.DEVNULL).pid)"
    )
    pids.append(int(subprocess.check_output([sys.executable, "-c", orphan])))
    (_directory() / "pids.new").write_text(" ".join(map(str, pids)))
    (_directory() / "pids.new").rename(_directory() / f"pids.{job.attempt}")
    return "left"


def _wait_for_gate() -> None:
    give_up = time.monotonic() + GATE_SECONDS_MAX
    while not _gate().exists():
        if time.monotonic() > give_up:
            raise TimeoutError("nobody opened the gate")
        time.sleep(GATE_POLL_SECONDS)


def _gate() -> Path:
    return _directory() / "hold"


def _directory() -> Path:
    return Path(os.environ["JOBSWORTH_CHAOS_DIR"])
