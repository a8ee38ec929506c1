"""Rate limits: how many requests and tokens a minute all daemons together may send.

In: a provider, a model (or `*`: all its models together) and numbers; or a pause that the provider
asked for. Out: the limits, which `db.money.starts` enforces when calls start, by the generic cell
rate algorithm (ITU-T I.371): a bucket of one minute's worth that refills at the limit's rate.
"""

from math import isfinite
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput, NotFound
from db.pool import execute, fetch_all, fetch_one, fetch_val


class RateLimit(BaseModel):
    """A row of `rate_limits`. A `paused_until` in the past no longer pauses.

    `pace_seconds`: the least time between two calls, since the provider has refused some.
    """

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    paused_until: AwareDatetime | None
    pace_seconds: float | None


SET: LiteralString = """
select jobsworth.set_rate_limit(%(provider)s, %(model)s, %(requests)s::int, %(tokens)s::bigint)
"""


async def set_limit(
    conn: AsyncConnection[Any],
    provider: str,
    model: str = "*",
    *,
    requests: int | None = None,
    tokens: int | None = None,
) -> None:
    """Limit what is sent in a minute; None sets no limit of that kind, both None lift the limit.

    Jobs that wait for a rate limit try again at once. Raises `InvalidInput`.
    """
    values = {"provider": provider, "model": model, "requests": requests, "tokens": tokens}
    await execute(conn, SET, values)


PAUSE: LiteralString = """
select jobsworth.pause_rate(%(provider)s, %(model)s, %(seconds)s::float8)
"""


async def pause(conn: AsyncConnection[Any], provider: str, model: str, seconds: float) -> None:
    """Send nothing to this model for `seconds` (a year at most); the jobs of new calls wait."""
    if not (isfinite(seconds) and seconds >= 0):
        raise InvalidInput(f"a pause of {seconds} seconds is not possible", "give a number from 0")
    await execute(conn, PAUSE, {"provider": provider, "model": model, "seconds": seconds})


class Refusals(NamedTuple):
    """How often a provider refused one request of a job for its rate limit, since when, and for how
    many seconds from now its model is paused.
    """

    times: int
    since_seconds: float
    paused_seconds: float


REFUSALS: LiteralString = """
select count(*) as times,
  coalesce(extract(epoch from clock_timestamp() - min(c.started_at)), 0)::float8 as since_seconds,
  coalesce((
    select greatest(0, extract(epoch from l.paused_until - clock_timestamp()))
    from jobsworth.rate_limits l
    where l.team_id is null and l.provider = %(provider)s and l.model = %(model)s
  ), 0)::float8 as paused_seconds
from jobsworth.llm_calls c
where c.job_id = %(job_id)s and c.step_name = %(step_name)s and c.limited
  and c.provider = %(provider)s and c.model = %(model)s
"""


async def refusals(
    conn: AsyncConnection[Any], job_id: UUID, step_name: str, provider: str, model: str
) -> Refusals:
    """The refusals of one request since the job's last fresh start."""
    values = {"job_id": job_id, "step_name": step_name, "provider": provider, "model": model}
    row = await fetch_one(conn, REFUSALS, values)
    assert row is not None
    return Refusals(**row)


REMOVE: LiteralString = """
with removed as (
  delete from jobsworth.rate_limits l
  where l.team_id is null and l.provider = %(provider)s and l.model = %(model)s
  returning l.id
)
select count(*) from removed r cross join lateral (select jobsworth.wake_limited() offset 0) w
"""


async def remove(conn: AsyncConnection[Any], provider: str, model: str = "*") -> None:
    """Lift a limit, and a pause. Raises `NotFound`."""
    if not await fetch_val(conn, REMOVE, {"provider": provider, "model": model}):
        raise NotFound(f"there is no limit of {provider} {model}", "see jobsworth limit list")


LIST: LiteralString = """
select l.provider, l.model, l.requests_per_minute, l.tokens_per_minute, l.paused_until,
  l.pace_seconds
from jobsworth.rate_limits l
where jobsworth.limit_applies(l)
order by l.provider, l.model
"""


async def list_all(conn: AsyncConnection[Any]) -> list[RateLimit]:
    """The limits and pauses in force, by provider and model."""
    return await fetch_all(conn, LIST, None, RateLimit)


RELEASE_RESERVED: LiteralString = """
select jobsworth.release_reserved(%(most)s::int)
"""


async def release_reserved(conn: AsyncConnection[Any], most: int) -> int:
    """Let up to `most` calls that are open for more than a minute hold up others no longer."""
    return await fetch_val(conn, RELEASE_RESERVED, {"most": most})
