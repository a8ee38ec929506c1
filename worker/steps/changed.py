"""What is met again under a name: is it still the same?

In: a name, what meets it now, and what is recorded or was met before. Out: nothing, or an error
that says how to go on. Invariant: nothing gets another one's result because it has its name.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from pydantic import TypeAdapter

from db.errors import InvalidInput
from worker import events
from worker.attempt_state import AttemptState, Met, RecordedStep
from worker.log import get_logger
from worker.outcomes import Fail
from worker.steps.input_hash import input_of

# What can be made under a name that the handler chooses.
CALLED = {
    "step": "a step",
    "transaction": "a transaction",
    "call": "a paid call",
    "checkpoint": "a checkpoint",
    "pruned": "a checkpoint",
}
NAMES_LOGGED_MAX = 5

log = get_logger()


class StepChanged(Fail):
    """What is recorded under a name is something else than what meets it; the job fails for good.

    So it is with a step that has other arguments, and with a message, a child or another effect of
    the same name that is another one. Either the code has changed, or what it was given, or it is
    not the same in each attempt. The message says how to go on.
    """


def other_input(state: AttemptState, name: str, *, inherited: bool) -> StepChanged:
    """A step that is recorded with other arguments."""
    changed = f"step {name!r} is recorded with another input: the code or its input changed"
    remedy = "give the step a new name, or declare any_input=True to keep what is recorded"
    if inherited:
        job = state.job
        changed = f"step {name!r}, recorded before the fork, is met with another input"
        at = f"jobsworth run fork {job.run_id} --node {job.node} --at {name}"
        remedy = f"fork at that step ({at}), or {remedy}"
    return StepChanged(f"{changed} ({remedy})")


def check_kind(name: str, recorded: RecordedStep, kind: str) -> None:
    """Raise `StepChanged` if `name` is recorded as something else than `kind`."""
    if recorded.kind != kind and recorded.kind in CALLED:
        raise StepChanged(
            f"{name!r} is recorded as {CALLED[recorded.kind]}, and met as {CALLED[kind]}: the code"
            " changed (give the new one a name of its own)"
        )


def check_met(
    state: AttemptState,
    name: str,
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    any_input: bool = False,
) -> Met:
    """What `state.met` keeps of a step whose result the handler has got.

    Raises `InvalidInput` if this attempt has got the result of another step of that name: of one
    with other arguments and `any_input`, or of a function that held other values.
    """
    # What was in a list before is not known any more: without arguments it is another one.
    look = _Values(containers=_Itself if args or kwargs else _Unlike)
    given = input_of(args, kwargs or {}, state.tools.step_input_bytes)
    new, before = Met(given, look.held(fn)), state.met.get(name)
    if before is None or before == new:
        return new
    if any_input or before.given.hash == new.given.hash:
        raise InvalidInput(
            f"step {name!r} of job {state.job.id} is made twice in one attempt, and not with the"
            " same function and values: the second would get the result of the first",
            "give each a name of its own, like f'fetch {n}', or pass what differs as arguments",
        )
    return new


def check_type(name: str, fn: Callable[..., Any], output: Any) -> None:
    """Log a warning if a recorded output is not of the type that `fn` is declared to return."""
    try:
        declared = inspect.get_annotations(inspect.unwrap(fn), eval_str=True).get("return", Any)
        adapter = _adapter(declared)
    except Exception:
        return
    try:
        adapter.validate_python(output)
    except Exception:
        log.warning(events.STEP_TYPE_CHANGED, step=name, declared=str(declared))


def tell_unmet(state: AttemptState) -> None:
    """Log a warning if a handler has returned that did not meet a step which is recorded."""
    unmet = [
        name
        for name, step in (state.recorded or {}).items()
        if name not in state.seen and step.kind in CALLED
    ]
    if unmet:
        names = unmet[:NAMES_LOGGED_MAX]
        log.warning(events.STEPS_NOT_MET, mode=state.job.mode, steps=len(unmet), names=names)


@functools.lru_cache(maxsize=256)
def _adapter(declared: Any) -> TypeAdapter[Any]:
    return TypeAdapter(declared)


class _Unlike:
    """Equal to nothing."""

    def __init__(self, value: object) -> None:
        pass


class _Itself:
    """Equal to another one of the same object, and to nothing else."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self._value is other._value

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class _Values:
    """Looks at the values that a function brings with it, to compare them later."""

    def __init__(self, containers: type[_Unlike | _Itself]) -> None:
        self._containers = containers

    def held(self, fn: Any) -> object:
        """The values of a function: what it closes over, is bound to, or has as defaults."""
        match fn:
            case functools.partial():
                given = cast(tuple[object, ...], (*fn.args, *fn.keywords.items()))
                return self.held(fn.func), *map(self._value, given)
            case _ if inspect.ismethod(fn):
                return self.held(fn.__func__), self._value(fn.__self__)
            case _ if inspect.isfunction(fn):
                defaults = (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).items())
                cells = map(_content, fn.__closure__ or ())
                return fn.__code__, *map(self._value, defaults), *map(self._value, cells)
            case _:
                return self._value(fn)

    def _value(self, value: object) -> object:
        match value:
            case None | bool() | int() | float() | str() | bytes():
                return type(value), value
            case tuple():
                return tuple(map(self._value, cast(tuple[object, ...], value)))
            case list() | dict() | set() | bytearray():
                return self._containers(cast(object, value))
            case _:
                return _Itself(value)


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it has none yet
        return None
