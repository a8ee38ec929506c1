"""Webhooks: addresses that are told about approvals, and the outbox of deliveries to them.

In: addresses, and the deliveries that a trigger puts into the outbox in the transaction that
changes an approval. Out: deliveries that a worker takes, sends and marks. Each of these is a short
statement of its own, so nothing is locked while the network is used.

Invariant: each delivery is made at least once, always under the same id. Taking a delivery moves
its next try to the end of a lease, so if its worker dies, another takes it. A failure is recorded
only for the try that is the latest.
"""

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit
from db.errors import InvalidInput, NotFound
from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val

EVENTS = ("approval.opened", "approval.edited", "approval.escalated", "approval.closed")
HOW_TO_LIST = "list them: jobsworth webhook list"


LIMIT_MAX = 1_000


class Webhook(BaseModel):
    """An address that is told about one team's approvals, or about all (`team_id` is None)."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    url: str
    events: tuple[str, ...]
    active: bool
    off_because: str | None
    created_at: AwareDatetime


class DueDelivery(BaseModel):
    """A delivery that was taken and is to be sent now; `url` is None if its webhook is gone."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    webhook_id: UUID
    url: str | None
    event: str
    payload: dict[str, Any]
    tries: int


class Delivery(BaseModel):
    """A row of the outbox, without its payload; `state` is delivered, dead or pending."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    webhook_id: UUID
    url: str | None
    approval_id: UUID
    event: str
    state: str
    tries: int
    next_try_at: AwareDatetime
    last_status: int | None
    last_error: str | None
    created_at: AwareDatetime


class Outbox(BaseModel):
    """How many deliveries are pending, and how many were given up (dead)."""

    model_config = ConfigDict(frozen=True)

    pending: int
    oldest_seconds: float | None
    dead: int


WEBHOOK_COLUMNS: LiteralString = (
    "w.id, w.team_id, w.url, w.events, w.active, w.off_because, w.created_at"
)

ADD: LiteralString = (
    """
insert into jobsworth.webhooks as w (team_id, url, events)
values (%(team_id)s, %(url)s, %(events)s::text[])
returning """
    + WEBHOOK_COLUMNS
)


async def add(
    conn: Connection, url: str, *, events: Sequence[str] = EVENTS, team_id: UUID | None = None
) -> Webhook:
    """Deliver events to this address from now on. The caller has checked the URL (`check_url`)."""
    unknown = sorted(set(events) - set(EVENTS))
    if unknown or not events:
        raise InvalidInput(
            f"unknown events: {', '.join(unknown)}" if unknown else "no events are given",
            f"the events are {', '.join(EVENTS)}",
        )
    values = {"team_id": team_id, "url": url, "events": list(dict.fromkeys(events))}
    added = await fetch_one(conn, ADD, values, Webhook)
    assert added is not None  # an insert without a condition returns its row
    return added


LIST: LiteralString = (
    "select "
    + WEBHOOK_COLUMNS
    + """
from jobsworth.webhooks w
order by w.id
limit 1000
"""
)


async def list_webhooks(conn: Connection) -> list[Webhook]:
    """The webhooks, oldest first; at most 1,000."""
    return await fetch_all(conn, LIST, None, Webhook)


REMOVE: LiteralString = """
with removed as (
  delete from jobsworth.webhooks w where w.id = %(id)s returning w.id
), forgotten as (
  delete from jobsworth.webhook_outbox o
  where o.webhook_id = %(id)s and o.delivered_at is null
)
select count(*) from removed
"""


async def remove(conn: Connection, webhook_id: UUID) -> None:
    """Remove a webhook with its pending deliveries. Raises `NotFound`."""
    if not await fetch_val(conn, REMOVE, {"id": webhook_id}):
        raise NotFound(f"there is no webhook {webhook_id}", HOW_TO_LIST)


TAKE: LiteralString = """
with recursive receivers as (
  (select o.webhook_id as id
   from jobsworth.webhook_outbox o
   where o.delivered_at is null and o.dead_at is null
   order by o.webhook_id
   limit 1)
  union all
  select (
    select o.webhook_id from jobsworth.webhook_outbox o
    where o.delivered_at is null and o.dead_at is null and o.webhook_id > r.id
    order by o.webhook_id
    limit 1)
  from receivers r
  where r.id is not null
), due as materialized (
  select of_receiver.id
  from receivers r
  left join unnest(%(receivers)s::uuid[], %(places)s::int[]) known (id, places)
    on known.id = r.id
  cross join lateral (
    select o.id
    from jobsworth.webhook_outbox o
    where o.webhook_id = r.id and o.delivered_at is null and o.dead_at is null
      and o.next_try_at <= clock_timestamp()
    order by o.next_try_at
    limit coalesce(known.places, %(places_each)s)
    for update skip locked) of_receiver
)
update jobsworth.webhook_outbox o
set tries = o.tries + 1,
  next_try_at = clock_timestamp() + %(lease_seconds)s * interval '1 second'
from due d
where o.id = d.id
returning o.id, o.webhook_id, o.event, o.payload, o.tries, (
  select w.url from jobsworth.webhooks w where w.id = o.webhook_id and w.active) as url
"""


async def take(
    conn: Connection,
    places_each: int,
    lease_seconds: float,
    places: Mapping[UUID, int] | None = None,
) -> list[DueDelivery]:
    """Take due deliveries of each webhook; for `lease_seconds` no other worker takes them.

    At most `places_each` of one webhook, or as many as `places` has for it.
    """
    known = dict(places or {})
    values = {
        "receivers": list(known),
        "places": list(known.values()),
        "places_each": places_each,
        "lease_seconds": lease_seconds,
    }
    return await fetch_all(conn, TAKE, values, DueDelivery)


DELIVERED: LiteralString = """
update jobsworth.webhook_outbox o
set delivered_at = clock_timestamp(), dead_at = null, last_status = %(status)s, last_error = null
where o.id = %(id)s and o.delivered_at is null
"""


async def delivered(conn: Connection, delivery_id: UUID, status: int) -> None:
    """Mark a delivery as arrived, whichever try succeeded and whatever later tries do."""
    await execute(conn, DELIVERED, {"id": delivery_id, "status": status})


FAILED: LiteralString = """
update jobsworth.webhook_outbox o
set last_status = %(status)s, last_error = %(error)s,
  next_try_at = clock_timestamp() + coalesce(%(pause_seconds)s::float8, 0) * interval '1 second',
  dead_at = case when %(pause_seconds)s::float8 is null then clock_timestamp() end
where o.id = %(id)s and o.tries = %(tries)s and o.delivered_at is null
"""


async def failed(
    conn: Connection,
    due: DueDelivery,
    error: str,
    *,
    status: int | None = None,
    pause_seconds: float | None,
) -> None:
    """Record that a try failed: the next one follows after a pause, or (None) after `retry`."""
    values = {"id": due.id, "tries": due.tries, "error": error, "status": status}
    await execute(conn, FAILED, {**values, "pause_seconds": pause_seconds})


SWITCH_OFF: LiteralString = """
update jobsworth.webhooks w
set active = false, off_because = %(because)s
where w.id = %(id)s and w.active
"""


async def switch_off(conn: Connection, webhook_id: UUID, because: str) -> bool:
    """Tell this address nothing more; False if it was off, or is removed.

    What is pending for it is given up when it is taken.
    """
    return await execute(conn, SWITCH_OFF, {"id": webhook_id, "because": because}) > 0


RETRY: LiteralString = """
update jobsworth.webhook_outbox o
set dead_at = null, tries = 0, next_try_at = clock_timestamp()
where o.id = any(array(
  select d.id from jobsworth.webhook_outbox d
  where d.dead_at is not null and (%(id)s::uuid is null or d.id = %(id)s)
  order by d.dead_at
  limit 1000
  for update skip locked))
"""


async def retry(conn: Connection, delivery_id: UUID | None = None) -> int:
    """Make deliveries that were given up due again: one, or up to 1,000. Returns how many.

    Raises `NotFound` if the given one was not given up.
    """
    tried = await execute(conn, RETRY, {"id": delivery_id})
    if delivery_id is not None and not tried:
        raise NotFound(
            f"no delivery {delivery_id} was given up", "list them: jobsworth delivery list"
        )
    return tried


DELIVERIES: LiteralString = """
select o.id, o.webhook_id, w.url, o.approval_id, o.event, o.tries, o.next_try_at, o.last_status,
  o.last_error, o.created_at,
  case when o.delivered_at is not null then 'delivered' when o.dead_at is not null then 'dead'
    else 'pending' end as state
from jobsworth.webhook_outbox o
left join jobsworth.webhooks w on w.id = o.webhook_id
where not %(dead_only)s or o.dead_at is not null
order by o.id desc
limit %(limit)s
"""


async def deliveries(conn: Connection, limit: int, *, dead_only: bool = False) -> list[Delivery]:
    """The newest deliveries, newest first."""
    check_limit(limit, LIMIT_MAX, "ask for fewer deliveries")
    return await fetch_all(conn, DELIVERIES, {"limit": limit, "dead_only": dead_only}, Delivery)


OUTBOX: LiteralString = """
select
  (select count(*) from jobsworth.webhook_outbox o
   where o.delivered_at is null and o.dead_at is null) as pending,
  (select extract(epoch from clock_timestamp() - min(o.created_at))::float8
   from jobsworth.webhook_outbox o
   where o.delivered_at is null and o.dead_at is null) as oldest_seconds,
  (select count(*) from jobsworth.webhook_outbox o where o.dead_at is not null) as dead
"""


async def outbox(conn: Connection) -> Outbox:
    """The counts of the outbox."""
    found = await fetch_one(conn, OUTBOX, None, Outbox)
    assert found is not None  # three sums
    return found


PRUNE: LiteralString = """
delete from jobsworth.webhook_outbox o
where o.id = any(array(
  select d.id from jobsworth.webhook_outbox d
  where d.delivered_at < now() - %(days)s * interval '1 day'
  order by d.delivered_at
  limit %(most)s
  for update skip locked))
"""


async def prune(conn: Connection, days: float, most: int) -> int:
    """Delete up to `most` deliveries that arrived more than `days` ago; returns how many."""
    return await execute(conn, PRUNE, {"days": days, "most": most})
