"""Spans as the rest of the worker sees them: without OpenTelemetry, which may not be installed.

In: what begins, as `worker.tracing.conventions` describes it. Out: a span, or nothing where traces
are off. Nothing here or in what implements it waits for anything, or raises.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

Value = str | int | float | bool
Attributes = Mapping[str, Value | None]
"""An attribute without a value (None) is left out."""


class Described(NamedTuple):
    """A span's name, kind and attributes."""

    name: str
    attributes: Attributes
    kind: Literal["internal", "client", "producer", "consumer"] = "internal"


class OpenSpan(Protocol):
    """A span that has begun."""

    def end(self, attributes: Attributes, error: str | None = None) -> None:
        """End it; `error` is a class of errors, never a text."""
        ...


class Tracing(Protocol):
    """Makes spans; in a daemon with traces, `worker.tracing.otel.Otel`."""

    def within(self, described: Described) -> AbstractContextManager[None]:
        """A span around a block; what begins in the block is its child."""
        ...

    def begin(self, described: Described) -> OpenSpan:
        """A span that ends elsewhere: a child of the block that this is called in."""
        ...

    def past(self, described: Described, began: datetime, ended: datetime) -> None:
        """A span of what is over, as a wait is: a child of the block that this is called in."""
        ...


def within(tracing: Tracing | None, described: Described) -> AbstractContextManager[None]:
    """A span around a block, where traces are on."""
    return nullcontext() if tracing is None else tracing.within(described)
