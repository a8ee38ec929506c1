"""Handlers with `isolate="process"`: a child process that can be killed and has a memory limit.

In: a claimed job. Out: the same `Outcome` as of any attempt. The child imports the handler's
modules, runs the plain function once, and writes one JSON document to a pipe of its own; its own
output goes to the daemon's stderr. A stop, a timeout or the daemon's end, `kill -9` included, kills
its whole process group.
"""

import asyncio
import contextlib
import dataclasses
import importlib
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import anyio
import orjson
from pydantic_core import to_json

from db.fence import Lease
from db.queue import effects
from db.queue.claim import Claimed
from worker.outcomes import Canceled, Done, Failed, Outcome, Parked

if TYPE_CHECKING:
    from worker.attempt_state import Tools
    from worker.handlers import Handler

OUTPUT_BYTES_MAX = 16_000_000
# Our folder comes first until `main` takes over the worker's own path: a user's worker.py, in the
# working directory or on PYTHONPATH, must not be taken for our package.
CHILD = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r}); "
    "from worker.queue.isolated import main; main()"
)


async def run(
    job: Claimed, lease: Lease, handler: "Handler", tools: "Tools", modules: tuple[str, ...]
) -> Outcome:
    """Run one attempt in a child process, whose whole group is dead on return."""
    document = to_json(
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
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-c",
            CHILD,
            str(write_end),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(write_end,),
            start_new_session=True,
        )
    finally:
        os.close(write_end)
    try:
        answer = await _converse(process, document, read_end)
    finally:
        _kill_group(process.pid)
        with anyio.CancelScope(shield=True):
            await process.wait()
    return _outcome(answer, process.returncode or 0, handler)


def main() -> None:
    """The child: read the job, run the handler, answer with its outcome."""
    write_end = int(sys.argv[1])
    request = orjson.loads(sys.stdin.buffer.readline())
    _die_with_the_worker()
    if request["memory_mb"]:
        limit = int(request["memory_mb"]) * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.path[:] = request["path"]
    answer = _run_here(request)
    with os.fdopen(write_end, "wb") as pipe:
        pipe.write(to_json(answer))


def _die_with_the_worker() -> None:
    # The worker holds the other end of stdin, and the kernel closes it however the worker ends.
    lifeline = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)

    def wait() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


async def _converse(
    process: asyncio.subprocess.Process, document: bytes, read_end: int
) -> bytes | None:
    reader = asyncio.StreamReader(limit=OUTPUT_BYTES_MAX)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
    )
    try:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(document + b"\n")
                await process.stdin.drain()
        answer = await reader.read(OUTPUT_BYTES_MAX)
        while len(answer) < OUTPUT_BYTES_MAX and (more := await reader.read(OUTPUT_BYTES_MAX)):
            answer += more
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()
        return answer or None
    finally:
        transport.close()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _outcome(answer: bytes | None, exit_code: int, handler: "Handler") -> Outcome:
    if answer is None:
        how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        limit = f"; its memory limit is {handler.memory_mb} MB" if handler.memory_mb else ""
        return Failed(f"the handler's process ended without a result: {how}{limit}")
    ending = orjson.loads(answer)
    match ending["ending"]:
        case "done":
            made = tuple(_effect(one) for one in ending["effects"])
            return Done(orjson.dumps(ending["result"]).decode(), made)
        case "failed":
            return Failed(ending["error"], ending["final"], ending["after_seconds"])
        case "canceled":
            return Canceled(ending["reason"])
        case _:
            return Parked("timer", "snoozed", ending["after_seconds"])


def _run_here(request: dict[str, Any]) -> dict[str, Any]:
    from worker import handlers
    from worker.attempt_state import AttemptState, Tools
    from worker.job import Job
    from worker.queue.interpret import outcome_of, result_of

    try:
        importlib.import_module("worker.modes")
        for name in request["modules"]:
            importlib.import_module(name)
        claimed = _claimed(request["job"])
        handler = handlers.registry[claimed.mode]
        lease = Lease(claimed.id, claimed.lease_no, UUID(request["worker_id"]))
        tools = cast(Tools, _NoTools(request["payload_bytes_max"]))
        state = AttemptState(claimed, lease, tools, plain=True)
        arguments = handlers.arguments_of(handler, claimed.payload)
        if handler.job_parameter is not None:
            arguments[handler.job_parameter] = Job(state)
    except Exception as error:
        return {"ending": "failed", "error": str(error), "final": True, "after_seconds": None}
    try:
        result = result_of(handler.function(**arguments), handler)
        made = [{"kind": type(e).__name__, **_plain(e)} for e in state.effects]
        return {"ending": "done", "result": orjson.loads(result), "effects": made}
    except BaseException as error:
        match outcome_of(error, claimed.attempt):
            case Failed(text, final, after_seconds):
                return {
                    "ending": "failed",
                    "error": text,
                    "final": final,
                    "after_seconds": after_seconds,
                }
            case Canceled(reason):
                return {"ending": "canceled", "reason": reason}
            case Parked(_, _, after_seconds):
                return {"ending": "parked", "after_seconds": after_seconds}
            case other:
                raise AssertionError(f"a plain function cannot end as {other}") from error


@dataclasses.dataclass(frozen=True, slots=True)
class _NoTools:
    """The only tool of the worker that the child has."""

    payload_bytes_max: int


def _plain(effect: effects.Effect) -> dict[str, Any]:
    values = dataclasses.asdict(effect)
    if isinstance(effect, effects.ArtifactEffect) and effect.content is not None:
        values["content"] = effect.content.hex()
    return values


def _effect(values: dict[str, Any]) -> effects.Effect:
    kinds: dict[str, Any] = {
        kind.__name__: kind
        for kind in (
            effects.MessageEffect,
            effects.JobEffect,
            effects.MemoryEffect,
            effects.ArtifactEffect,
        )
    }
    kind = kinds[values.pop("kind")]
    if kind is effects.ArtifactEffect and values["content"] is not None:
        values["content"] = bytes.fromhex(values["content"])
    if kind is effects.MessageEffect and values["thread_id"] is not None:
        values["thread_id"] = UUID(values["thread_id"])
    return kind(**values)


def _claimed(values: dict[str, Any]) -> Claimed:
    for name in (
        *("id", "team_id", "thread_id", "trigger_message_id", "parent_id"),
        *("run_id", "agent_id"),
    ):
        values[name] = UUID(values[name]) if values[name] else None
    return Claimed(**values)
