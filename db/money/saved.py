"""Calls that another program made: entered into the books of a run after they were answered.

In: what a call took and cost. Out: its row in `llm_calls`, settled, with its entries in the ledger.
Invariant: one request is entered once, however often it is saved. Budgets and rate limits do not
see it: it was made without asking them.
"""

from decimal import Decimal
from typing import LiteralString
from uuid import UUID

from db.documents import to_document, to_text
from db.errors import Conflict, InvalidInput, NotFound
from db.ids import uuidv7
from db.money.amount import checked_amount
from db.money.calls import Answer
from db.pool import Connection, fetch_one

SAVE: LiteralString = """
with called as (
  insert into jobsworth.llm_calls (
    id, team_id, run_id, step_name, scope, provider, model, answered_model, status, request_id,
    estimated_input_tokens, estimated_output_tokens, estimated_cost, input_tokens, output_tokens,
    cache_read_tokens, cache_write_tokens, reasoning_tokens, total_tokens, other_usage, tier,
    usage_source, cost, price_version, price, latency_ms, settled_at)
  select %(id)s, r.team_id, r.id, %(name)s, 'proactive', %(provider)s, %(model)s,
    %(answered_model)s, 'ok', %(request_id)s, %(input_tokens)s, %(output_tokens)s,
    %(cost)s::numeric, %(input_tokens)s, %(output_tokens)s, %(cache_read_tokens)s,
    %(cache_write_tokens)s, %(reasoning_tokens)s, %(total_tokens)s, %(others)s::jsonb, %(tier)s,
    %(usage_source)s, %(cost)s::numeric, %(price_version)s, %(price)s::jsonb, %(latency_ms)s,
    clock_timestamp()
  from jobsworth.runs r
  where r.id = %(run_id)s
  on conflict (request_id) do nothing
  returning *
), entered as (
  insert into jobsworth.token_ledger (
    team_id, call_id, run_id, entry, scope, provider, model, input_tokens, output_tokens,
    cache_read_tokens, cache_write_tokens, reasoning_tokens, cost, price_version)
  select c.team_id, c.id, c.run_id, e.entry, c.scope, c.provider, c.model, c.input_tokens,
    c.output_tokens, case e.entry when 'settle' then c.cache_read_tokens else 0 end,
    case e.entry when 'settle' then c.cache_write_tokens else 0 end,
    case e.entry when 'settle' then c.reasoning_tokens else 0 end, c.cost,
    case e.entry when 'settle' then c.price_version end
  from called c
  cross join unnest(enum_range(null::jobsworth.ledger_entry)) as e (entry)
  where e.entry in ('reserve', 'settle')
)
select c.id from called c
"""


async def save_call(
    conn: Connection,
    run_id: UUID,
    provider: str,
    model: str,
    answer: Answer,
    *,
    request_id: str,
    name: str | None = None,
    answered_model: str | None = None,
    latency_ms: int | None = None,
) -> UUID:
    """Enter a call that was answered; its usage and cost are those of `answer`. Returns its id.

    Committed on return. The same request again, in the same run, is the same call. Raises
    `NotFound`, `Conflict` and `InvalidInput`.
    """
    usage = answer.usage
    if usage is None:
        raise InvalidInput("the answer has no usage", "say what the call took: usage=Usage(…)")
    cost: Decimal | None = checked_amount(answer.cost)
    values = {
        "id": uuidv7(),
        "run_id": run_id,
        "name": name,
        "provider": provider,
        "model": model,
        "answered_model": answered_model,
        "request_id": to_text(request_id),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "total_tokens": usage.total_tokens,
        "others": to_document(dict(usage.others)) if usage.others else None,
        "tier": usage.tier,
        "usage_source": usage.source,
        "cost": cost,
        "price_version": answer.price_version,
        "price": None if answer.price is None else to_document(dict(answer.price)),
        "latency_ms": latency_ms,
    }
    row = await fetch_one(conn, SAVE, values)
    return row["id"] if row else await _saved(conn, run_id, request_id)


SAVED: LiteralString = """
select r.id as run_id,
  (select c.id from jobsworth.llm_calls c
    where c.request_id = %(request_id)s and c.run_id = r.id) as call_id
from jobsworth.runs r
where r.id = %(run_id)s
"""


async def _saved(conn: Connection, run_id: UUID, request_id: str) -> UUID:
    row = await fetch_one(conn, SAVED, {"run_id": run_id, "request_id": to_text(request_id)})
    if row is None:
        raise NotFound(f"there is no run {run_id}", "start one: start_run")
    if row["call_id"] is None:
        raise Conflict(
            f"request {request_id} is in the books of something else",
            "give each call a request id of its own",
        )
    return row["call_id"]
