"""Steps: what a handler has run once, and what a replay reads instead.

In: a name and a function. Out: what the function returned, recorded under the fence before the
handler sees it. The invariant is replay: a handler is run from its start after every wait, retry
and crash; what was recorded under a name is read back, never run again.
"""

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from db import steps
from db.documents import to_document
from db.pool import Connection
from db.steps import Record
from worker import crash_points
from worker.group_commit import RECORD

if TYPE_CHECKING:
    from worker.context import Job

KEPT_DETAIL = "a paid answer is on the disk of the machine, and is settled before the job goes on"
KEPT_PAUSE_SECONDS = 1.0


async def run(job: "Job", name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The recorded output of step `name`, else that of `fn(*args, **kwargs)`, recorded."""
    found, output = await read(job, name)
    if found:
        return output
    began = time.monotonic()
    value = await _call(job, fn, *args, **kwargs)
    return await record(
        job, name, to_document(value, f"the result of step {name!r}"), time.monotonic() - began
    )


async def transaction(job: "Job", name: str, fn: Callable[[Connection], Awaitable[Any]]) -> Any:
    """The user's own SQL, the fence and the step in one commit."""
    found, output = await read(job, name)
    if found:
        return output
    async with job.tools.database.transaction() as connection:
        await steps.hold(connection, job.lease)
        value = to_document(await fn(connection), f"the result of transaction {name!r}")
        _, output = await steps.record(
            connection, job.lease, name, value, attempt=job.attempt, kind="transaction"
        )
    return keep(job, name, output)


async def read(job: "Job", name: str, *, fresh: bool = False) -> tuple[bool, Any]:
    """Is this step recorded, and with which output? `fresh` asks the database again."""
    if job.recorded is None or fresh:
        await _settle_first(job)
        async with job.tools.database.connection() as connection:
            found = await steps.list_for_job(connection, job.id)
        job.recorded = {step.name: step.output for step in found if step.finished_at}
    return name in job.recorded, job.recorded.get(name)


async def record(
    job: "Job", name: str, output: str, took_seconds: float, *, kind: str = "step"
) -> Any:
    """Record a step's output (JSON text) under the fence; returns the output that stands."""
    ran = Record(job.lease, name, output, job.attempt, took_seconds, kind)
    stands = await job.write(RECORD, ran)
    crash_points.reach("step.committed")
    return keep(job, name, stands)


def keep(job: "Job", name: str, output: Any) -> Any:
    """Know a recorded output for the rest of the attempt."""
    if job.recorded is not None:
        job.recorded[name] = output
    return output


async def _settle_first(job: "Job") -> None:
    """What an earlier attempt paid for may be on this machine's disk: it is a step first."""
    if not await job.tools.spool.clear(job.id):
        raise job.park("timer", detail=KEPT_DETAIL, after_seconds=KEPT_PAUSE_SECONDS)


async def waited_seconds(job: "Job", key: str, kind: str) -> float:
    """How long ago the wait `key` was begun: now, if this is the first time."""
    async with job.tools.database.connection() as connection:
        return await steps.waited_seconds(
            connection, job.lease, key, attempt=job.attempt, kind=kind
        )


async def _call(job: "Job", fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if inspect.iscoroutinefunction(fn):
        return await fn(*args, **kwargs)
    value = await job.run_in_thread(fn, *args, **kwargs)
    return await value if inspect.isawaitable(value) else value
