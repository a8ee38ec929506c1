"""Corrections of what calls have cost, after a price became known or was changed.

In: settled calls of a span of time, and what they should have cost. Out: `adjust` entries with the
difference; the calls' rows stay as they were charged. Invariant: the entries of a call add up to
one cost, however often and by how many this is done at once: whoever corrects a call holds its row,
and reads in the next statement what its entries add up to.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from db.fence import PINNED
from db.ids import uuidv7
from db.money.calls import Usage
from db.pool import Connection, fetch_all, write_rows

# The transaction of a batch.
CORRECTING: LiteralString = PINNED


class Settled(NamedTuple):
    """A settled call and what its entries add up to: a known part, and entries of unknown cost."""

    call_id: UUID
    provider: str
    model: str
    team_id: UUID | None
    started_at: datetime
    usage: Usage | None
    cost: Decimal | None
    unknown_costs: int


class Page(NamedTuple):
    """Ids of calls, in the order in which they were settled."""

    call_ids: list[UUID]
    settled_at: datetime
    last_id: UUID


class Correction(NamedTuple):
    """`cost` is added to what a call has cost; `unknown_costs` to how many are unknown."""

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
    """The next calls that were settled from `since` on (after `after_id`, if given) and before
    `until`; None if there are none. `model` may end in `*`.
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


HOLD: LiteralString = """
select c.id
from jobsworth.llm_calls c
where c.id = any(%(call_ids)s)
for no key update skip locked
"""
BOOKED: LiteralString = """
select c.id as call_id, c.provider, c.model, c.team_id, c.started_at, c.input_tokens,
  c.output_tokens, c.cache_read_tokens, c.cache_write_tokens, c.reasoning_tokens,
  b.cost, b.unknown_costs
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


async def hold(conn: Connection, call_ids: Sequence[UUID]) -> tuple[int, list[Settled]]:
    """Lock these calls and say what they have cost so far, in the caller's transaction.

    Returns how many could be locked: who holds another corrects it too, or settles it anew. Those
    that were never sent have cost nothing and are left out.
    """
    held = await fetch_all(conn, HOLD, {"call_ids": list(call_ids)})
    rows = await fetch_all(conn, BOOKED, {"call_ids": [row["id"] for row in held]})
    return len(held), [
        Settled(
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
    """Enter corrections of calls that this transaction holds; returns how many."""
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
    )
