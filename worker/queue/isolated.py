"""Handlers with `isolate="process"`: a child process that can be killed and has a memory limit.

In: a claimed job. Out: the same `Outcome` as of any attempt. When the attempt ends, whatever the
handler has started is ended with it, in sessions of its own too, and so it is when this process
ends, by `kill -9` as well: the child (`isolated_child`) watches over it, and sees our end by its
own stdin.

Nothing here rests on SIGCHLD or on asyncio's processes: a neighbour that ignores that signal, or
waits for all children, would leave this attempt waiting for ever.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import anyio
import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from db.fence import Lease
from db.queue.claim import Claimed
from db.queue.effects import Effect
from worker.outcomes import Canceled, Done, Failed, Outcome, Parked
from worker.queue.interpret import describe
from worker.queue.isolated_frames import ANSWER, EXIT, HEAD_BYTES, head_of

if TYPE_CHECKING:
    from worker.attempt_state import Tools
    from worker.handlers import Handler

# More than a handler may return and a dozen of the largest files; what is longer is refused.
ANSWER_BYTES_MAX = 2**31
CHUNK_BYTES = 2**20
# How long the child is given to end what the handler has started.
END_SECONDS = 10.0
LOOK_SECONDS = 0.02
# Our folder comes first until `main` takes over the worker's own path: a user's worker.py, in the
# working directory or on PYTHONPATH, must not be taken for our package.
CHILD = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r}); "
    "from worker.queue.isolated_child import main; main()"
)
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Effect)}


async def run(
    job: Claimed, lease: Lease, handler: "Handler", tools: "Tools", modules: tuple[str, ...]
) -> Outcome:
    """Run one attempt in a child process; whatever the handler has started is dead on return."""
    request = to_json(
        {
            "job": job._asdict(),
            "worker_id": lease.worker_id,
            "modules": [*modules, handler.function.__module__],
            "memory_mb": handler.memory_mb,
            "payload_bytes_max": tools.payload_bytes_max,
            "path": sys.path,
        }
    )
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 (asyncio's own needs SIGCHLD)
            [sys.executable, "-P", "-c", CHILD, str(write_end)],
            stdin=subprocess.PIPE,
            pass_fds=(write_end,),
            start_new_session=True,
            bufsize=0,
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):
            await _send(process, request + b"\n")
        frames = await _receive(read_end)
    finally:
        os.close(read_end)
        with anyio.CancelScope(shield=True):
            await _end(process)
    return _outcome(frames, handler)


async def _send(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    assert process.stdin is not None
    to = process.stdin.fileno()
    os.set_blocking(to, False)
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(to, rest) :]
        except BlockingIOError:
            await anyio.wait_writable(to)


async def _receive(read_end: int) -> dict[bytes, bytes]:
    """What the child has sent until it said how the handler's process ended, or closed the pipe."""
    os.set_blocking(read_end, False)
    received = bytearray()
    frames: dict[bytes, bytes] = {}
    while EXIT not in frames:
        while len(received) >= HEAD_BYTES:
            kind, size = head_of(received)
            if size > ANSWER_BYTES_MAX:
                return {ANSWER: _too_large(size)}
            if len(received) < HEAD_BYTES + size:
                break
            frames[kind] = bytes(memoryview(received)[HEAD_BYTES : HEAD_BYTES + size])
            del received[: HEAD_BYTES + size]
        if EXIT in frames:
            break
        try:
            chunk = os.read(read_end, CHUNK_BYTES)
        except BlockingIOError:
            await anyio.wait_readable(read_end)
            continue
        if not chunk:
            break
        received += chunk
    return frames


def _too_large(size: int) -> bytes:
    error = f"the handler's process answered with {size:,} bytes; at most {ANSWER_BYTES_MAX:,} are"
    remedy = "allowed (store files elsewhere, and save their uri)"
    failed = {"ending": "failed", "error": f"{error} {remedy}", "final": True}
    document = orjson.dumps(failed | {"after_seconds": None})
    return len(document).to_bytes(8, "big") + document


async def _end(process: "subprocess.Popen[bytes]") -> None:
    """Have the child end what the handler started, and itself; kill it if it does not."""
    if process.stdin is not None:
        process.stdin.close()
    with anyio.move_on_after(END_SECONDS):
        while process.poll() is None:
            await anyio.sleep(LOOK_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    while process.poll() is None:
        await anyio.sleep(LOOK_SECONDS)


def _outcome(frames: dict[bytes, bytes], handler: "Handler") -> Outcome:
    answer = frames.get(ANSWER)
    if answer is None:
        return Failed(_without_answer(frames.get(EXIT), handler))
    try:
        return _read(answer)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        return Failed(f"the answer of the handler's process cannot be read: {describe(error)}")


def _without_answer(exit_code: bytes | None, handler: "Handler") -> str:
    limit = f"; its memory limit is {handler.memory_mb} MB" if handler.memory_mb else ""
    if exit_code is None:
        return f"the handler's process was killed{limit}"
    code = int(exit_code)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the handler's process ended without a result: {how}{limit}"


def _read(answer: bytes) -> Outcome:
    size = int.from_bytes(answer[:8], "big")
    ending = orjson.loads(answer[8 : 8 + size])
    match ending["ending"]:
        case "done":
            rest = memoryview(answer)[8 + size :]
            result, rest = bytes(rest[: ending["result_bytes"]]), rest[ending["result_bytes"] :]
            made: list[Effect] = []
            for one in ending["effects"]:
                content_bytes = one.pop("content_bytes")
                if content_bytes is not None:
                    one["content"] = bytes(rest[:content_bytes])
                    rest = rest[content_bytes:]
                made.append(_adapter(one.pop("kind")).validate_python(one))
            return Done(result.decode(), tuple(made))
        case "failed":
            return Failed(
                ending["error"], ending["final"], ending["after_seconds"], ending.get("traceback")
            )
        case "canceled":
            return Canceled(ending["reason"], ending["traceback"])
        case _:
            return Parked(ending["reason"], ending["detail"], ending["after_seconds"])


# Making one compiles a schema; a job may have a thousand effects.
@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[kind])
