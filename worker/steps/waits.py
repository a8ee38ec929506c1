"""Waiting for a time, a signal or children: the job parks, at no cost, and is run again.

In: what to wait for. Out: what came, recorded as a step, so that a replay does not wait again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, cast

from db.documents import readable, to_document
from db.pool import Connection
from db.queue import effects_made
from db.queue.effects import JobEffect
from db.steps import steps as stored
from worker.attempt_state import AttemptState, RecordedStep
from worker.outcomes import Fail
from worker.steps import steps
from worker.steps.changed import StepChanged

# `why` looks for these words: a sleeping job that is run early only sleeps again.
SLEEPS = "its handler sleeps"
BRANCH_SLEEP = "sleep of "


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
    key = await _sleep_key(state, seconds, name)
    if await steps.find(state, key) is not None:
        return
    remaining = seconds - await steps.waited_seconds(state, key, "sleep")
    if remaining > 0:
        raise state.park("timer", detail=SLEEPS, after_seconds=remaining)
    await steps.record(state, key, "null", seconds, kind="sleep")


async def _sleep_key(state: AttemptState, seconds: float, name: str | None) -> str:
    """The key of a sleep: by name, else by its order within the handler.

    Branches come to their sleeps in any order, so there it is told by its length. If none of that
    length is recorded, because the length is another one in each attempt, it is one that is over
    and that this attempt has not met.
    """
    if name is not None or not state.beside.in_branch():
        return state.key("sleep", name)
    key = state.key(f"{BRANCH_SLEEP}{seconds:g} s", None)
    if state.job.attempt > 1:
        async with state.tools.database.connection() as connection:
            slept = await stored.slept_seconds(connection, state.job.id, BRANCH_SLEEP)
        if key not in slept:
            over = [one for one, waited in slept.items() if waited >= _length(one)]
            key = next((one for one in over if one not in state.sleeps), key)
    state.sleeps.add(key)
    return key


def _length(key: str) -> float:
    return float(key.removeprefix(BRANCH_SLEEP).partition(" ")[0])


async def wait(
    state: AttemptState, signal: str, timeout_seconds: float | None, name: str | None
) -> Any:
    """The payload of the next signal of that name (True if it has none), None after the timeout;
    parks until then.
    """
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
            if found and payload is None:
                payload = True
            document = to_document(readable(payload, f"the payload of signal {signal!r}"))
            _, payload = await stored.record(
                connection, state.lease, key, document, attempt=state.job.attempt, kind="wait"
            )
            found = True
    if not found:
        raise state.park("signal", detail=signal, after_seconds=remaining)
    return steps.keep(state, key, RecordedStep(payload, "wait"))


async def gather(state: AttemptState, children: Sequence[Child | Iterable[Child]]) -> list[Any]:
    """The results of these children, in this order; parks until all have ended."""
    wanted = _children(children)
    async with state.tools.database.connection() as connection:
        rows = await stored.children(connection, state.job.id)
        await _check_same(connection, state, wanted)
    found = [rows.get(child.key) for child in wanted]
    if any(row is None or row["status"] in ("queued", "waiting", "running") for row in found):
        count = len(wanted)
        raise state.park("children", detail=f"{count} {'child' if count == 1 else 'children'}")
    ended = [row for row in found if row is not None]
    bad = [row for row in ended if row["status"] != "done"]
    if bad:
        raise ChildFailed({row["effect_key"]: (row["status"], row["error"]) for row in bad})
    return [readable(row["result"], f"the result of child {row['effect_key']!r}") for row in ended]


def _children(given: Sequence[Child | Iterable[Child]]) -> list[Child]:
    """The children; in place of one, a list of them may be given."""
    found: list[Child] = []
    for one in given:
        several = isinstance(one, list | tuple | set | GeneratorType)
        for child in cast("Iterable[object]", one) if several else (one,):
            if not isinstance(child, Child):
                raise Fail(
                    f"job.gather was given a {type(child).__name__}; it takes the children that"
                    " job.spawn returned (steps and calls are gathered by asyncio.gather)"
                )
            found.append(child)
    return found


async def _check_same(connection: Connection, state: AttemptState, wanted: Sequence[Child]) -> None:
    """Raise `StepChanged` if a child has the name of one that is another one."""
    named = {child.key for child in wanted} & state.named
    spawned = [one for one in state.effects if isinstance(one, JobEffect) and one.key in named]
    changed = await effects_made.changed_children(connection, state.job.id, spawned)
    if changed:
        raise StepChanged(
            f"the {changed[0]!r} of an earlier attempt, or from before a fork, has another mode or"
            " payload: the code or its input changed (give the new child a name of its own)"
        )
