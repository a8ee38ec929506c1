"""Traces and metrics by OTLP: the one file that imports OpenTelemetry.

In: spans of the worker, and its counters. Out: OTLP over HTTP to the collector that the standard
OTEL_* variables name. Invariants: nothing here makes a job wait. A span ends in a queue of bounded
length (OTEL_BSP_MAX_QUEUE_SIZE), which a thread of its own empties; a collector that is down or
slow costs spans, which the log says once a minute, and nothing else.

A job is one span, from ready to its first claim, which the worker that claims it first sends. Its
id follows from the job's, so attempts in any worker are children of it without asking anybody. Its
parent is the job's `trace_parent`; without one, the trace is the run's or the job's own id. With
`link` each attempt is a trace of its own that is linked to it.
"""

import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Literal, Protocol
from uuid import UUID

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from db.errors import InvalidInput
from db.queue.claim import Claimed
from worker import events
from worker.job import Job
from worker.log import get_logger
from worker.outcomes import HandlerEnding, ParkSignal
from worker.plain_job import state_of
from worker.repeats import Repeats
from worker.tracing import conventions
from worker.tracing.spans import Attributes, Described

NAME = "jobsworth"
KINDS = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
# The last spans are given so long at the end.
FLUSH_SECONDS = 3.0

log = get_logger()


class Counters(Protocol):
    """The worker's counters by their labels; in a daemon, `worker.web.metrics.Metrics`."""

    claims: Any
    finishes: Any
    failures: Any
    calls: Any
    tokens: Any
    costs: Any


class Otel:
    """The spans of one worker."""

    def __init__(self, join: Literal["parent", "link"], instance_id: UUID) -> None:
        """`join`: how an attempt belongs to its job's trace. `instance_id` tells workers apart.

        Raises `InvalidInput` for an OTEL_* variable that cannot be used.
        """
        _check_protocol()
        self._join = join
        try:
            resource = _resource(instance_id)
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._processor: BatchSpanProcessor | None = None
            if _wanted("OTEL_TRACES_EXPORTER"):
                self._processor = BatchSpanProcessor(OTLPSpanExporter())
                self._provider.add_span_processor(self._processor)
            self._meters: MeterProvider | None = None
            self._resource = resource
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                f"a variable OTEL_* cannot be used: {error}", "correct it, or remove it"
            ) from error
        self._tracer = self._provider.get_tracer(NAME)
        _tell_losses()  # from here on: what it says of variables is logged as it comes

    def count(self, metrics: Counters) -> None:
        """Export the worker's counters too, unless OTEL_METRICS_EXPORTER is none."""
        if _wanted("OTEL_METRICS_EXPORTER"):
            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
            self._meters = MeterProvider(
                metric_readers=[reader], resource=self._resource, shutdown_on_exit=False
            )
            _observe(self._meters, metrics)

    async def around(self, job: Job, call_next: Callable[[Job], Awaitable[Any]]) -> Any:
        """Middleware: the span of an attempt, outermost.

        From here on the job's `trace_parent` is this span: follow-ups and children have it.
        """
        state = state_of(job)
        above = self._above(state.job)
        linked = self._join == "link"
        context = trace.set_span_in_context(NonRecordingSpan(above))
        described = conventions.attempt(state.job)
        span = self._tracer.start_span(
            described.name,
            context=None if linked else context,
            kind=KINDS[described.kind],
            attributes=_present(described.attributes),
            links=[Link(above)] if linked else None,
        )
        if span.is_recording() and state.job.attempt == 1:
            self._send_enqueued(state.job, above)
        own = span.get_span_context()
        if own.is_valid:  # not with OTEL_SDK_DISABLED
            state.job = state.job._replace(trace_parent=_header(own))
        with _current(span):
            return await call_next(job)

    @contextmanager
    def within(self, described: Described) -> Generator[None]:
        """A span around a block."""
        with _current(self._start(described)):
            yield

    def begin(self, described: Described) -> "_Open":
        """A span that ends elsewhere."""
        return _Open(self._start(described))

    def past(self, described: Described, began: datetime, ended: datetime) -> None:
        """A span of what is over."""
        self._start(described, _nanoseconds(began)).end(end_time=_nanoseconds(ended))

    def end(self) -> None:
        """Send what is left, within `FLUSH_SECONDS`; blocks, so call it in a thread."""
        # The exporter waits longer than that for a collector that is away.
        last = threading.Thread(target=self._shut_down, name="traces end", daemon=True)
        last.start()
        last.join(FLUSH_SECONDS)

    def _shut_down(self) -> None:
        self._provider.shutdown()
        if self._meters is not None:
            self._meters.shutdown()

    def _start(self, described: Described, start_time: int | None = None) -> Span:
        return self._tracer.start_span(
            described.name,
            kind=KINDS[described.kind],
            attributes=_present(described.attributes),
            start_time=start_time,
        )

    def _above(self, job: Claimed) -> SpanContext:
        """The span of the job itself: the same for all of its attempts, wherever they run."""
        given = _context_of(job.trace_parent)
        return SpanContext(
            trace_id=given.trace_id if given else (job.run_id or job.id).int,
            span_id=job.id.int & (2**64 - 1),
            is_remote=True,
            trace_flags=given.trace_flags if given else TraceFlags(TraceFlags.SAMPLED),
        )

    def _send_enqueued(self, job: Claimed, context: SpanContext) -> None:
        if self._processor is None:
            return
        described = conventions.enqueued(job)
        now = time.time_ns()
        self._processor.on_end(
            ReadableSpan(
                described.name,
                context=context,
                parent=_context_of(job.trace_parent),
                resource=self._resource,
                attributes=_present(described.attributes),
                kind=KINDS[described.kind],
                start_time=now - round(job.waited_seconds * 1e9),
                end_time=now,
                instrumentation_scope=InstrumentationScope(NAME),
            )
        )


class _Open:
    """A span that has begun."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, attributes: Attributes, error: str | None = None) -> None:
        self._span.set_attributes(_present(attributes))
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


@contextmanager
def _current(span: Span) -> Generator[None]:
    """The span around a block: its error's class is kept, and no text of it."""
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield
    except BaseException as error:
        if isinstance(error, ParkSignal):
            span.set_attribute("jobsworth.waits_for", error.parked.reason)
        else:
            span.set_attribute("error.type", type(error).__name__)
            if not isinstance(error, HandlerEnding) or type(error).__name__ in ("Fail", "Retry"):
                span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()


def _context_of(header: str | None) -> SpanContext | None:
    """The span that a W3C `traceparent` names; the database keeps valid ones only."""
    parts = (header or "").split("-")
    if len(parts) != 4:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in parts[1:])
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _header(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _present(attributes: Attributes) -> dict[str, str | int | float | bool]:
    return {name: value for name, value in attributes.items() if value is not None}


def _nanoseconds(at: datetime) -> int:
    return round(at.timestamp() * 1e6) * 1000


def _wanted(variable: str) -> bool:
    return os.environ.get(variable, "otlp").strip().lower() != "none"


def _check_protocol() -> None:
    for signal in ("", "TRACES_", "METRICS_"):
        name = f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL"
        protocol = os.environ.get(name, "").strip()
        if protocol not in ("", "http/protobuf"):
            raise InvalidInput(
                f"{name} is {protocol!r}; Jobsworth sends OTLP by http/protobuf only",
                "set http/protobuf and the collector's HTTP port (4318), or remove the variable",
            )


def _resource(instance_id: UUID) -> Resource:
    known = {"service.instance.id": str(instance_id)}
    named = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not named and not os.environ.get("OTEL_SERVICE_NAME"):
        known["service.name"] = NAME
    return Resource.create(known)


class _Losses(logging.Handler):
    """What OpenTelemetry logs while a collector does not answer, as one line a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        if self._repeats.due("lost"):
            log.warning(events.TRACES_LOST, error=record.getMessage()[:500])


def _tell_losses() -> None:
    # Its queue's warning, and the exporters': several for each batch that is not taken.
    logger = logging.getLogger("opentelemetry")
    logger.handlers = [_Losses()]
    logger.propagate = False


def _observe(meters: MeterProvider, metrics: Counters) -> None:
    meter = meters.get_meter(NAME)
    counters: Sequence[tuple[str, str, Callable[[], Any], tuple[str, ...]]] = (
        ("jobsworth.claims", "{job}", lambda: metrics.claims, ("queue", "mode")),
        ("jobsworth.attempts", "{attempt}", lambda: metrics.finishes, ("queue", "mode", "outcome")),
        ("jobsworth.failures", "{job}", lambda: metrics.failures, ("queue", "mode")),
        ("jobsworth.calls", "{call}", lambda: metrics.calls, ("model", "status")),
        ("jobsworth.tokens", "{token}", lambda: metrics.tokens, ("model", "kind")),
        (
            "jobsworth.cost",
            "USD",
            lambda: {(m,): c for m, c in dict(metrics.costs).items()},
            ("model",),
        ),
    )
    for name, unit, read, labels in counters:
        meter.create_observable_counter(name, [partial(_observed, read, labels)], unit)


def _observed(
    read: Callable[[], dict[tuple[str, ...], float]],
    labels: tuple[str, ...],
    _: CallbackOptions,
) -> Iterable[Observation]:
    # A copy: the event loop's thread counts on.
    return [
        Observation(value, {f"jobsworth.{k}": v for k, v in zip(labels, key, strict=True)})
        for key, value in dict(read()).items()
    ]
