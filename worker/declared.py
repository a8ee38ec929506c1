"""What is declared in a module of handlers: where it stands, and the error if it cannot be used.

In: functions that a decorator of ours was given. Out: names of places, and `HandlerError`. Both
`worker.handlers` and `worker.extensions` need it.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

from db.errors import InvalidInput


class HandlerError(InvalidInput):
    """A handler, or a module of handlers, cannot be used."""


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function below `functools.partial` and decorators."""
    while isinstance(function, functools.partial):
        function = cast(Callable[..., Any], function.func)
    return inspect.unwrap(function)


def place_of(function: Callable[..., Any]) -> str:
    """Where a function is defined, for messages: module.name."""
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def same_place(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether both are one definition, which a reload has made twice."""
    return place_of(one) == place_of(other)
