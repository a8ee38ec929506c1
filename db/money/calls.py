"""Model calls: their types, and the rows of `llm_calls`.

In: counts of tokens and costs. Out: the types that the rest of this chapter shares, and a job's
calls. `db.money.starts` writes a call before a byte of it is sent; `db.money.settlements` ends it.
Invariant: a count of tokens is a whole number in bounds (`Usage`). A cost is a number or unknown
(null); an unknown cost is never taken for zero.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, LiteralString, cast
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput, shown
from db.pool import Connection, fetch_all, fetch_val

TOKENS_MAX = 2_147_483_647
OTHERS_MAX = 50
_CLASS = re.compile(r"[a-z][a-z0-9_]{0,62}")
# Several terms are joined: `fast us`.
_TIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:/-]{0,99}")


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
    """What one call used. `input_tokens` is everything the model read; the cache counts are parts
    of it, and `reasoning_tokens` a part of the output, so the total is input plus output.
    `total_tokens` is the provider's own total, if it gives one.

    `others` counts further classes, by the names of genai-prices: `cache_write_1h_tokens`,
    `input_audio_tokens`, `cache_audio_read_tokens`, `output_audio_tokens`, `input_image_tokens`,
    `web_searches` and so on. Tokens among them are parts of the counts above. A class that has no
    price for the model makes the cost unknown.

    `tier` names the terms under which the provider served the call, as `flex` or `priority`; None:
    its standard ones. Raises `InvalidInput`.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    source: UsageSource = UsageSource.PROVIDER
    reasoning_tokens: int = 0
    total_tokens: int | None = None
    others: Mapping[str, int] = field(default_factory=dict[str, int])
    tier: str | None = None

    def __post_init__(self) -> None:
        for name in (
            *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
            *("reasoning_tokens", "total_tokens"),
        ):
            if name != "total_tokens" or self.total_tokens is not None:
                _check_count(name, getattr(self, name))
        others = cast(object, self.others)
        if not isinstance(others, Mapping) or len(self.others) > OTHERS_MAX:
            raise InvalidInput(
                f"others is {shown(self.others)}, not counts by name",
                f"give a dictionary of at most {OTHERS_MAX}, like {{'web_searches': 2}}",
            )
        for name, count in cast(Mapping[object, object], self.others).items():
            if not isinstance(name, str) or not _CLASS.fullmatch(name):
                raise InvalidInput(
                    f"{shown(name)} is not the name of a class of usage",
                    "name it as genai-prices does, like web_searches",
                )
            _check_count(name, count)
        tier = cast(object, self.tier)
        if tier is not None and not (isinstance(tier, str) and _TIER.fullmatch(tier)):
            raise InvalidInput(
                f"tier is {shown(tier)}, not the name of a tier", "give a word, like 'flex'"
            )


def _check_count(name: str, count: object) -> None:
    if type(count) is not int or not 0 <= count <= TOKENS_MAX:
        raise InvalidInput(
            f"{name} is {shown(count)}, not a count of {'tokens' if 'tokens' in name else 'uses'}",
            f"give a whole number from 0 to {TOKENS_MAX}",
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a model call: its content (any JSON value), its tokens and its cost.

    `usage` None: the provider gave none. `cost` None: it is computed from the usage, by the prices.
    `price`: the rates behind the cost. `model`: the model that answered, if the provider says so;
    if it is another than the one asked, its price counts.
    """

    content: Any
    usage: Usage | None
    cost: Decimal | None = None
    price_version: str | None = None
    price: Mapping[str, Any] | None = None
    model: str | None = None


class Call(BaseModel):
    """A row of `llm_calls`. `answered_model`: the model that answered, if it is another one."""

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
    answered_model: str | None
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
    other_usage: dict[str, int] | None
    tier: str | None
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
  c.step_name, c.scope, c.mode, c.provider, c.model, c.answered_model, c.status, c.request_id,
  c.estimated_input_tokens, c.estimated_output_tokens, c.estimated_cost, c.input_tokens,
  c.output_tokens, c.cache_read_tokens, c.cache_write_tokens, c.reasoning_tokens, c.total_tokens,
  c.other_usage, c.tier, c.usage_source, c.cost, c.price_version, c.price, c.over_estimate,
  c.latency_ms, c.error, c.finish_reason, c.limited, c.started_at, c.settled_at
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
