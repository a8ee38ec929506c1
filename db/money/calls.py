"""Model calls: their types, and the rows of `llm_calls`.

In: counts of tokens and costs. Out: the types that the rest of this chapter shares, and a job's
calls. `db.money.starts` writes a call before a byte of it is sent; `db.money.settlements` ends it.
Invariant: a count of tokens is a whole number in bounds (`Usage`). A cost is a number or unknown
(null); an unknown cost is never taken for zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput, shown
from db.pool import Connection, fetch_all, fetch_val

TOKENS_MAX = 2_147_483_647


class CallStatus(StrEnum):
    STARTED = "started"
    OK = "ok"
    ERROR = "error"
    CUT = "cut"
    UNKNOWN = "unknown"


class UsageSource(StrEnum):
    PROVIDER = "provider"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


# The model did not end its answer by itself.
CUT_SHORT = ("length", "content_filter")


class LedgerScope(StrEnum):
    """Proactive: on the system's own account. Reactive: for a job."""

    PROACTIVE = "proactive"
    REACTIVE = "reactive"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `input_tokens` is everything the model read; the cache counts are parts
    of it, and `reasoning_tokens` a part of the output, so the total is input plus output.
    `total_tokens` is the provider's own total, if it gives one. `cache_write_1h_tokens` (a part of
    the cache writes) and `web_searches` (a count of searches) only serve to compute the price; they
    are stored nowhere but in the rates beside it. Raises `InvalidInput`.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    source: UsageSource = UsageSource.PROVIDER
    reasoning_tokens: int = 0
    total_tokens: int | None = None
    cache_write_1h_tokens: int = 0
    web_searches: int = 0

    def __post_init__(self) -> None:
        for name in (
            *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
            *("reasoning_tokens", "total_tokens", "cache_write_1h_tokens", "web_searches"),
        ):
            count = getattr(self, name)
            if name == "total_tokens" and count is None:
                continue
            if type(count) is not int or not 0 <= count <= TOKENS_MAX:
                raise InvalidInput(
                    f"{name} is {shown(count)}, not a count of tokens",
                    f"give a whole number from 0 to {TOKENS_MAX}",
                )


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a model call: its content (any JSON value), its tokens and its cost.

    `usage` None: the provider gave none. `cost` None: the price is unknown. `price`: the rates
    behind the cost.
    """

    content: Any
    usage: Usage | None
    cost: Decimal | None = None
    price_version: str | None = None
    price: Mapping[str, Any] | None = None


class Call(BaseModel):
    """A row of `llm_calls`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    job_id: UUID | None
    thread_id: UUID | None
    run_id: UUID | None
    agent_id: UUID | None
    lease_no: int | None
    attempt: int | None
    step_name: str | None
    scope: LedgerScope
    mode: str | None
    provider: str
    model: str
    status: CallStatus
    request_id: str
    estimated_input_tokens: int
    estimated_output_tokens: int
    estimated_cost: Decimal | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    total_tokens: int | None
    usage_source: UsageSource | None
    cost: Decimal | None
    price_version: str | None
    price: dict[str, Any] | None
    over_estimate: bool
    latency_ms: int | None
    error: str | None
    finish_reason: str | None
    """Why the model stopped: stop, tool_call, length, content_filter or error, if it is known."""
    limited: bool
    """The provider refused it for its rate limit, since the job's last fresh start."""
    started_at: AwareDatetime
    settled_at: AwareDatetime | None


CALLS_OF_JOB: LiteralString = """
select c.id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.lease_no, c.attempt,
  c.step_name, c.scope, c.mode, c.provider, c.model, c.status, c.request_id,
  c.estimated_input_tokens, c.estimated_output_tokens, c.estimated_cost, c.input_tokens,
  c.output_tokens, c.cache_read_tokens, c.cache_write_tokens, c.reasoning_tokens, c.total_tokens,
  c.usage_source, c.cost, c.price_version, c.price, c.over_estimate, c.latency_ms, c.error,
  c.finish_reason, c.limited, c.started_at, c.settled_at
from jobsworth.llm_calls c
where c.job_id = %(job_id)s
order by c.id
"""


async def list_calls(conn: Connection, job_id: UUID) -> list[Call]:
    """The calls of a job, of all its attempts, in the order they were started."""
    return await fetch_all(conn, CALLS_OF_JOB, {"job_id": job_id}, Call)


BY_ID: LiteralString = """
select exists (select from jobsworth.llm_calls c where c.id = %(call_id)s) as booked
"""


async def is_booked(conn: Connection, call_id: UUID) -> bool:
    """Whether this call is in the books."""
    return bool(await fetch_val(conn, BY_ID, {"call_id": call_id}))
