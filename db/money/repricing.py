"""Corrections of what calls have cost, after a price became known or changed.

In: settled calls of a span of time, and what they should have cost. Out: `adjust` entries with the
difference; the calls' rows keep the cost that was charged. Invariant: the entries of a call add up
to one cost, however many repricings run, also at once: a repricing locks the call's row and reads
the sum of its entries in the next statement.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from db.fence import PINNED
from db.ids import uuidv7
from db.money.calls import Usage
from db.pool import Connection, fetch_all
from db.tables import write_rows

# Begins the transaction of a batch.
CORRECTING: LiteralString = PINNED


class SettledCall(NamedTuple):
    """A settled call and the sum of its entries: the known cost, and how many costs are unknown."""

    call_id: UUID
    provider: str
    model: str
    team_id: UUID | None
    started_at: datetime
    usage: Usage | None
    cost: Decimal | None
    unknown_costs: int


class Page(NamedTuple):
    """Ids of calls in the order they were settled, and where the page ends."""

    call_ids: list[UUID]
    settled_at: datetime
    last_id: UUID


class Correction(NamedTuple):
    """`cost` is added to the cost of a call, `unknown_costs` to the number of its unknown costs."""

    call_id: UUID
    cost: Decimal
    unknown_costs: int
    price_version: str


PAGE: LiteralString = """
select c.id, c.settled_at
from jobsworth.llm_calls c
where c.settled_at >= %(since)s and c.settled_at < coalesce(%(until)s::timestamptz, 'infinity')
  and (%(after_id)s::uuid is null or (c.settled_at, c.id) > (%(since)s, %(after_id)s))
  and (%(provider)s::text is null or c.provider = %(provider)s)
  and (%(model)s::text is null or c.model = %(model)s)
  and (%(prefix)s::text is null or starts_with(c.model, %(prefix)s))
order by c.settled_at, c.id
limit %(most)s
"""


async def page(
    conn: Connection,
    since: datetime,
    until: datetime | None,
    *,
    after_id: UUID | None,
    provider: str | None,
    model: str | None,
    most: int,
) -> Page | None:
    """The next calls settled since `since` (after `after_id`, if given) and before `until`; None if
    there are none. `model` may end in `*`.
    """
    is_pattern = model is not None and model.endswith("*")
    values: dict[str, Any] = {
        "since": since,
        "until": until,
        "after_id": after_id,
        "provider": provider,
        "model": None if is_pattern else model,
        "prefix": model[:-1] if model is not None and is_pattern else None,
        "most": most,
    }
    rows = await fetch_all(conn, PAGE, values)
    if not rows:
        return None
    return Page([row["id"] for row in rows], rows[-1]["settled_at"], rows[-1]["id"])


LOCK_CALLS: LiteralString = """
select c.id
from jobsworth.llm_calls c
where c.id = any(%(call_ids)s)
for no key update skip locked
"""
BOOKED: LiteralString = """
select c.id as call_id, c.provider, coalesce(c.answered_model, c.model) as model, c.team_id,
  c.started_at, c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
  c.reasoning_tokens, c.other_usage, c.tier, b.cost, b.unknown_costs
from unnest(%(call_ids)s::uuid[]) h (id)
join jobsworth.llm_calls c on c.id = h.id
cross join lateral (
  select sum(e.cost) as cost, sum(e.unknown_costs) as unknown_costs
  from (
    select l.cost, coalesce(l.unknown_costs, (l.cost is null)::int) as unknown_costs
    from jobsworth.token_ledger l
    where l.call_id = c.id and l.entry = 'settle'
    union all
    select l.cost, coalesce(l.unknown_costs, 0)
    from jobsworth.token_ledger l
    where l.call_id = c.id and l.entry = 'adjust'
  ) e
  having count(*) > 0
) b
order by c.settled_at, c.id
"""


async def lock_calls(conn: Connection, call_ids: Sequence[UUID]) -> tuple[int, list[SettledCall]]:
    """Lock these calls in the caller's transaction, and read what they have cost so far.

    Returns how many were locked, and the calls. A call that another transaction holds is passed
    over: it is being repriced or settled there. A call that was never sent has no cost, is locked
    and left out.
    """
    held = await fetch_all(conn, LOCK_CALLS, {"call_ids": list(call_ids)})
    rows = await fetch_all(conn, BOOKED, {"call_ids": [row["id"] for row in held]})
    return len(held), [
        SettledCall(
            row["call_id"],
            row["provider"],
            row["model"],
            row["team_id"],
            row["started_at"],
            _usage(row),
            row["cost"],
            int(row["unknown_costs"]),
        )
        for row in rows
    ]


CORRECT: LiteralString = """
insert into jobsworth.token_ledger (
  id, team_id, call_id, job_id, thread_id, agent_id, run_id, entry, scope, mode, provider, model,
  cost, price_version, reprices, unknown_costs)
select a.id, l.team_id, l.call_id, l.job_id, l.thread_id, l.agent_id, l.run_id, 'adjust', l.scope,
  l.mode, l.provider, l.model, a.cost, a.price_version, true, a.unknown_costs
from jsonb_to_recordset(%(rows)s::jsonb) as a (
  id uuid, call_id uuid, cost numeric, price_version text, unknown_costs smallint)
join jobsworth.token_ledger l
  on l.call_id = a.call_id and l.entry = 'settle'
returning call_id
"""


async def correct(conn: Connection, corrections: Sequence[Correction]) -> int:
    """Enter corrections of calls that this transaction has locked; returns how many."""
    rows = [correction._asdict() | {"id": uuidv7()} for correction in corrections]
    return len(await write_rows(conn, CORRECT, rows, prepare=False))


def _usage(row: dict[str, Any]) -> Usage | None:
    if row["input_tokens"] is None or row["output_tokens"] is None:
        return None
    return Usage(
        row["input_tokens"],
        row["output_tokens"],
        row["cache_read_tokens"] or 0,
        row["cache_write_tokens"] or 0,
        reasoning_tokens=row["reasoning_tokens"] or 0,
        others=row["other_usage"] or {},
        tier=row["tier"],
    )
