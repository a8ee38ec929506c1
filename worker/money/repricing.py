"""Repricing: corrects calls whose cost was unknown, or differs by today's own prices.

In: a span of time. Out: corrections in the ledger, page by page, each in a short transaction.
Invariant: a second run finds nothing to correct; two runs at once correct each call once.

Only own prices correct a known cost: new data of the package must not change what was paid.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from db.money import repricing
from db.money.repricing import Correction, SettledCall
from db.pool import Connection, begun
from worker.money.pricing import Pricing

PAGE_CALLS = 500


@dataclass(slots=True)
class Repriced:
    """What a run did, or would do.

    `looked_at`, `corrected`, `unknown` (still without a cost) and `passed` (held by another
    transaction) count settled calls. `calls` counts the corrected ones by `provider:model`, and
    `difference` sums their corrections in US dollars.
    """

    looked_at: int = 0
    corrected: int = 0
    unknown: int = 0
    passed: int = 0
    calls: Counter[str] = field(default_factory=Counter[str])
    difference: dict[str, Decimal] = field(default_factory=dict[str, Decimal])


async def reprice(
    connection: Connection,
    pricing: Pricing,
    since: datetime,
    *,
    until: datetime | None = None,
    provider: str | None = None,
    model: str | None = None,
    dry_run: bool = False,
) -> Repriced:
    """Correct the calls that were settled from `since` on and before `until`.

    A call is priced by the rates of the time it started. `model` may end in `*`.
    """
    done, after_id = Repriced(), None
    while page := await repricing.page(
        connection,
        since,
        until,
        after_id=after_id,
        provider=provider,
        model=model,
        most=PAGE_CALLS,
    ):
        async with begun(connection, repricing.CORRECTING):
            held, calls = await repricing.lock_calls(connection, page.call_ids)
            corrections = [each for call in calls if (each := _correct(call, pricing, done))]
            if corrections and not dry_run:
                await repricing.correct(connection, corrections)
        done.looked_at += len(page.call_ids)
        done.passed += len(page.call_ids) - held
        since, after_id = page.settled_at, page.last_id
    return done


def _correct(call: SettledCall, pricing: Pricing, done: Repriced) -> Correction | None:
    correction = correction_of(call, pricing)
    if correction is None:
        done.unknown += call.unknown_costs > 0
        return None
    name = f"{call.provider}:{call.model}"
    done.corrected += 1
    done.calls[name] += 1
    done.difference[name] = done.difference.get(name, Decimal(0)) + correction.cost
    return correction


def correction_of(call: SettledCall, pricing: Pricing) -> Correction | None:
    """What to add to a call's cost; None if it is right, or its cost is still unknown."""
    if call.usage is None:
        return None
    priced = pricing.price_of(
        call.provider, call.model, call.usage, at=call.started_at, team_id=call.team_id
    )
    if priced is None or (call.unknown_costs <= 0 and not priced.is_own()):
        return None
    difference = priced.cost - (call.cost or 0)
    if not difference and call.unknown_costs <= 0:
        return None
    return Correction(call.call_id, difference, -call.unknown_costs, priced.version)
