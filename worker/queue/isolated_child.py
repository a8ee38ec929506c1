"""The child of an isolated handler, as two processes: one runs the handler, one watches over it.

In: a job, on stdin. Out: the handler's answer and how its process ended, on a pipe of their own;
what the handler prints goes where the daemon's output goes. The watching process adopts whatever
the handler leaves behind, in sessions of its own too (Linux: PR_SET_CHILD_SUBREAPER). It kills all
of it once the handler has ended or stdin is closed, which the kernel does for a daemon that is
killed. It runs nothing of the handler's, so no handler breaks it by accident.
"""

import ctypes
import dataclasses
import importlib
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Never, cast
from uuid import UUID

from pydantic_core import to_json

from db.documents import from_document
from worker.queue import forked
from worker.queue.isolated_frames import ANSWER, EXIT, send

SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36
KILL_SECONDS = 5.0


def main() -> None:
    """Read the job, run the handler in a process of its own, end whatever it leaves."""
    write_end = int(sys.argv[1])
    request = from_document(sys.stdin.buffer.readline())
    _control(SET_CHILD_SUBREAPER, 1)
    os.set_inheritable(write_end, False)
    watcher = os.getpid()
    pid = os.fork()
    if pid:
        _watch_over(pid, write_end)
    _control(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != watcher:
        os._exit(0)
    os.setsid()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    if request["memory_mb"]:
        limit = int(request["memory_mb"]) * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.path[:] = request["path"]
    _answer(request, write_end)


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _watch_over(pid: int, write_end: int) -> Never:
    status: int | None = None
    gone = _end_of(pid)
    while status is None:
        watched = [0] if gone is None else [0, gone]
        readable, _, _ = select.select(watched, [], [], 0.05 if gone is None else None)
        if 0 in readable:  # the daemon wants an end, or has ended
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        else:
            ended, found = os.waitpid(pid, os.WNOHANG)
            status = found if ended else None
    _kill_what_is_left()
    with suppress(OSError):
        send(write_end, EXIT, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _end_of(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where there is no such."""
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError:  # forbidden, as in some containers
        return None


def _kill_what_is_left() -> None:
    """Kill children until there are none: those of a killed one come here, too."""
    give_up = time.monotonic() + KILL_SECONDS
    while time.monotonic() < give_up:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for child in _children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _children() -> list[int]:
    me = os.getpid()
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # pid (name) state parent …; the name may hold anything.
            if int(process.read_text().rpartition(")")[2].split()[1]) == me:
                found.append(int(process.parent.name))
    return found


def _answer(request: dict[str, Any], write_end: int) -> None:
    from worker.queue.interpret import describe

    with forked.children_end_here():
        ending, blobs = _run(request)
        try:
            document = to_json(ending)
        except Exception as error:
            blobs = []
            document = to_json(_failed(f"what the job made is not JSON: {describe(error)}"))
        forked.leave_if_child()
        send(write_end, ANSWER, len(document).to_bytes(8, "big"), document, *blobs)
        # What the handler has started, threads included, does not hold up its answer.
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(0)


def _run(request: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    from worker import handlers
    from worker.attempt_state import AttemptState, Tools
    from worker.job import Job
    from worker.log import configure_logging, job_bound
    from worker.plain_job import trace_id
    from worker.queue.interpret import describe, outcome_of, result_of
    from worker.tracebacks import traceback_of

    configure_logging()
    try:
        importlib.import_module("worker.modes")
        for name in request["modules"]:
            importlib.import_module(name)
        job = _claimed(request["job"])
        handler = handlers.registry.get(job.mode)
        if handler is None:
            return _failed(_missing(job.mode, request["modules"])), []
        lease = _lease(job, request["worker_id"])
        tools = cast(Tools, _NoTools(request["payload_bytes_max"]))
        state = AttemptState(job, lease, tools, plain=True)
        arguments = handlers.arguments_of(handler, job.payload)
        if handler.job_parameter is not None:
            arguments[handler.job_parameter] = Job(state)
    except Exception as error:
        return _failed(describe(error), traceback_of(error)), []
    try:
        with job_bound(
            job_id=job.id,
            lease_no=job.lease_no,
            mode=job.mode,
            trace_id=trace_id(job.trace_parent),
            request_id=job.request_id,
        ):
            result = result_of(handler.function(**arguments), handler).encode()
        forked.leave_if_child()
        made, blobs = _plain(state.effects)
        ending = {"ending": "done", "result_bytes": len(result), "effects": made}
        return ending, [result, *blobs]
    except BaseException as error:
        forked.leave_if_child(error)
        return _ending(outcome_of(error, job.attempt, handler.function)), []


def _ending(outcome: Any) -> dict[str, Any]:
    from worker.outcomes import Canceled, Failed, Parked

    match outcome:
        case Failed(text, final, after_seconds, traceback):
            return {
                "ending": "failed",
                "error": text,
                "final": final,
                "after_seconds": after_seconds,
                "traceback": traceback,
            }
        case Canceled(reason, traceback):
            return {"ending": "canceled", "reason": reason, "traceback": traceback}
        case Parked(reason, detail, after_seconds):
            return {
                "ending": "parked",
                "reason": reason,
                "detail": detail,
                "after_seconds": after_seconds,
            }
        case other:
            return _failed(f"a plain function cannot end as {other}")


def _missing(mode: str, modules: list[str]) -> str:
    return (
        f"the process of the handler {mode!r} imported {', '.join(modules)}, and none of them"
        " declares it: declare it at the top level of a module"
    )


def _failed(error: str, traceback: str | None = None) -> dict[str, Any]:
    failed = {"ending": "failed", "error": error, "final": True, "after_seconds": None}
    return failed | {"traceback": traceback}


class _NoTools:
    """What the child has of the worker's tools: no connection."""

    def __init__(self, payload_bytes_max: int) -> None:
        self.payload_bytes_max = payload_bytes_max

    @property
    def database(self) -> Never:
        from db.errors import InvalidInput

        raise InvalidInput(
            'a handler with isolate="process" has no connection of the worker\'s',
            "open one of its own, or leave isolate out",
        )

    handlers_database = database


def _plain(made: list[Any]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Effects as documents, and the contents of files beside them, in the same order."""
    documents: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for effect in made:
        # Not `asdict`, which would copy each content.
        values = {field.name: getattr(effect, field.name) for field in dataclasses.fields(effect)}
        content = values.pop("content", None)
        if content is not None:
            blobs.append(content)
        size = None if content is None else len(content)
        documents.append({"kind": type(effect).__name__, "content_bytes": size, **values})
    return documents, blobs


def _lease(job: Any, worker_id: str) -> Any:
    from db.fence import Lease

    return Lease(job.id, job.lease_no, UUID(worker_id))


def _claimed(values: dict[str, Any]) -> Any:
    from db.queue.claim import Claimed

    for name in (
        *("id", "team_id", "thread_id", "trigger_message_id", "parent_id"),
        *("run_id", "agent_id"),
    ):
        values[name] = UUID(values[name]) if values[name] else None
    return Claimed(**values)
