"""Logging: one line on stderr for each event, readable on a terminal and JSON anywhere else.

In: events of the catalogue (`worker.events`) with their fields, the fields of the running job, and
the lines of libraries that use the standard module. Out: lines with a UTC time. Invariants: fields
named like a payload, a prompt or a secret are hidden, secrets in others are masked, whatever they
are; an exception that nobody caught is such a line, too; and a line that cannot be written stops no
job.
"""

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import islice
from typing import Any, BinaryIO, Literal, TextIO, cast

import orjson
import structlog
from structlog.contextvars import merge_contextvars
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, TimeStamper, add_log_level
from structlog.stdlib import ProcessorFormatter, add_logger_name
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, Processor

from db.errors import shown
from worker import events
from worker.log_exceptions import bounded, structured, text_of
from worker.masking import mask
from worker.outages import Outages

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]

# Libraries whose ordinary lines are noise beside ours, or repeat addresses and statements.
QUIET_LIBRARIES = (
    "alembic",
    "anthropic",
    "asyncio",
    "genai_prices",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "openai",
    "psycopg",
    "uvicorn",
)
# The pool warns each time that it cannot connect; `database.lost` says it once a minute.
SILENT_LIBRARIES = ("psycopg.pool",)
# Fields of these names hold users' content or secrets; their values are not shown.
PRIVATE_FIELDS = frozenset(
    {
        "answer",
        "api_key",
        "authorization",
        "content",
        "embedder_key",
        "password",
        "payload",
        "prompt",
        "result",
        "secret",
        "text",
        "token",
    }
)
# Of the values within a field, these many are shown.
MEMBERS_MAX = 100
# What a later step renders: an exception, and the standard module's own record.
_FOR_RENDERERS = frozenset({"exc_info", "_record", "_from_structlog"})
# A logger looks up how to log once, when it first does.
LOOKED_UP_ONCE = True
# Of an exception on a terminal, its end is shown.
TRACEBACK_CHARACTERS_MAX = 20_000


def configure_logging(
    level: Level = "info", line_format: Format = "auto", stream: BinaryIO | None = None
) -> None:
    """Send our events and those of the standard `logging` module to `stream` (stderr by default).

    Call it once, before anything is logged: loggers keep the configuration they first used.
    """
    out = stream if stream is not None else sys.stderr.buffer
    readable = line_format == "console" or (line_format == "auto" and out.isatty())
    render = _console_renderer(colors=out.isatty()) if readable else _json_renderer()
    severity = logging.getLevelNamesMapping()[level.upper()]
    sink = LineSink(out)
    structlog.configure(
        processors=[Outages(), *_common(), *render],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=LOOKED_UP_ONCE,
    )
    _adopt_standard_logging(severity, render, sink)
    _adopt_uncaught()


def get_logger() -> FilteringBoundLogger:
    """A logger for a module; it is configured when it first logs."""
    return cast("FilteringBoundLogger", structlog.get_logger())


class job_bound:  # noqa: N801 (a context manager, named like a function)
    """A context in which every line of this task, its children and their threads names the job.

    structlog's own `bound_contextvars` keeps a variable for each field, which costs 8 µs a job.
    """

    __slots__ = ("_job_id", "_lease_no", "_mode", "_request_id", "_token", "_trace_id")

    def __init__(
        self,
        *,
        job_id: object,
        lease_no: int,
        mode: str,
        trace_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        self._job_id = job_id
        self._lease_no = lease_no
        self._mode = mode
        self._trace_id = trace_id
        self._request_id = request_id

    def __enter__(self) -> None:
        self._token = _job.set(self)

    def __exit__(self, *_: object) -> None:
        _job.reset(self._token)

    def name(self, event: EventDict) -> None:
        """Add the job's fields to a line that does not have them."""
        event.setdefault("job_id", str(self._job_id))
        event.setdefault("lease_no", self._lease_no)
        event.setdefault("mode", self._mode)
        if self._trace_id is not None:
            event.setdefault("trace_id", self._trace_id)
        if self._request_id is not None:
            event.setdefault("request_id", self._request_id)


_job: ContextVar[job_bound] = ContextVar("jobsworth_job")


def current_job() -> job_bound | None:
    """The job that the code which calls this works for."""
    return _job.get(None)


class LineSink:
    """Writes whole lines; on a closed or broken stream they are lost, without an error."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: str | bytes) -> None:
        data = line.encode("utf-8", "backslashreplace") if isinstance(line, str) else line
        with self._lock:
            try:
                self._stream.write(data + b"\n")
                self._stream.flush()
            except (OSError, ValueError):
                return

    debug = info = warning = error = critical = exception = msg


def _adopt_standard_logging(severity: int, render: list[Processor], sink: LineSink) -> None:
    handler = _SinkHandler(sink)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[add_logger_name, *_common()],
            processors=[ProcessorFormatter.remove_processors_meta, *render, _as_text],
        )
    )
    logging.basicConfig(handlers=[handler], level=severity, force=True)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(severity, logging.WARNING))
    for name in SILENT_LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _adopt_uncaught() -> None:
    """What Python would write to stderr by itself becomes a line like any other."""
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _exception_ignored


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = args.thread.name if args.thread is not None else None
    get_logger().error(events.THREAD_FAILED, thread=name, exc_info=args.exc_value)


def _exception_ignored(ignored: "sys.UnraisableHookArgs") -> None:
    if ignored.exc_value is not None:
        where = f"{ignored.err_msg or 'Exception ignored in'}: {type(ignored.object).__name__}"
        get_logger().error(events.EXCEPTION_IGNORED, where=where, exc_info=ignored.exc_value)


class _SinkHandler(logging.Handler):
    def __init__(self, sink: LineSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except BaseException as error:  # of a method of what is logged
            broken = {"level": "error", "event": "a line could not be written"}
            where = {"logger": record.name, "where": f"{record.pathname}:{record.lineno}"}
            line = json.dumps(broken | where | {"error": bounded(text_of(error))})
        self._sink.msg(line)


def _common() -> list[Processor]:
    return [
        merge_contextvars,
        _name_job,
        add_log_level,
        TimeStamper(fmt="iso", utc=True),
        _presentable,
    ]


def _name_job(_logger: object, _method: str, event: EventDict) -> EventDict:
    job = _job.get(None)
    if job is not None:
        job.name(event)
    return event


def _presentable(_logger: object, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if name in PRIVATE_FIELDS:
            event[name] = "(hidden)"
        elif name not in _FOR_RENDERERS:
            event[name] = _presented(value, iter(range(MEMBERS_MAX)))
    return event


def _presented(value: Any, budget: Iterator[int]) -> Any:
    """The value with its texts masked; what is no plain data becomes a text, masked as well."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return bounded(value)
    if next(budget, None) is None:
        return "…"
    if isinstance(value, dict):
        members = cast("dict[object, Any]", value).items()
        return {
            bounded(text_of(key)): "(hidden)" if key in PRIVATE_FIELDS else _presented(each, budget)
            for key, each in islice(members, MEMBERS_MAX)
        }
    if isinstance(value, list | tuple | set | frozenset):
        several = islice(cast("list[Any]", value), MEMBERS_MAX)
        return [_presented(each, budget) for each in several]
    return bounded(text_of(value)) or type(value).__name__


def _json_renderer() -> list[Processor]:
    return [ExceptionRenderer(_structured_exception), _to_json]


def _structured_exception(exc_info: ExcInfo) -> list[dict[str, Any]]:
    error = cast("BaseException | None", exc_info[1])  # None of `exc_info=True` outside an except
    return [] if error is None else structured(error)


def _to_json(_logger: object, _method: str, event: EventDict) -> bytes:
    ordered: dict[str, Any] = {name: event.get(name) for name in _FIRST}
    ordered.update(event)
    try:
        return orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError):
        # Lone surrogates, integers beyond 64 bits, cycles.
        plain = {
            str(name): value if isinstance(value, str) else _spelled(value)
            for name, value in ordered.items()
        }
        return json.dumps(plain).encode()


def _spelled(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return shown(value)


_FIRST = ("timestamp", "level", "event")


def _as_text(_logger: object, _method: str, line: Any) -> str:
    return line.decode() if isinstance(line, bytes) else str(line)


def _console_renderer(*, colors: bool) -> list[Processor]:
    return [ConsoleRenderer(colors=colors, exception_formatter=_readable_exception)]


def _readable_exception(out: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    plain_traceback(text, exc_info)
    shown = mask(text.getvalue()[-2 * TRACEBACK_CHARACTERS_MAX :])
    out.write(shown[-TRACEBACK_CHARACTERS_MAX:])
