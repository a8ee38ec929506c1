"""`/ledger`, `/budgets` and `/limits`: what was spent, and how much may be.

In: a span, a budget or a limit. Out: sums and rows. Invariant: a caller of one team reads its
limits, and does not change them.
"""

from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from db.money import budgets, ledger, limits
from db.money.budgets import Budget, Over, Period, Unit
from db.money.ledger import Dimension, UsageBy
from db.money.limits import RateLimit
from worker.api.access import Access, may
from worker.api.problems import documented

router = APIRouter(tags=["money"])
ReadLedger = Annotated[Access, may("ledger:read")]
ReadBudgets = Annotated[Access, may("budgets:read")]
WriteBudgets = Annotated[Access, may("budgets:write")]
ReadLimits = Annotated[Access, may("limits:read")]
WriteLimits = Annotated[Access, may("limits:write")]
Count = Annotated[int | None, Field(ge=1, le=2**31 - 1)]


class NewBudget(BaseModel):
    """How much may be spent in a period, by what is named; what is left out is any."""

    model_config = ConfigDict(extra="forbid")

    amount: Decimal
    unit: Unit
    period: Period
    team_id: UUID | None = None
    agent_id: UUID | None = None
    thread_id: UUID | None = None
    mode: str | None = None
    provider: str | None = None
    model: str | None = None
    over: Over = "park"
    warn_at: Decimal = Decimal("0.8")


class NewLimit(BaseModel):
    """What may be sent to a provider's model in a minute; `*` is any model."""

    model_config = ConfigDict(extra="forbid")

    provider: str
    model: str = "*"
    requests_per_minute: Count = None
    tokens_per_minute: Count = None


@router.get("/ledger", summary="Add up what model calls used and cost", responses=documented())
async def show_ledger(
    access: ReadLedger,
    by: Annotated[Dimension, Query(description="one row for each")] = "day",
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
) -> list[UsageBy]:
    async with access.reading() as conn:
        return await ledger.usage_by(conn, by, since, until=until, team_id=access.caller.team_id)


@router.get("/budgets", summary="List budgets and what is left of them", responses=documented())
async def list_budgets(access: ReadBudgets) -> list[Budget]:
    async with access.reading() as conn:
        return await budgets.list_all(conn)


@router.put("/budgets/{name}", summary="Set a budget", responses=documented(404, 409))
async def set_budget(access: WriteBudgets, name: str, new: NewBudget) -> Budget:
    access.caller.require_installation()
    async with access.acting() as conn:
        return await budgets.set_budget(
            conn,
            name,
            new.amount,
            unit=new.unit,
            period=new.period,
            for_team_id=new.team_id,
            agent_id=new.agent_id,
            thread_id=new.thread_id,
            mode=new.mode,
            provider=new.provider,
            model=new.model,
            over=new.over,
            warn_at=new.warn_at,
        )


@router.delete("/budgets/{name}", summary="Lift a budget", responses=documented(404))
async def remove_budget(access: WriteBudgets, name: str) -> Budget:
    access.caller.require_installation()
    async with access.acting() as conn:
        return await budgets.remove(conn, name)


@router.get("/limits", summary="List rate limits of models", responses=documented())
async def list_limits(access: ReadLimits) -> list[RateLimit]:
    async with access.reading() as conn:
        return await limits.list_all(conn)


@router.put("/limits", summary="Set a rate limit of a model", responses=documented(404, 409))
async def set_limit(access: WriteLimits, new: NewLimit) -> list[RateLimit]:
    """All limits in force. Without either number the limit is lifted."""
    access.caller.require_installation()
    async with access.acting() as conn:
        await limits.set_limit(
            conn,
            new.provider,
            new.model,
            requests=new.requests_per_minute,
            tokens=new.tokens_per_minute,
        )
        return await limits.list_all(conn)
