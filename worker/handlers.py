"""Handlers: which function runs which mode, and with which arguments.

In: functions that are decorated with `@handler`. Out: a registry of `Handler`s. The signature is
the schema: a payload that does not fit is refused with the field and the reason, before any of the
handler's code runs. The registry is the only mutable module state of this package.
"""

import inspect
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from db.documents import Unreadable
from db.errors import InvalidInput
from db.schedules.schedules import NewSchedule
from worker.declared import HandlerError, place_of, same_place, unwrapped
from worker.extensions.resources import declared as lifespans
from worker.job import Job

F = TypeVar("F", bound=Callable[..., Any])
Isolation = Literal["process"]

# How long the first job of a batch waits for others.
BATCH_SECONDS, BATCH_SECONDS_MAX = 0.5, 60.0
BATCH_MAX = 10_000


class Batch(NamedTuple):
    """How many jobs a handler takes at once, and which of its parameters receive what of them."""

    size: int
    seconds: float
    in_thread: bool
    jobs: str | None
    payloads: str | None


@dataclass(frozen=True, slots=True)
class Handler:
    """The function of a mode, and how it is run."""

    mode: str
    function: Callable[..., Any]
    kind: Literal["async", "thread", "process", "batch"]
    queue: str
    timeout_seconds: float | None
    failures_max: int | None
    memory_mb: int | None
    job_parameter: str | None
    arguments: type[BaseModel]
    shipped: bool
    schedule: NewSchedule | None = None
    resources: Mapping[str, type[Any]] = field(default_factory=dict[str, type[Any]])
    """The parameters that receive a resource of the worker, and of which type."""
    batch: Batch | None = None


class BadPayload(Exception):
    """A payload does not fit its handler's signature; the message names each field."""


registry: dict[str, Handler] = {}


def handler(
    mode: str,
    *,
    queue: str = "default",
    timeout_seconds: float | None = None,
    failures_max: int | None = None,
    isolate: Isolation | None = None,
    memory_mb: int | None = None,
    schedule: str | timedelta | None = None,
    time_zone: str = "UTC",
    batch: int | None = None,
    batch_seconds: float = BATCH_SECONDS,
    shipped: bool = False,
) -> Callable[[F], F]:
    """Register the decorated function as the handler of the jobs of `mode`.

    The function's signature is the schema of the payload: a payload that does not fit fails its job
    at once, with the field and the reason. A parameter annotated with `Job`, or named `job` and not
    annotated, receives the job; one with the type of a `worker_lifespan`, that resource. What the
    function returns (JSON) is the job's result. An `async def` runs in the worker's event loop, a
    plain `def` in a thread.

    A worker with this handler serves `queue`. `timeout_seconds` and `failures_max` apply to jobs
    that set none. `isolate="process"` runs a plain function in a process of its own, which can be
    killed and has at most `memory_mb` megabytes of address space. `schedule`, a cron
    expression in `time_zone` or a period, enqueues a job of this mode without arguments at each of
    its times; `jobsworth schedule` shows it.

    With `batch` the function is called for up to so many jobs at once, those that come within
    `batch_seconds` of the first. It takes their payloads (a parameter annotated `list[Model]`, with
    a pydantic model), the jobs (`list[Job]`), or both, and returns a list of outcomes in their
    order: a result, or an exception as one job would raise it. Returning nothing, all are done;
    raising, all have failed. Raises `HandlerError` if the mode has a handler
    already, for a signature that cannot take a payload, and for a schedule that never fires.
    """

    def register(function: F) -> F:
        new = replace(
            _describe(
                function,
                mode,
                queue,
                timeout_seconds,
                failures_max,
                isolate,
                memory_mb,
                shipped,
                _batch_of(mode, batch, batch_seconds, isolate, function),
            ),
            schedule=_schedule(mode, queue, schedule, time_zone),
        )
        old = registry.get(mode)
        if old is not None and not old.shipped and not same_place(old.function, function):
            raise HandlerError(
                f"the mode {mode!r} has two handlers, "
                f"{place_of(old.function)} and {place_of(function)}",
                "give one of them another mode",
            )
        registry[mode] = new
        return function

    return register


def arguments_of(handler: Handler, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments for this payload; of a batch, this job's element of the list.

    Raises `BadPayload` if it does not fit.
    """
    # `model_fields` says the same, by way of two calls.
    if not payload and not handler.arguments.__pydantic_fields__ and handler.batch is None:
        return {}
    if isinstance(payload, Unreadable):
        raise BadPayload(f"the payload cannot be read: {payload.reason}")
    try:
        model = handler.arguments.model_validate(payload)
    except ValidationError as error:
        raise BadPayload(_explain(handler, error)) from None
    if handler.batch is not None:
        return {} if handler.batch.payloads is None else {handler.batch.payloads: model}
    extra = model.model_extra or {}
    return {name: getattr(model, name) for name in model.model_fields_set} | extra


def find_resources() -> None:
    """Give resources to the handlers that were declared before them."""
    for mode, one in registry.items():
        if one.shipped or not lifespans:
            continue
        signature = _signature_of(one.function, mode, one.batch)
        _refuse_resources(mode, "process" if one.kind == "process" else None, signature.resources)
        if signature.resources != one.resources:
            registry[mode] = replace(
                one, resources=signature.resources, arguments=signature.arguments
            )


def shadowing_files(directory: Path) -> list[Path]:
    """The files in this directory that have the name of one of our packages."""
    names = ("worker.py", "db.py", "worker/__init__.py", "db/__init__.py")
    ours = Path(__file__).resolve().parents[1]
    if directory.resolve() == ours:
        return []
    return [directory / name for name in names if (directory / name).exists()]


def _describe(
    function: Callable[..., Any],
    mode: str,
    queue: str,
    timeout_seconds: float | None,
    failures_max: int | None,
    isolate: Isolation | None,
    memory_mb: int | None,
    shipped: bool,
    batch: Batch | None,
) -> Handler:
    is_async = inspect.iscoroutinefunction(unwrapped(function))
    if not mode:
        raise HandlerError(f"{place_of(function)} has no mode", "name it: @handler('mode')")
    _check_bound(mode, "timeout_seconds", timeout_seconds)
    _check_bound(mode, "failures_max", failures_max)
    if isolate and is_async:
        raise HandlerError(
            f"the handler of {mode!r} is async and isolated",
            "write it with def, not async def: it gets a process to itself",
        )
    if memory_mb and not isolate:
        raise HandlerError(
            f"the handler of {mode!r} has memory_mb without a process of its own",
            'add isolate="process"',
        )
    signature = _signature_of(function, mode, batch)
    _refuse_resources(mode, isolate, signature.resources)
    if batch is not None:
        batch = batch._replace(jobs=signature.jobs, payloads=signature.payloads)
    kind = "process" if isolate else "async" if is_async else "thread"
    return Handler(
        mode=mode,
        function=function,
        kind=kind if batch is None else "batch",
        queue=queue,
        timeout_seconds=timeout_seconds,
        failures_max=failures_max,
        memory_mb=memory_mb,
        job_parameter=signature.job_parameter,
        arguments=signature.arguments,
        shipped=shipped,
        resources=signature.resources,
        batch=batch,
    )


def _batch_of(
    mode: str,
    size: int | None,
    seconds: float,
    isolate: Isolation | None,
    function: Callable[..., Any],
) -> Batch | None:
    if size is None:
        if seconds != BATCH_SECONDS:
            raise HandlerError(
                f"the handler of {mode!r} has batch_seconds without batch",
                "say how many jobs it takes at once: batch=100",
            )
        return None
    if type(size) is not int or not 1 <= size <= BATCH_MAX:
        raise HandlerError(
            f"the handler of {mode!r} has batch={size!r}", f"give a number from 1 to {BATCH_MAX:,}"
        )
    if not 0 < seconds <= BATCH_SECONDS_MAX:
        raise HandlerError(
            f"the handler of {mode!r} has batch_seconds={seconds}",
            f"give more than 0, and at most {BATCH_SECONDS_MAX:g}: jobs wait for it in their slots",
        )
    if isolate:
        raise HandlerError(
            f"the handler of {mode!r} takes batches and has a process of its own",
            "leave one of them out: a process is for one job",
        )
    in_thread = not inspect.iscoroutinefunction(unwrapped(function))
    return Batch(size, seconds, in_thread, None, None)


def _refuse_resources(
    mode: str, isolate: Isolation | None, wanted: Mapping[str, type[Any]]
) -> None:
    if isolate and wanted:
        raise HandlerError(
            f"the handler of {mode!r} has a process of its own and takes the worker's resource"
            f" {', '.join(wanted)}: no resource gets into another process",
            "open it in the handler, or leave isolate out",
        )


def _schedule(
    mode: str, queue: str, schedule: str | timedelta | None, time_zone: str
) -> NewSchedule | None:
    if schedule is None:
        return None
    cron = schedule if isinstance(schedule, str) else None
    try:
        return NewSchedule(
            mode,
            mode,
            cron=cron,
            every=None if cron is not None else cast(timedelta, schedule),
            time_zone=time_zone,
            queue=queue,
        )
    except InvalidInput as error:
        raise HandlerError(
            f"the schedule of the handler of {mode!r}: {error.message}", error.remedy
        ) from error


def _check_bound(mode: str, name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise HandlerError(
            f"the handler of {mode!r} has {name}={value}", "give more than 0, or leave it out"
        )


class _Signature(NamedTuple):
    """What the parameters of a handler receive."""

    job_parameter: str | None
    resources: Mapping[str, type[Any]]
    arguments: type[BaseModel]
    jobs: str | None = None
    payloads: str | None = None


def _signature_of(function: Callable[..., Any], mode: str, batch: Batch | None) -> _Signature:
    return _signature(function, mode) if batch is None else _batch_signature(function, mode)


def _batch_signature(function: Callable[..., Any], mode: str) -> _Signature:
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(unwrapped(function), include_extras=True)
    resources = {name: hints[name] for name in parameters if _is_resource(hints.get(name))}
    jobs: str | None = None
    payloads: str | None = None
    model = create_model(f"{mode} payload", __config__=ConfigDict(extra="allow"))
    for name in parameters.keys() - resources.keys():
        hint = hints.get(name)
        [one] = typing.get_args(hint) if typing.get_origin(hint) is list else [None]
        if one is Job and jobs is None:
            jobs = name
        elif isinstance(one, type) and issubclass(one, BaseModel) and payloads is None:
            payloads, model = name, one
        else:
            raise HandlerError(
                f"the batch handler of {mode!r} has an argument {name!r} that gets nothing",
                "it takes payloads (notes: list[Note], with a pydantic model), jobs"
                " (jobs: list[Job]), or both",
            )
    if jobs is None and payloads is None:
        raise HandlerError(
            f"the batch handler of {mode!r} takes neither jobs nor their payloads",
            "annotate a parameter: jobs: list[Job], or notes: list[Note] with a pydantic model",
        )
    return _Signature(None, resources, model, jobs, payloads)


def _signature(function: Callable[..., Any], mode: str) -> _Signature:
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(unwrapped(function), include_extras=True)
    job_parameter = next((name for name in parameters if _is_job(name, hints.get(name))), None)
    resources = {name: hints[name] for name in parameters if _is_resource(hints.get(name))}
    fields: dict[str, Any] = {}
    extra: Literal["forbid", "allow"] = "forbid"
    for name, parameter in parameters.items():
        if name == job_parameter or name in resources or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise HandlerError(
                f"the handler of {mode!r} takes {name!r} by position only",
                "a payload has names: remove the / from the signature",
            )
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
            continue
        if name.startswith("_"):
            raise HandlerError(
                f"the handler of {mode!r} has an argument {name!r}",
                "a name of a payload does not begin with _: rename it",
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), default)
    config = ConfigDict(extra=extra, arbitrary_types_allowed=True, protected_namespaces=())
    with warnings.catch_warnings():
        # An argument may be called `json` or `schema`, because the model's methods are not used.
        warnings.filterwarnings("ignore", "Field name .* shadows an attribute")
        model = create_model(f"{mode} payload", __config__=config, **fields)
    return _Signature(job_parameter, resources, model)


def _is_job(name: str, hint: object) -> bool:
    return hint is Job or (name == "job" and hint is None)


def _is_resource(hint: object) -> bool:
    return isinstance(hint, type) and hint in lifespans


def _explain(handler: Handler, error: ValidationError) -> str:
    problems = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'payload'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)
    )
    signature = f"{handler.mode}({', '.join(handler.arguments.model_fields)})"
    return f"the payload does not fit {signature}: {problems}"
