"""Budgets: how many tokens or how much money may be spent, on which calls, in which period.

In: names, amounts, periods and filters. Out: budgets, and how much of each is used. Every call that
a budget covers reserves its upper estimate in the budget's current window before it is sent, and
counts in that window (`db.money.starts`). The operations are functions of the schema, so any SQL
client can raise a budget, and the jobs that waited for it go on with the same commit.
"""

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput, NotFound
from db.pool import execute, fetch_all, fetch_val

Unit = Literal["tokens", "money"]
Period = Literal["hour", "day", "month", "run"]
Over = Literal["park", "fail", "ask"]


class Budget(BaseModel):
    """A row of `budgets` and its current window (of a budget per run: all runs since its last reset
    together). `waiting`: how many jobs wait for this budget.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    name: str
    unit: Unit
    amount: Decimal
    period: Period
    for_team_id: UUID | None
    agent_id: UUID | None
    thread_id: UUID | None
    mode: str | None
    provider: str | None
    model: str | None
    over: Over
    warn_at: Decimal
    active: bool
    reset_at: AwareDatetime | None
    created_at: AwareDatetime
    starts_at: AwareDatetime
    ends_at: AwareDatetime | None
    reserved: Decimal
    spent: Decimal
    warned_at: AwareDatetime | None
    waiting: int


SET: LiteralString = """
select jobsworth.set_budget(
  %(name)s, %(unit)s::jobsworth.budget_unit, %(amount)s::numeric,
  %(period)s::jobsworth.budget_period, for_team_id => %(for_team_id)s::uuid,
  agent_id => %(agent_id)s::uuid, thread_id => %(thread_id)s::uuid, mode => %(mode)s,
  provider => %(provider)s, model => %(model)s, over => %(over)s::jobsworth.budget_over,
  warn_at => %(warn_at)s::numeric, team_id => %(team_id)s::uuid)
"""


async def set_budget(
    conn: AsyncConnection[Any],
    name: str,
    amount: Decimal | int,
    *,
    unit: Unit,
    period: Period,
    for_team_id: UUID | None = None,
    agent_id: UUID | None = None,
    thread_id: UUID | None = None,
    mode: str | None = None,
    provider: str | None = None,
    model: str | None = None,
    over: Over = "park",
    warn_at: Decimal | float = Decimal("0.8"),
    team_id: UUID | None = None,
) -> Budget:
    """Make a budget, or change the one of that name; committed on return.

    It bounds the calls that match every given filter, from now on: what was spent before does not
    count. `over` says what happens to a call that does not fit: its job waits, fails, or asks a
    person. `warn_at`: the share of the budget at which `budget.warned` is logged, once per window.
    A change of what the budget counts begins a new window.
    """
    share = Decimal(str(warn_at))
    if not 0 < share <= 1:
        raise InvalidInput(f"warn_at is {warn_at}, not a share", "give a number above 0, up to 1")
    values = {
        "name": name,
        "unit": unit,
        "amount": _amount(amount, unit),
        "period": period,
        "for_team_id": for_team_id,
        "agent_id": agent_id,
        "thread_id": thread_id,
        "mode": mode,
        "provider": provider,
        "model": model,
        "over": over,
        "warn_at": share,
        "team_id": team_id,
    }
    await execute(conn, SET, values)
    return await get(conn, name, team_id=team_id)


RAISE: LiteralString = """
select jobsworth.raise_budget(%(name)s, %(amount)s::numeric, %(team_id)s::uuid)
"""


async def raise_to(
    conn: AsyncConnection[Any], name: str, amount: Decimal | int, *, team_id: UUID | None = None
) -> Budget:
    """Give a budget another amount, also a lower one; waiting jobs that fit now go on.

    Raises `NotFound`.
    """
    unit = (await get(conn, name, team_id=team_id)).unit
    values = {"name": name, "amount": _amount(amount, unit), "team_id": team_id}
    await execute(conn, RAISE, values)
    return await get(conn, name, team_id=team_id)


RESET: LiteralString = "select jobsworth.reset_budget(%(name)s, %(team_id)s::uuid)"


async def reset(conn: AsyncConnection[Any], name: str, *, team_id: UUID | None = None) -> Budget:
    """Begin a new window now; waiting jobs that fit go on. Calls under way count in the old window.

    Raises `NotFound`.
    """
    await execute(conn, RESET, {"name": name, "team_id": team_id})
    return await get(conn, name, team_id=team_id)


REMOVE: LiteralString = "select jobsworth.remove_budget(%(name)s, %(team_id)s::uuid)"


async def remove(conn: AsyncConnection[Any], name: str, *, team_id: UUID | None = None) -> Budget:
    """Lift a budget; jobs that wait for it go on. Its windows are kept.

    Raises `NotFound`.
    """
    await execute(conn, REMOVE, {"name": name, "team_id": team_id})
    return await get(conn, name, team_id=team_id)


LIST: LiteralString = """
select b.id, b.team_id, b.name, b.unit::text, b.amount, b.period::text, b.for_team_id, b.agent_id,
  b.thread_id, b.mode, b.provider, b.model, b.over::text, b.warn_at, b.active, b.reset_at,
  b.created_at, s.starts_at, jobsworth.window_end(b, now()) as ends_at,
  coalesce(w.reserved, 0) as reserved, coalesce(w.spent, 0) as spent, w.warned_at, (
    select count(*) from jobsworth.budget_waits x
    join jobsworth.reactive_jobs j on j.id = x.job_id
    where x.budget_id = b.id and j.status = 'waiting' and j.waiting_for = 'budget') as waiting
from jobsworth.budgets b
cross join lateral (select jobsworth.window_start(b, now()) as starts_at) s
left join lateral (
  select sum(x.reserved) as reserved, sum(x.spent) as spent, max(x.warned_at) as warned_at
  from jobsworth.budget_windows x
  where x.budget_id = b.id and x.starts_at = s.starts_at) w on true
where (b.active or %(everything)s)
  and (%(name)s::text is null
    or (b.name = %(name)s and b.team_id is not distinct from %(team_id)s::uuid))
order by b.name, b.team_id
"""


async def list_all(conn: AsyncConnection[Any], *, everything: bool = False) -> list[Budget]:
    """The budgets in force, by name; with `everything`, also the removed ones."""
    return await _list(conn, everything=everything)


async def get(conn: AsyncConnection[Any], name: str, *, team_id: UUID | None = None) -> Budget:
    """One budget, even if it was removed. Raises `NotFound`."""
    found = await _list(conn, everything=True, name=name, team_id=team_id)
    if not found:
        raise NotFound(f"there is no budget {name}", "see jobsworth budget list")
    return found[0]


async def _list(
    conn: AsyncConnection[Any],
    *,
    everything: bool,
    name: str | None = None,
    team_id: UUID | None = None,
) -> list[Budget]:
    values = {"everything": everything, "name": name, "team_id": team_id}
    return await fetch_all(conn, LIST, values, Budget)


WAKE: LiteralString = "select jobsworth.wake_budgets(%(ids)s::uuid[])"


async def wake(conn: AsyncConnection[Any], budget_ids: Sequence[UUID] | None = None) -> int:
    """Let the longest waiting jobs that fit go on, after these budgets have more left (None: look
    at all budgets, as when a window ended). Returns how many jobs go on.
    """
    ids = None if budget_ids is None else list(budget_ids)
    return await fetch_val(conn, WAKE, {"ids": ids})


FORGET: LiteralString = """
select f.forgotten, f.next from jobsworth.forget_windows(%(after)s::uuid, %(days)s, %(most)s) f
"""


async def forget_windows(
    conn: AsyncConnection[Any], after: UUID, *, days: int, most: int
) -> tuple[int, UUID | None]:
    """Delete the shares of calls in windows that are over, `days` after they were settled, and the
    notes of jobs that waited and have ended.

    Looks at `most` windows after `after`. Returns how many shares were deleted, and the id to go on
    after (None: every window was looked at).
    """
    [row] = await fetch_all(conn, FORGET, {"after": after, "days": days, "most": most})
    return row["forgotten"], row["next"]


def _amount(amount: Decimal | int, unit: Unit) -> Decimal:
    try:
        exact = Decimal(amount)
    except (InvalidOperation, TypeError, ValueError):
        exact = Decimal("NaN")
    if not (exact.is_finite() and exact >= 0):
        raise InvalidInput(f"{amount} is not an amount", "give a number from 0")
    if unit == "tokens" and exact != exact.to_integral_value():
        raise InvalidInput(f"{amount} is not a number of tokens", "give a whole number")
    return exact
