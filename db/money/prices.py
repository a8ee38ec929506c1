"""Own prices, which take precedence over those that come with the program.

In: what a provider's model costs, since when, for one team or for all. Out: the rows, among which
`worker.money.pricing` chooses. Invariant: no row is changed in place: a price that is set again
gets a new id, so the id in a call's row always names the rates it was charged at.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_document
from db.errors import InvalidInput
from db.pool import Connection, fetch_all, fetch_one

# Every daemon reads the whole list once a minute.
PRICES_MAX = 10_000
RATE_MAX = Decimal(10) ** 9


class OwnPrice(BaseModel):
    """A row of `prices`: US dollars for a million tokens.

    `model` is exact, or the beginning of a name and `*`. `cache_read` or `cache_write` None: cached
    tokens cost as much as other input. `others`: the rates of further classes, by genai-prices'
    names for prices, as `input_audio_mtok` (for a million) or `web_searches_kcount` (for a
    thousand). `tier` None: the provider's standard terms. `valid_from` None: valid at all times.
    """

    model_config = ConfigDict(frozen=True)

    def __hash__(self) -> int:
        return hash(self.id)

    id: UUID
    team_id: UUID | None
    provider: str
    model: str
    input: Decimal
    output: Decimal
    cache_read: Decimal | None
    cache_write: Decimal | None
    others: dict[str, Decimal] = {}
    tier: str | None = None
    valid_from: AwareDatetime | None
    note: str | None
    created_at: AwareDatetime


PRICE_COLUMNS: LiteralString = """
  p.id, p.team_id, p.provider, p.model, p.input, p.output, p.cache_read, p.cache_write,
  p.others, p.tier, p.valid_from, p.note, p.created_at
"""

SET: LiteralString = (
    """
insert into jobsworth.prices as p (
  team_id, provider, model, input, output, cache_read, cache_write, others, tier, valid_from, note)
values (
  %(team_id)s, %(provider)s, %(model)s, %(input)s, %(output)s, %(cache_read)s, %(cache_write)s,
  %(others)s::jsonb, %(tier)s, %(valid_from)s, %(note)s)
on conflict (team_id, provider, model, tier, valid_from) do update
set id = excluded.id, input = excluded.input, output = excluded.output,
  cache_read = excluded.cache_read, cache_write = excluded.cache_write, others = excluded.others,
  note = excluded.note, created_at = excluded.created_at
returning """
    + PRICE_COLUMNS
)


async def set_price(
    conn: Connection,
    provider: str,
    model: str,
    *,
    input: Decimal,
    output: Decimal,
    cache_read: Decimal | None = None,
    cache_write: Decimal | None = None,
    others: Mapping[str, Decimal] | None = None,
    tier: str | None = None,
    valid_from: datetime | None = None,
    note: str | None = None,
    team_id: UUID | None = None,
) -> OwnPrice:
    """Set what a model costs since `valid_from` (None: at all times), replacing what was set for
    it.

    Without a `tier` it is the price of the provider's standard terms; each tier has its own.
    Committed on return. Raises `InvalidInput`.
    """
    rates = {"input": input, "output": output, "cache_read": cache_read, "cache_write": cache_write}
    _refuse_bad(provider, model, rates | dict(others or {}))
    row = await fetch_one(
        conn,
        SET,
        {
            "team_id": team_id,
            "provider": provider,
            "model": model,
            "others": to_document({name: str(rate) for name, rate in (others or {}).items()}),
            "tier": tier,
            "valid_from": valid_from,
            "note": note,
        }
        | rates,
        OwnPrice,
    )
    assert row is not None
    return row


LIST: LiteralString = (
    "select "
    + PRICE_COLUMNS
    + """
from jobsworth.prices p
order by p.provider, p.model, p.team_id nulls first, p.valid_from nulls first
limit %(most)s
"""
)


async def list_prices(conn: Connection, most: int = PRICES_MAX) -> list[OwnPrice]:
    """The own prices of all teams, by provider and model."""
    return await fetch_all(conn, LIST, {"most": most}, OwnPrice)


REMOVE: LiteralString = (
    """
delete from jobsworth.prices p
where p.provider = %(provider)s and p.model = %(model)s
  and p.team_id is not distinct from %(team_id)s::uuid
returning """
    + PRICE_COLUMNS
)


async def remove_price(
    conn: Connection, provider: str, model: str, *, team_id: UUID | None = None
) -> list[OwnPrice]:
    """Remove all prices of a model (or a pattern, as it was set); returns the removed ones."""
    values = {"provider": provider, "model": model, "team_id": team_id}
    return await fetch_all(conn, REMOVE, values, OwnPrice)


def choose(
    prices: Sequence[OwnPrice],
    provider: str,
    model: str,
    at: datetime,
    team_id: UUID | None,
    tier: str | None = None,
) -> OwnPrice | None:
    """The price that applies in this tier, or None: the team's before that of all teams, that of
    the exact model before that of the longest pattern, and among those the latest that is valid at
    `at`.
    """
    fitting = [
        price
        for price in prices
        if price.provider == provider
        and price.tier == tier
        and price.team_id in (None, team_id)
        and (price.valid_from is None or price.valid_from <= at)
        and _fits(price.model, model)
    ]
    return max(fitting, key=_rank, default=None)


def _fits(pattern: str, model: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


def _rank(price: OwnPrice) -> tuple[bool, bool, int, float]:
    since = price.valid_from.timestamp() if price.valid_from else float("-inf")
    return (price.team_id is not None, not price.model.endswith("*"), len(price.model), since)


def _refuse_bad(provider: str, model: str, rates: dict[str, Decimal | None]) -> None:
    for name, value in (("provider", provider), ("model", model)):
        if not value.strip():
            raise InvalidInput(f"the {name} is empty", "name it as the calls' rows do")
    if "*" in model[:-1]:
        raise InvalidInput(
            f"the model {model!r} has a * before its end", "a * stands for the rest of the name"
        )
    for name, rate in rates.items():
        if rate is not None and not (rate.is_finite() and 0 <= rate < RATE_MAX):
            raise InvalidInput(
                f"the price of {name.replace('_', ' ')} is {rate}",
                "give US dollars for a million tokens, from 0",
            )
