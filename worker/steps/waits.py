"""Waiting for a time, a signal or children: the job parks, at no cost, and is run again.

In: what to wait for. Out: what came, recorded as a step, so that a replay does not wait again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from db.documents import readable, to_document
from db.steps import steps as stored
from worker.attempt_state import AttemptState, RecordedStep
from worker.steps import steps

# `why` looks for these words: a sleeping job that is run early only sleeps again.
SLEEPS = "its handler sleeps"


class ChildFailed(Exception):
    """`job.gather` raises it when children did not end well.

    `children` has, by the key of each of those children, its status and its error.
    """

    def __init__(self, children: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{key} {status}: {error}" for key, (status, error) in children.items())
        )
        self.children = children


@dataclass(frozen=True, slots=True)
class Child:
    """A child job that `job.spawn` started; `job.gather` takes it."""

    key: str


async def sleep(state: AttemptState, seconds: float, name: str | None) -> None:
    """Return when `seconds` have passed since an attempt first came here; parks until then."""
    key = state.key("sleep", name)
    if await steps.find(state, key) is not None:
        return
    remaining = seconds - await steps.waited_seconds(state, key, "sleep")
    if remaining > 0:
        raise state.park("timer", detail=SLEEPS, after_seconds=remaining)
    await steps.record(state, key, "null", seconds, kind="sleep")


async def wait(
    state: AttemptState, signal: str, timeout_seconds: float | None, name: str | None
) -> Any:
    """The payload of the next signal of that name, None after the timeout; parks until then."""
    key = state.key(f"wait:{signal}", name)
    recorded = await steps.find(state, key)
    if recorded is not None:
        return recorded.output
    remaining = None
    if timeout_seconds is not None:
        remaining = timeout_seconds - await steps.waited_seconds(state, key, "wait")
    async with state.tools.database.transaction() as connection:
        found, payload = await stored.take_signal(connection, state.lease, signal)
        if found or (remaining is not None and remaining <= 0):
            document = to_document(readable(payload, f"the payload of signal {signal!r}"))
            _, payload = await stored.record(
                connection, state.lease, key, document, attempt=state.job.attempt, kind="wait"
            )
            found = True
    if not found:
        raise state.park("signal", detail=signal, after_seconds=remaining)
    return steps.keep(state, key, RecordedStep(payload, "wait"))


async def gather(state: AttemptState, children: Sequence[Child]) -> list[Any]:
    """The results of these children, in this order; parks until all have ended."""
    async with state.tools.database.connection() as connection:
        rows = await stored.children(connection, state.job.id)
    found = [rows.get(child.key) for child in children]
    if any(row is None or row["status"] in ("queued", "waiting", "running") for row in found):
        count = len(children)
        raise state.park("children", detail=f"{count} {'child' if count == 1 else 'children'}")
    ended = [row for row in found if row is not None]
    bad = [row for row in ended if row["status"] != "done"]
    if bad:
        raise ChildFailed({row["effect_key"]: (row["status"], row["error"]) for row in bad})
    return [readable(row["result"], f"the result of child {row['effect_key']!r}") for row in ended]
