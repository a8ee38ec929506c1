"""Checks the arguments of a handler's calls, so that a mistake is named where it was made.

In: a class with annotated methods. Out: the same class, each public method of which raises
`InvalidInput` for an argument of a wrong kind: with the method, the parameter and the way it is
called. Invariant: a value that passes is of its annotation; numbers of other libraries (a decimal,
a numpy scalar) are converted.
"""

import operator
from collections.abc import Callable, Mapping
from functools import cache, wraps
from inspect import Parameter, isfunction, signature
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from db.errors import InvalidInput, shown

C = TypeVar("C", bound=type[Any])


def _to_float(value: object) -> object:
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)
    return _converted(float, value) if is_number else value


def _to_int(value: object) -> object:
    is_integer = hasattr(value, "__index__") and not isinstance(value, bool)
    return _converted(operator.index, value) if is_integer else value


def _converted(convert: Callable[[Any], object], value: object) -> object:
    try:
        return convert(value)
    except Exception as error:
        raise PydanticCustomError("unconvertible", "too large") from error


# What PostgreSQL's bigint holds, and any float that is a number.
_Integer = Annotated[int, BeforeValidator(_to_int), Field(ge=-(2**63), lt=2**63)]
_Number = Annotated[float, BeforeValidator(_to_float), Field(allow_inf_nan=False)]
_EXCHANGED: dict[object, Any] = {int: _Integer, float: _Number}
# How a kind is called, and how a value of it is written.
_DESCRIBED: dict[object, tuple[str, str]] = {
    str: ("text", "pass str(value)"),
    int: ("an integer of at most 64 bits", "pass int(value)"),
    float: ("a finite number", "pass a number, as 1.5"),
    bool: ("True or False", "pass bool(value)"),
    UUID: ("a UUID", "pass uuid.UUID(text)"),
    NoneType: ("None", "pass None"),
}


def checks_arguments(cls: C) -> C:
    """Let each public method that the class defines check its arguments."""
    for name, method in list(vars(cls).items()):
        if isfunction(method) and not name.startswith("_"):
            setattr(cls, name, checked(method, f"job.{name}"))
    return cls


def checked(function: Callable[..., Any], called: str) -> Callable[..., Any]:
    """The function, with its arguments checked; `called` is how a user calls it."""
    shape = signature(function)
    hints = get_type_hints(function, include_extras=True)
    kinds = {
        name: hints[name]
        for name, parameter in shape.parameters.items()
        if name in hints and parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        if _is_plain(hints[name])
    }

    @wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        try:
            given = shape.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which names what is missing or too much
        for name, value in given.arguments.items():
            if name in kinds:
                given.arguments[name] = _valid(kinds[name], value, called, name)
        return function(*given.args, **given.kwargs)

    return checking


def finite(value: object, what: str) -> float:
    """The number, as a float. Raises `InvalidInput`, saying `what` it is, unless it is finite."""
    try:
        return _adapter(float).validate_python(value)
    except ValidationError:
        wanted, remedy = _DESCRIBED[float]
        raise InvalidInput(f"{what} must be {wanted}, not {shown(value)}", remedy) from None


def _is_plain(kind: object) -> bool:
    """Whether values of this annotation can be checked without reading through them."""
    if get_origin(kind) in (Union, UnionType):
        return all(map(_is_plain, get_args(kind)))
    return get_origin(kind) in (tuple, Mapping) or kind in _DESCRIBED


def _valid(kind: object, value: object, called: str, name: str) -> object:
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError:
        wanted, remedy = _describe(kind)
        raise InvalidInput(
            f"{called}: {name} must be {wanted}, not {shown(value)}", remedy
        ) from None
    except Exception as error:
        raise InvalidInput(
            f"{called}: {name} cannot be read: {type(error).__name__}", "pass plain data"
        ) from error


@cache
def _adapter(kind: object) -> TypeAdapter[Any]:
    return TypeAdapter(_exchanged(kind), config={"strict": True})


def _exchanged(kind: object) -> Any:
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(map(_exchanged, get_args(kind)))]  # noqa: UP007
    if get_origin(kind) is tuple:
        inner = tuple(_EXCHANGED.get(one, one) for one in get_args(kind))
        return tuple[inner] if Ellipsis not in inner else tuple[inner] | list[inner[0]]
    return _EXCHANGED.get(kind, kind)


def _describe(kind: object) -> tuple[str, str]:
    """What a value of this annotation is, and the remedy for one that is not."""
    if get_origin(kind) in (Union, UnionType):
        described = [_describe(one) for one in get_args(kind)]
        return " or ".join(wanted for wanted, _ in described), described[0][1]
    if get_origin(kind) is tuple:
        one, *others = (_DESCRIBED.get(inner, ("", ""))[0] for inner in get_args(kind))
        shape = f"{one}, {others[0]}" if others[0] else f"{one}, …"
        return f"a tuple ({shape})", "pass a tuple or a list"
    if get_origin(kind) is Mapping:
        return "a mapping of texts to values", 'pass a dict, as {"url": "…"}'
    return _DESCRIBED[kind]
