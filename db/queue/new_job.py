"""A job to enqueue: its options and their checks.

In: a mode, a payload and options, as the caller gave them. Out: a checked value. A mistake is found
before anything is sent, so the caller's transaction stays intact.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, cast
from uuid import UUID

from db.documents import to_payload
from db.errors import InvalidInput, shown
from db.queue.unique_options import OnConflict, UniqueUntil, check_unique

PAYLOAD_BYTES_MAX = 1_048_576
# The indexes cannot hold longer texts.
TEXT_BYTES_MAX = 1_000
RUN_AT_MIN, RUN_AT_END = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
DELAY_MAX = timedelta(days=36_500)
TIMEOUT_SECONDS_MIN, TIMEOUT_SECONDS_MAX = 0.001, 1e9
COUNT_MAX = 2**31 - 1
WEIGHT_MAX = 1_000_000

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACE_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


class JobOptions(TypedDict, total=False):
    """Options of a job, as keyword arguments; `NewJob` explains them."""

    queue: str
    priority: int
    run_at: datetime | None
    delay: timedelta | float | None
    expires_at: datetime | None
    expires_in: timedelta | float | None
    lane: str | None
    unique_key: str | None
    unique_until: UniqueUntil | None
    unique_seconds: float | None
    on_conflict: OnConflict | None
    debounce_seconds: float | None
    debounce_max_seconds: float | None
    failures_max: int | None
    crashes_max: int | None
    timeout_seconds: float | None
    trace_parent: str | None
    after: Sequence[UUID]
    holds_lane: bool
    id: UUID | None
    limit_key: str | None
    limit_weight: int | None
    fair_key: str | None


class EnqueueOptions(JobOptions, total=False):
    """`JobOptions`, and what the job belongs to."""

    thread_id: UUID | None
    trigger_message_id: UUID | None
    request_id: str | None
    team_id: UUID | None
    agent_id: UUID | None
    session_id: UUID | None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to enqueue; raises `InvalidInput` when an option is not usable.

    priority: 1 (urgent) to 4. run_at or delay (seconds or timedelta): the earliest start.
    expires_at or expires_in: canceled unless it has started by then. lane: its
    jobs run one at a time, in order; by default the thread, "" for none. unique_key: at most one
    open job of a team has it; with unique_until="start" at most one that has not started, and with
    unique_seconds for so long in any case. on_conflict: what happens when it is held; by default
    the holder is returned. debounce_seconds: the job runs when no call has come for that long, at
    the latest debounce_max_seconds after the first, with what the last one said. failures_max,
    crashes_max: how many make it fail for good. after: jobs that must be done first. holds_lane: no
    job of its lane overtakes it while it waits for an approval or a signal. id: your own, so that a
    repeated call adds nothing. agent_id: the agent that the job is for, by default that of its
    thread. request_id: the request that the job works for; by default that of its trigger message.
    Its follow-ups, children and messages have it too. limit_key: its key for the limits per key
    (`jobsworth job-limit`). limit_weight: how much of a rate its start takes, 1 by default.
    fair_key: whose turn it is in a fair queue; by default the key of its parent, else its team.
    session_id: the session that the job belongs to, with all that it makes; by default that of its
    thread.
    """

    mode: str
    payload: Mapping[str, Any] | None = None
    queue: str = "default"
    priority: int = 3
    run_at: datetime | None = None
    delay: timedelta | float | None = None
    thread_id: UUID | None = None
    trigger_message_id: UUID | None = None
    lane: str | None = None
    unique_key: str | None = None
    unique_until: UniqueUntil | None = None
    unique_seconds: float | None = None
    on_conflict: OnConflict | None = None
    debounce_seconds: float | None = None
    debounce_max_seconds: float | None = None
    failures_max: int | None = None
    crashes_max: int | None = None
    timeout_seconds: float | None = None
    trace_parent: str | None = None
    request_id: str | None = None
    expires_at: datetime | None = None
    expires_in: timedelta | float | None = None
    team_id: UUID | None = None
    agent_id: UUID | None = None
    after: Sequence[UUID] = ()
    holds_lane: bool = False
    id: UUID | None = None
    limit_key: str | None = None
    limit_weight: int | None = None
    fair_key: str | None = None
    session_id: UUID | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def replaces(self) -> bool:
        """Whether the job that holds the key takes what this one says."""
        return self.on_conflict == "replace" or self.debounce_seconds is not None

    def payload_json(self, bytes_max: int = PAYLOAD_BYTES_MAX) -> str:
        """The payload as JSON text; raises `InvalidInput` (not an object, NUL, too large)."""
        if self.payload is None:
            return "{}"
        return to_payload(_object(self.payload), f"the payload of a {self.mode} job", bytes_max)

    def delay_interval(self) -> timedelta | None:
        """The delay as a timedelta, if one was given."""
        return _interval(self.delay)

    def expires_interval(self) -> timedelta | None:
        """`expires_in` as a timedelta, if it was given."""
        return _interval(self.expires_in)


def _interval(value: timedelta | float | None) -> timedelta | None:
    if value is None or isinstance(value, timedelta):
        return value
    return timedelta(seconds=value)


def _object(payload: object) -> object:
    return dict(cast(Mapping[str, Any], payload)) if isinstance(payload, Mapping) else payload


def _check(job: NewJob) -> None:
    _check_text("mode", job.mode)
    _check_text("queue", job.queue)
    if type(job.priority) is not int or not 1 <= job.priority <= 4:
        raise InvalidInput(
            f"priority {shown(job.priority)} is not 1 to 4", "1 is urgent, 3 the default"
        )
    _check_time(job)
    for thing, value in (
        ("thread_id", job.thread_id),
        ("trigger_message_id", job.trigger_message_id),
        ("team_id", job.team_id),
        ("agent_id", job.agent_id),
        ("session_id", job.session_id),
        ("id", job.id),
    ):
        if value is not None:
            _check_id(thing, value)
    if job.lane:
        _check_text("lane", job.lane)
    if job.unique_key is not None:
        _check_text("unique_key", job.unique_key)
    check_unique(
        unique_key=job.unique_key,
        unique_until=job.unique_until,
        unique_seconds=job.unique_seconds,
        on_conflict=job.on_conflict,
        debounce_seconds=job.debounce_seconds,
        debounce_max_seconds=job.debounce_max_seconds,
        has_time=job.run_at is not None or job.delay is not None,
        after=job.after,
    )
    if job.fair_key is not None:
        _check_text("fair_key", job.fair_key)
    if job.failures_max is not None:
        _check_count("failures_max", job.failures_max)
    if job.crashes_max is not None:
        _check_count("crashes_max", job.crashes_max)
    if job.timeout_seconds is not None:
        _check_timeout(job.timeout_seconds)
    if job.trace_parent is not None:
        _check_trace_parent(job.trace_parent)
    if job.request_id is not None:
        _check_text("request_id", job.request_id)
    if job.limit_key is not None:
        _check_text("limit_key", job.limit_key)
    if job.limit_weight is not None:
        _check_weight(job.limit_weight)
    if job.after:
        _check_after(job)
    if type(job.holds_lane) is not bool:
        raise InvalidInput(
            f"holds_lane {shown(job.holds_lane)} is neither True nor False", "pass True or False"
        )


def _check_text(thing: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidInput(f"{thing} must be text, not {type(value).__name__}", "pass a str")
    if not value.strip():
        raise InvalidInput(f"{thing} is empty", "give it a name")
    if "\0" in value:
        raise InvalidInput(f"{thing} {shown(value)} contains a NUL character", "remove it")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{thing} {shown(value)} is not Unicode text", "decode it with its encoding"
        ) from error
    if size > TEXT_BYTES_MAX:
        raise InvalidInput(
            f"{thing} has {size:,} bytes; at most {TEXT_BYTES_MAX:,} are allowed",
            "shorten it, or use a hash of it",
        )


def _check_time(job: NewJob) -> None:
    if job.run_at is not None:
        if job.delay is not None:
            raise InvalidInput("run_at and delay are both given", "give only one of them")
        _check_instant("run_at", job.run_at, "delay")
    if job.delay is not None:
        _check_span("delay", job.delay, "leave it out to run at once")
    if job.expires_at is not None:
        if job.expires_in is not None:
            raise InvalidInput("expires_at and expires_in are both given", "give only one of them")
        _check_instant("expires_at", job.expires_at, "expires_in")
    if job.expires_in is not None:
        _check_span("expires_in", job.expires_in, "leave it out for no expiry")
    _check_expires_later(job)


def _check_instant(thing: str, value: object, span: str) -> None:
    if not isinstance(value, datetime) or value.tzinfo is None or value.utcoffset() is None:
        raise InvalidInput(
            f"{thing} {shown(value)} is not an instant: it has no time zone",
            f"for example datetime.now(UTC) + timedelta(hours=1), or use {span}",
        )
    if not RUN_AT_MIN <= value < RUN_AT_END:
        raise InvalidInput(f"{thing} {value} is not from 1900 to 2199", "leave it out")


def _check_span(thing: str, value: object, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise InvalidInput(
            f"{thing} must be seconds or a timedelta, not {type(value).__name__}",
            "pass one of them",
        )
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 <= seconds <= DELAY_MAX.total_seconds():
        raise InvalidInput(
            f"{thing} {shown(value)} is not between 0 and {DELAY_MAX.days:,} days", remedy
        )


def _check_expires_later(job: NewJob) -> None:
    """The database compares an instant with a span."""
    delay, expires_in = job.delay_interval() or timedelta(), job.expires_interval()
    late = job.run_at and job.expires_at and job.expires_at <= job.run_at
    if late or (expires_in is not None and expires_in <= delay):
        raise InvalidInput(
            "the job expires before it may start",
            "let expires_at be after run_at, and expires_in longer than delay",
        )


def _check_id(thing: str, value: object) -> None:
    if not isinstance(value, UUID):
        raise InvalidInput(
            f"{thing} must be a UUID, not {type(value).__name__}", "wrap it: uuid.UUID(…)"
        )


def _check_count(thing: str, value: object) -> None:
    if type(value) is not int or not 1 <= value <= COUNT_MAX:
        raise InvalidInput(
            f"{thing} {shown(value)} is not a whole number from 1", "1 allows no second try"
        )


def _check_weight(value: object) -> None:
    if type(value) is not int or not 1 <= value <= WEIGHT_MAX:
        raise InvalidInput(
            f"limit_weight {shown(value)} is not a whole number from 1 to {WEIGHT_MAX:,}",
            "leave it out for 1",
        )


def _check_timeout(value: object) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not TIMEOUT_SECONDS_MIN <= value <= TIMEOUT_SECONDS_MAX
    ):
        raise InvalidInput(
            f"timeout_seconds {shown(value)} is not a number of seconds above 0",
            "leave it out for the default",
        )


def _check_trace_parent(value: object) -> None:
    if not isinstance(value, str) or not _TRACE_PARENT.fullmatch(value):
        raise InvalidInput(
            f"trace_parent {shown(value)} is not a W3C traceparent",
            "like 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )


def _check_after(job: NewJob) -> None:
    if not isinstance(cast(object, job.after), Sequence):
        raise InvalidInput(
            f"after is {shown(job.after)}, not a list of jobs", "pass a list of their ids"
        )
    for need in job.after:
        _check_id("after", need)
        if need == job.id:
            raise InvalidInput(f"job {need} comes after itself", "take it out of after")
