"""Waiting for a time, a signal or children: the job parks, at no cost, and is run again.

In: what to wait for. Out: what came, recorded as a step, so that a replay does not wait again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from db.documents import to_document
from db.steps import steps as recorded
from worker.steps import steps

if TYPE_CHECKING:
    from worker.job import Job

# `why` looks for these words: a job that sleeps cannot be hurried.
SLEEPS = "its handler sleeps"


class ChildFailed(Exception):
    """A gathered child did not end well; `children` maps its key to (status, error)."""

    def __init__(self, children: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{key} {status}: {error}" for key, (status, error) in children.items())
        )
        self.children = children


@dataclass(frozen=True, slots=True)
class Child:
    """A spawned job, to be gathered."""

    key: str


async def sleep(job: "Job", seconds: float, name: str | None) -> None:
    """Return when that long has passed since the first time; parks until then."""
    key = job.key("sleep", name)
    found, _ = await steps.read(job, key)
    if found:
        return
    remaining = seconds - await steps.waited_seconds(job, key, "sleep")
    if remaining > 0:
        raise job.park("timer", detail=SLEEPS, after_seconds=remaining)
    await steps.record(job, key, "null", seconds, kind="sleep")


async def wait(job: "Job", signal: str, timeout_seconds: float | None, name: str | None) -> Any:
    """The payload of the next signal of that name, None after the timeout; parks until then."""
    key = job.key(f"wait:{signal}", name)
    found, output = await steps.read(job, key)
    if found:
        return output
    remaining = None
    if timeout_seconds is not None:
        remaining = timeout_seconds - await steps.waited_seconds(job, key, "wait")
    async with job.tools.database.transaction() as connection:
        found, payload = await recorded.take_signal(connection, job.lease, signal)
        if found or (remaining is not None and remaining <= 0):
            document = to_document(payload)
            _, payload = await recorded.record(
                connection, job.lease, key, document, attempt=job.attempt, kind="wait"
            )
            found = True
    if not found:
        raise job.park("signal", detail=signal, after_seconds=remaining)
    return steps.keep(job, key, payload)


async def gather(job: "Job", children: Sequence[Child]) -> list[Any]:
    """The results of these children, in this order; parks until all have ended."""
    async with job.tools.database.connection() as connection:
        rows = await recorded.children(connection, job.id)
    found = [rows.get(child.key) for child in children]
    if any(row is None or row["status"] in ("queued", "waiting", "running") for row in found):
        count = len(children)
        raise job.park("children", detail=f"{count} {'child' if count == 1 else 'children'}")
    ended = [row for row in found if row is not None]
    bad = [row for row in ended if row["status"] != "done"]
    if bad:
        raise ChildFailed({row["effect_key"]: (row["status"], row["error"]) for row in bad})
    return [row["result"] for row in ended]
