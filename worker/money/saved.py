"""`save_llm_call`: a call that another program made for a run, priced like one of ours.

In: what the provider answered. Out: a settled call in the run's books. Invariant: every class of
usage and every tier is priced as for the calls of jobs; what has no price is unknown.
"""

from dataclasses import replace
from uuid import UUID, uuid4

from db.money.calls import Answer
from db.money.saved import save_call
from db.pool import Connection
from worker.money.pricing import Pricing, another_model


async def save_llm_call(
    connection: Connection,
    run_id: UUID,
    *,
    provider: str,
    model: str,
    answer: Answer,
    request_id: str | None = None,
    name: str | None = None,
    latency_ms: int | None = None,
) -> UUID:
    """Enter a call into the books of a run that has no job for it; returns the call's id.

    Committed on return. Without a cost in `answer`, it is computed from its usage, by your prices
    and those of genai-prices. Saved again with the same `request_id` it is one call. Budgets do not
    see it. Raises `NotFound`, `Conflict` and `InvalidInput`.
    """
    answered_model = another_model(provider, model, answer.model)
    if answer.cost is None and answer.usage is not None:
        pricing = Pricing()
        await pricing.refresh(connection)
        priced = pricing.price_of(provider, answered_model or model, answer.usage)
        if priced is not None:
            answer = replace(
                answer, cost=priced.cost, price_version=priced.version, price=priced.rates
            )
    return await save_call(
        connection,
        run_id,
        provider,
        model,
        answer,
        request_id=request_id or uuid4().hex,
        name=name,
        answered_model=answered_model,
        latency_ms=latency_ms,
    )
