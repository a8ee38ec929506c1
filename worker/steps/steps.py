"""Steps: named, durable pieces of a job.

In: a name and what to do. Out: what it returned, recorded under the fence before the handler goes
on. Invariant: a handler may be run from its start after every wait, retry and crash; what was
recorded under a name is read back, never run again; and what is unsafe to repeat is begun, in the
database, before it runs, so that nobody repeats it without being told to.
"""

import inspect
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast, get_args
from uuid import UUID

import anyio

from db.approvals import consumption
from db.documents import to_document, to_text
from db.errors import Conflict, InvalidInput, JobsworthError
from db.fence import hold
from db.pool import Connection, bounded
from db.steps import steps, unsafe
from db.steps.steps import Record, Step
from worker import crash_points
from worker.money.group_commit import RECORD
from worker.outcomes import Ending, Fail, ParkSignal, Snooze
from worker.steps.input_hash import input_hash

if TYPE_CHECKING:
    from worker.job import Job

KEPT_DETAIL = "a paid answer is on the disk of the machine, and is settled before the job goes on"
KEPT_PAUSE_SECONDS = 1.0

T = TypeVar("T")
Effect = Literal["pure", "idempotent", "unsafe"]
EFFECTS = get_args(Effect)
# About as long as a worker that cannot reach the database goes on.
PATIENCE_SECONDS = 10.0
PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)
ERROR_CHARACTERS_MAX = 500
NAME_CHARACTERS_MAX = 500


class StepChanged(Fail):
    """A recorded step was met with another input: what it brought may not be what is wanted."""

    def __init__(self, job: "Job", name: str, *, inherited: bool) -> None:
        changed = f"step {name!r} is recorded with another input: the code or its input changed"
        remedy = "give the step a new name, or declare any_input=True to keep what is recorded"
        if inherited:
            changed = f"step {name!r}, recorded before the fork, is met with another input"
            at = f"jobsworth fork {job.run_id} --node {job.node} --at {name}"
            remedy = f"fork at that step ({at}), or {remedy}"
        super().__init__(f"{changed} ({remedy})")


class Known(NamedTuple):
    """What is known of a recorded step, but for its output."""

    kind: str = "step"
    input_hash: str | None = None
    inherited: bool = False


async def run(
    job: "Job",
    name: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    effect: str = "idempotent",
    any_input: bool = False,
) -> Any:
    """The recorded output of step `name`, else that of `fn(*args, **kwargs)`, recorded.

    A yes that was given for this step is spent in the transaction that begins it. Raises
    `StepChanged` if it is recorded with another input; a pure one is computed anew.
    """
    check_effect(name, effect)
    digest = input_hash(args, kwargs)
    found, output = await read(job, name)
    if found:
        known = job.known.get(name, Known())
        if any_input or known.input_hash in (None, digest):
            return output
        if effect != "pure":
            raise StepChanged(job, name, inherited=known.inherited)
    with alone(job, name):
        consumes = job.allowed.get(name)
        if effect == "unsafe" or consumes is not None:
            await _patiently(partial(_begin, job, name, digest, effect, consumes))
        if effect == "unsafe":
            return await _run_once(job, name, digest, fn, args, kwargs)
        began = time.monotonic()
        value = await _call(job, fn, args, kwargs)
        document = to_document(value, f"the result of step {name!r}")
        took_seconds = time.monotonic() - began
        return await record(job, name, document, took_seconds, effect=effect, input_hash=digest)


@contextmanager
def alone(job: "Job", name: str) -> Generator[None]:
    """Two at once under one name would be given the answer of the first to end."""
    if name in job.under_way:
        raise InvalidInput(
            f"step {name!r} runs already in this attempt of job {job.id}",
            "steps that run beside each other need names of their own, like f'fetch {n}'",
        )
    job.under_way.add(name)
    try:
        yield
    finally:
        job.under_way.discard(name)


def check_name(kind: str, name: str) -> None:
    """Raises `InvalidInput` for a name under which nothing can be kept."""
    if not isinstance(cast(object, name), str) or not name.strip():
        raise InvalidInput(
            f"{name!r:.100} is no name of a {kind}",
            f"the name of a {kind} is a text that says what",
        )
    if len(name) > NAME_CHARACTERS_MAX or to_text(name) != name:
        raise InvalidInput(
            f"the name {name!r:.100} of a {kind} is too long, or cannot be written",
            f"at most {NAME_CHARACTERS_MAX} characters, without NUL",
        )


def check_effect(name: str, effect: str) -> None:
    """Raises `InvalidInput` for an effect that is none."""
    if effect not in EFFECTS:
        raise InvalidInput(
            f"effect={effect!r} of step {name!r} is not known", f"say one of {', '.join(EFFECTS)}"
        )


async def transaction(job: "Job", name: str, fn: Callable[[Connection], Awaitable[Any]]) -> Any:
    """The user's own SQL, the fence and the step in one commit."""
    found, output = await read(job, name)
    if found:
        return output
    with alone(job, name):
        async with job.tools.database.transaction() as connection:
            await hold(connection, job.lease)
            value = to_document(await fn(connection), f"the result of transaction {name!r}")
            _, output = await steps.record(
                connection, job.lease, name, value, attempt=job.attempt, kind="transaction"
            )
    return keep(job, name, output, Known("transaction"))


async def read(job: "Job", name: str, *, fresh: bool = False) -> tuple[bool, Any]:
    """Is this step recorded, and with which output? `fresh` asks the database again.

    A job of a branch reads as its own what was recorded before the cut.
    """
    if name not in (job.recorded or ()):
        check_name("step", name)
    if job.recorded is None or fresh:
        await _settle_first(job)
        async with job.tools.database.connection() as connection:
            if job.run_id is None:
                found = await steps.list_for_job(connection, job.id)
            else:
                found = await steps.list_readable(connection, job.id)
        job.recorded = {step.name: step.output for step in found if step.finished_at}
        job.known = {step.name: _known(job, step) for step in found if step.finished_at}
    return name in job.recorded, job.recorded.get(name)


async def record(
    job: "Job",
    name: str,
    output: str,
    took_seconds: float,
    *,
    kind: str = "step",
    effect: str = "idempotent",
    input_hash: str | None = None,
) -> Any:
    """Record a step's output (JSON text) under the fence; returns the output that stands."""
    ran = Record(job.lease, name, output, job.attempt, took_seconds, kind, effect, input_hash)
    stands = await job.write(RECORD, ran)
    crash_points.reach("step.committed")
    return keep(job, name, stands, Known(kind, input_hash))


def keep(job: "Job", name: str, output: Any, known: Known | None = None) -> Any:
    """Know a recorded output for the rest of the attempt."""
    if job.recorded is not None:
        job.recorded[name] = output
        job.known[name] = known or Known()
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


async def _run_once(
    job: "Job",
    name: str,
    digest: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run a step that is unsafe to repeat, and is marked as begun."""
    crash_points.reach("step.begun")
    began = time.monotonic()
    try:
        value = await _call(job, fn, args, kwargs)
        document = to_document(value, f"the result of step {name!r}")
    except BaseException as error:
        # Whatever cannot be written now stays begun, and a person will look at it.
        with suppress(JobsworthError):
            async with bounded(PATIENCE_SECONDS):
                await _patiently(partial(_mark, job, name, error))
        raise
    # It has happened: a stop that came meanwhile must not lose that.
    async with bounded(PATIENCE_SECONDS):
        took_seconds = time.monotonic() - began
        write = partial(record, job, name, document, took_seconds)
        return await _patiently(partial(write, effect="unsafe", input_hash=digest))


async def _patiently(write: Callable[[], Awaitable[T]]) -> T:
    """Write, again for a while if the database is away: what it spares is a person's time."""
    for pause in PAUSES_SECONDS:
        try:
            return await write()
        except JobsworthError as error:
            if not error.retriable:
                raise
        await anyio.sleep(pause)
    return await write()


async def _begin(job: "Job", name: str, digest: str, effect: str, consumes: UUID | None) -> None:
    """Mark the step as begun, with its consent; parks if it is unsafe and was begun before."""
    database = job.tools.database
    # Without consent it is one statement, which needs no transaction around it.
    try:
        async with (
            database.connection() if consumes is None else database.transaction() as connection
        ):
            if consumes is not None:
                await consumption.consume(connection, job.lease, consumes, name)
            begun = await steps.begin(
                connection, job.lease, name, attempt=job.attempt, effect=effect, input_hash=digest
            )
            # This attempt has not run it: a mark of its own is one whose commit was not answered.
            if not begun and name not in job.begun:
                found = await steps.list_for_job(connection, job.id)
                begun = any(s.name == name and s.attempt == job.attempt for s in found)
    except Conflict as error:
        # Somebody said no, or put another question in its place, just now: look again.
        raise Snooze(0.0) from error
    if effect == "unsafe" and not begun:
        raise job.park("person", detail=f"step {name} was begun and not recorded")
    job.begun.add(name)


async def _mark(job: "Job", name: str, error: BaseException) -> None:
    """Remove the mark if the step says that it did not happen; else keep what went wrong."""
    async with job.tools.database.transaction() as connection:
        if _did_not_happen(error):
            await unsafe.forget(connection, job.lease, name)
            job.begun.discard(name)
        else:
            said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
            if isinstance(error, anyio.get_cancelled_exc_class()):
                said = "it was stopped while it ran"
            await unsafe.blame(connection, job.lease, name, said[:ERROR_CHARACTERS_MAX])


def _did_not_happen(error: BaseException) -> bool:
    """A handler's own ending, or a wait: nothing else, wherever a task group has put it."""
    if isinstance(error, BaseExceptionGroup):
        inner = cast(tuple[BaseException, ...], error.exceptions)
        return all(map(_did_not_happen, inner))
    return isinstance(error, Ending | ParkSignal) and not isinstance(error, StepChanged)


async def _call(
    job: "Job", fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    if inspect.iscoroutinefunction(fn):
        return await fn(*args, **kwargs)
    value = await job.run_in_thread(fn, *args, **kwargs)
    return await value if inspect.isawaitable(value) else value


def _known(job: "Job", step: Step) -> Known:
    return Known(step.kind, step.input_hash, step.job_id != job.id)
