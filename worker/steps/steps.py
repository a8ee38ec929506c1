"""Steps: named, durable pieces of a job.

In: a name and what to do. Out: what it returned, recorded under the fence before the handler goes
on. Invariants: a handler may be run from its start after every wait, retry and crash, and what is
recorded under a name is read back, never run again. A step that is unsafe to repeat is marked as
begun, in the database, before it runs; nobody repeats it unless a person says so.

Only its record, an ending that the step raised itself, or a person removes the mark of an unsafe
step; another attempt that finds the mark parks the job for a person. A step that a person allowed
begins in the transaction that consumes the approval, whoever asked: a handler, an agent's tool or a
deployment. Taking back that a step has begun gives its approval back in the same transaction.
"""

import inspect
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar, cast
from uuid import UUID

import anyio

from db.approvals import consumption
from db.documents import readable, to_document, to_text
from db.errors import Conflict, InvalidInput, JobsworthError
from db.fence import hold
from db.pool import Connection, bounded
from db.steps import steps, unsafe
from db.steps.failed import FailedStep
from db.steps.steps import Record, Step
from worker import crash_points
from worker.attempt_state import AttemptState, RecordedStep
from worker.masking import mask
from worker.money.group_commit import RECORD
from worker.outcomes import HandlerEnding, ParkSignal, Snooze
from worker.steps import changed
from worker.steps.declaration import check_effect, check_name
from worker.steps.input_hash import Input, input_of
from worker.tracing import conventions
from worker.tracing.spans import within

KEPT_DETAIL = "a paid answer is on the disk of the machine, and is settled before the job goes on"
KEPT_PAUSE_SECONDS = 1.0

T = TypeVar("T")
# About as long as a worker that cannot reach the database keeps its attempts.
UNSAFE_WRITE_SECONDS_MAX = 10.0
PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)
ERROR_CHARACTERS_MAX = 500
# An attempt that goes on after so many is not told of each.
FAILED_STEPS_MAX = 100
NO_INPUT = Input(None, None)


async def run(
    state: AttemptState,
    name: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    effect: str = "idempotent",
    any_input: bool = False,
    given: Input | None = None,
) -> Any:
    """The recorded output of step `name`; else what `fn(*args, **kwargs)` returns, recorded.

    `given`: the hash of the arguments and their document, if the caller has them.

    An approval for this step is consumed in the transaction that begins it. Raises `StepChanged` if
    the step is recorded with another input; a pure step is computed anew.
    """
    check_effect(name, effect)
    if given is None:
        given = input_of(args, kwargs, state.tools.step_input_bytes)
    recorded = await find(state, name)
    if recorded is not None:
        changed.check_kind(name, recorded, "step")
        if any_input or recorded.input_hash in (None, given.hash):
            return recorded.output
        if effect != "pure":
            raise changed.other_input(state, name, inherited=recorded.inherited)
    with alone(state, name):
        consumes = state.approvals.get(name)
        if effect == "unsafe" or consumes is not None:
            await _again_for_a_while(partial(_begin, state, name, given, effect, consumes))
        if effect == "unsafe":
            return await _run_once(state, name, given, fn, args, kwargs)
        began = time.monotonic()
        try:
            value = await _call(state, name, fn, args, kwargs)
            document = to_document(value, f"the result of step {name!r}")
        except BaseException as error:
            _note_failure(state, name, given, effect, began, error)
            raise
        took_seconds = time.monotonic() - began
        return await record(state, name, document, took_seconds, effect=effect, given=given)


@contextmanager
def alone(state: AttemptState, name: str) -> Generator[None]:
    """A step or call, which is work that others wait for (`worker.steps.beside`).

    Raises `InvalidInput` while one of the same name runs, because both would get the first result;
    `ParkSignal` if the job is about to wait; and `LeaseLost` if the handler has ended.
    """
    state.check_not_over()
    if name in state.under_way:
        raise InvalidInput(
            f"step {name!r} runs already in this attempt of job {state.job.id}",
            "steps that run beside each other need names of their own, like f'fetch {n}'",
        )
    with state.beside.working():
        state.under_way.add(name)
        try:
            yield
        finally:
            state.under_way.discard(name)


async def transaction(
    state: AttemptState, name: str, fn: Callable[[Connection], Awaitable[Any]]
) -> Any:
    """Run `fn`, and record what it returns, in one transaction under the fence."""
    recorded = await find(state, name)
    if recorded is not None:
        changed.check_kind(name, recorded, "transaction")
        return recorded.output
    with alone(state, name):
        async with state.own_sql.transaction() as connection:
            await hold(connection, state.lease)
            value = to_document(await fn(connection), f"the result of transaction {name!r}")
            _, output = await steps.record(
                connection, state.lease, name, value, attempt=state.job.attempt, kind="transaction"
            )
    crash_points.reach("step.committed")
    return keep(state, name, RecordedStep(output, "transaction"))


async def find(state: AttemptState, name: str, *, fresh: bool = False) -> RecordedStep | None:
    """The recorded step of that name, or None; `fresh` reads the database again.

    A job of a branch also finds what was recorded before the cut. Parks while a paid answer of an
    earlier attempt is on this machine's disk and cannot be settled.
    """
    if name not in (state.recorded or ()):
        check_name("step", name)
    if state.recorded is None or fresh:
        await _settle_spooled(state)
        async with state.tools.database.connection() as connection:
            if state.job.run_id is None:
                found = await steps.list_for_job(connection, state.job.id)
            else:
                found = await steps.list_readable(connection, state.job.id)
        state.recorded = {step.name: _recorded(state, step) for step in found if step.finished_at}
    state.seen.add(name)
    recorded = state.recorded.get(name)
    if recorded is not None:
        _output(name, recorded)
    return recorded


async def record(
    state: AttemptState,
    name: str,
    output: str,
    took_seconds: float,
    *,
    kind: str = "step",
    effect: str = "idempotent",
    given: Input = NO_INPUT,
) -> Any:
    """Record a step's output (JSON text) under the fence; returns the output that stands."""
    ran = Record(state.lease, name, output, state.job.attempt, took_seconds, kind, effect, *given)
    stands = await state.write(RECORD, ran)
    crash_points.reach("step.committed")
    if state.failed_steps:
        state.failed_steps.pop(name, None)
    return keep(state, name, RecordedStep(stands, kind, given.hash))


def keep(state: AttemptState, name: str, recorded: RecordedStep) -> Any:
    """Keep a step that is recorded for the rest of the attempt; returns its output."""
    if state.recorded is not None:
        state.recorded[name] = recorded
    return _output(name, recorded)


def failures_of(state: AttemptState) -> tuple[FailedStep, ...]:
    """The steps that failed in this attempt, and that it has not recorded since."""
    now = time.monotonic()
    return tuple(step._replace(ago_seconds=now - at) for at, step in state.failed_steps.values())


async def _settle_spooled(state: AttemptState) -> None:
    """An answer that an earlier attempt paid for may be on this disk: settling makes it a step."""
    if not await state.tools.spool.clear(state.job.id):
        raise state.park("timer", detail=KEPT_DETAIL, after_seconds=KEPT_PAUSE_SECONDS)


async def waited_seconds(state: AttemptState, key: str, kind: str) -> float:
    """How long ago the wait `key` was begun; it begins now if no attempt has begun it."""
    async with state.tools.database.connection() as connection:
        return await steps.waited_seconds(
            connection, state.lease, key, attempt=state.job.attempt, kind=kind
        )


async def _run_once(
    state: AttemptState,
    name: str,
    given: Input,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run a step that is unsafe to repeat and is marked as begun."""
    crash_points.reach("step.begun")
    began = time.monotonic()
    try:
        value = await _call(state, name, fn, args, kwargs)
        document = to_document(value, f"the result of step {name!r}")
    except BaseException as error:
        # If the mark cannot be changed now the step stays begun, and a person will look at it.
        with suppress(JobsworthError):
            async with bounded(UNSAFE_WRITE_SECONDS_MAX):
                await _again_for_a_while(partial(_mark, state, name, error))
        raise
    # It has happened: a stop that came meanwhile must not lose the record.
    async with bounded(UNSAFE_WRITE_SECONDS_MAX):
        took_seconds = time.monotonic() - began
        write = partial(record, state, name, document, took_seconds)
        return await _again_for_a_while(partial(write, effect="unsafe", given=given))


async def _again_for_a_while(write: Callable[[], Awaitable[T]]) -> T:
    """Write; if the database is away, try again: an unsafe step that is lost needs a person."""
    for pause in PAUSES_SECONDS:
        try:
            return await write()
        except JobsworthError as error:
            if not error.retriable:
                raise
        await anyio.sleep(pause)
    return await write()


async def _begin(
    state: AttemptState, name: str, given: Input, effect: str, consumes: UUID | None
) -> None:
    """Mark the step as begun, and consume its approval in the same transaction.

    Parks if the step is unsafe and was begun before.
    """
    database = state.tools.database
    # Without an approval it is one statement, which needs no transaction around it.
    try:
        async with (
            database.connection() if consumes is None else database.transaction() as connection
        ):
            if consumes is not None:
                await consumption.consume(connection, state.lease, consumes, name)
            begun = await steps.begin(
                connection,
                state.lease,
                name,
                attempt=state.job.attempt,
                effect=effect,
                input_hash=given.hash,
                input_document=given.document,
            )
            # A mark of this attempt, which has not run the step, is one whose COMMIT got no answer.
            if not begun and name not in state.begun:
                found = await steps.list_for_job(connection, state.job.id)
                begun = any(s.name == name and s.attempt == state.job.attempt for s in found)
    except Conflict as error:
        # Somebody said no, or put another question in its place, just now: look again.
        raise Snooze(0.0) from error
    if effect == "unsafe" and not begun:
        raise state.park("person", detail=f"step {name} was begun and not recorded")
    state.begun.add(name)


async def _mark(state: AttemptState, name: str, error: BaseException) -> None:
    """Remove the mark if the error says that the step did not happen; else note the error."""
    async with state.tools.database.transaction() as connection:
        if _did_not_happen(error):
            await unsafe.forget(connection, state.lease, name)
            state.begun.discard(name)
        else:
            await unsafe.blame(connection, state.lease, name, _said(error))


def _note_failure(
    state: AttemptState, name: str, given: Input, effect: str, began: float, error: BaseException
) -> None:
    """Keep the step's error for the transaction that ends the attempt: its row costs no commit."""
    if _did_not_happen(error) or len(state.failed_steps) >= FAILED_STEPS_MAX:
        return
    now = time.monotonic()
    failed = FailedStep(name, _said(error), state.job.attempt, now - began, 0.0, effect, *given)
    state.failed_steps[name] = now, failed


def _said(error: BaseException) -> str:
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return "it was stopped while it ran"
    try:
        said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    except Exception:
        said = type(error).__name__
    return to_text(mask(said)[:ERROR_CHARACTERS_MAX])


def _did_not_happen(error: BaseException) -> bool:
    """True for a handler's own ending and for a wait, also inside exception groups."""
    if isinstance(error, BaseExceptionGroup):
        inner = cast(tuple[BaseException, ...], error.exceptions)
        return all(map(_did_not_happen, inner))
    return isinstance(error, HandlerEnding | ParkSignal) and not isinstance(
        error, changed.StepChanged
    )


async def _call(
    state: AttemptState,
    name: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    with within(state.tools.tracing, conventions.step(name)):
        if inspect.iscoroutinefunction(fn):
            return await fn(*args, **kwargs)
        value = await state.run_in_thread(fn, *args, **kwargs)
        return await value if inspect.isawaitable(value) else value


def _output(name: str, recorded: RecordedStep) -> Any:
    return readable(recorded.output, f"what step {name!r} returned")


def _recorded(state: AttemptState, step: Step) -> RecordedStep:
    source = None if step.job_id == state.job.id else step.job_id
    return RecordedStep(step.output, step.kind, step.input_hash, source)
