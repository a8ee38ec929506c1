"""What a model call costs, and the most that it can cost.

In: a provider, a model and tokens. Out: a cost with the version and the rates of its calculation,
which are frozen into the call's row; or None where the price is not known. Own prices (the table
`prices`) take precedence over the data of genai-prices, which is read from the installed package:
no price is ever fetched from the network.

Invariant: an unknown price is None, never zero, and `upper_cost` of an estimate is at least
`price_of` of any usage within it, as long as own prices stay as they are.
"""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import anyio
import anyio.to_thread

from db.money import prices
from db.money.calls import Usage
from db.money.prices import OwnPrice
from db.pool import Connection, Database

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

REFRESH_SECONDS = 60.0
PER_TOKENS = 1_000_000
PER_REQUESTS = 1_000
# The provider of our own offline model, which costs nothing.
FREE_PROVIDER = "offline"
# Models that a provider gives away end in this, and have no prices in the data.
FREE_SUFFIX = ":free"
OWN = "own "
# Some models cost less at night: an estimate takes the highest price of the coming day.
LOOK_AHEAD = [timedelta(minutes=30 * number) for number in range(49)]


class Rates(NamedTuple):
    """US dollars for a million tokens, for one request, and for one search of the web.

    None means unknown for `input` and `output`, and "as `input` or `output`" for the others.
    `cache_write_1h` is for tokens that are cached for an hour; None means "as `cache_write`".
    """

    input: Decimal | None
    output: Decimal | None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    request: Decimal | None = None
    cache_write_1h: Decimal | None = None
    web_search: Decimal | None = None


class Priced(NamedTuple):
    """A cost in US dollars, and the version and rates of its calculation.

    The version is `genai-prices 0.2.3` or `own <id>`.
    """

    cost: Decimal
    version: str
    rates: dict[str, str]

    def is_own(self) -> bool:
        """Whether an own price was used."""
        return self.version.startswith(OWN)


class Pricing:
    """Prices of models. Own prices are known after `refresh` or `ready`."""

    def __init__(self, own: Sequence[OwnPrice] = ()) -> None:
        self._own = list(own)
        self._refreshed_at: float | None = None
        self._loaded = False
        self._refreshing = anyio.Lock()

    async def ready(self, database: Database, provider: str) -> None:
        """Have own prices at most a minute old, and load the package's data outside the loop."""
        load = not self._loaded and provider != FREE_PROVIDER
        if self.is_fresh() and not load:
            return
        async with self._refreshing:
            if not self.is_fresh():
                async with database.connection() as connection:
                    await self.refresh(connection)
            if load and not self._loaded:
                await anyio.to_thread.run_sync(_look_up, provider, "")
                self._loaded = True

    async def refresh(
        self, connection: Connection, *, at_most_every: float = REFRESH_SECONDS
    ) -> bool:
        """Read the own prices; returns False if they were read within so many seconds.

        On an error it raises, and the prices stay as they are.
        """
        if self.is_fresh(at_most_every):
            return False
        self._own = await prices.list_prices(connection)
        self._refreshed_at = time.monotonic()
        return True

    def is_fresh(self, within_seconds: float = REFRESH_SECONDS) -> bool:
        """Whether the own prices were read within so many seconds."""
        read_at = self._refreshed_at
        return read_at is not None and time.monotonic() - read_at < within_seconds

    def price_of(
        self,
        provider: str,
        model: str,
        usage: Usage,
        *,
        at: datetime | None = None,
        team_id: UUID | None = None,
    ) -> Priced | None:
        """What `usage` costs at an instant (by default now); None if the price is unknown."""
        at = at or datetime.now(UTC)
        found = self._find(provider, model, at, team_id)
        if found is None:
            return None
        version, source = found
        read = max(usage.input_tokens, usage.cache_read_tokens + usage.cache_write_tokens)
        rates = source if isinstance(source, Rates) else _rates(source, at, read)
        cost = _cost(rates, usage, read)
        return None if cost is None else Priced(cost, version, _shown(rates, usage))

    def upper_cost(
        self,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        team_id: UUID | None = None,
    ) -> Decimal | None:
        """The most that a call within this estimate can cost; None if the price is unknown.

        All input is priced at the highest rate of input, cache read and cache writes, all output at
        the highest of output and reasoning, each in the most expensive tier that the input can
        reach. Web searches are not included: their number is unknown before the call.
        """
        now = datetime.now(UTC)
        found = self._find(provider, model, now, team_id)
        if found is None:
            return None
        _, source = found
        reachable = [source] if isinstance(source, Rates) else _reachable(source, now, input_tokens)
        dear_input = _dearest(
            rate
            for each in reachable
            for rate in (each.input, each.cache_read, each.cache_write, each.cache_write_1h)
        )
        dear_output = _dearest(rate for each in reachable for rate in (each.output, each.reasoning))
        dear = Rates(dear_input, dear_output, request=_dearest(each.request for each in reachable))
        return _cost(dear, Usage(input_tokens, output_tokens), input_tokens)

    def _find(
        self, provider: str, model: str, at: datetime, team_id: UUID | None
    ) -> "tuple[str, Rates | ModelInfo] | None":
        own = prices.choose(self._own, provider, model, at, team_id)
        if own is not None:
            return f"{OWN}{own.id}", Rates(own.input, own.output, own.cache_read, own.cache_write)
        if provider == FREE_PROVIDER:
            return FREE_PROVIDER, Rates(Decimal(0), Decimal(0))
        info = _look_up(provider, model)
        if info is None:
            return None
        if info.id.endswith(FREE_SUFFIX) and not _has_prices(info):
            return _package_version(), Rates(Decimal(0), Decimal(0))
        return _package_version(), info


def _cost(rates: Rates, usage: Usage, read_tokens: int) -> Decimal | None:
    """The cost of `usage`; None if something was used that has no rate.

    `read_tokens` is all input, which is more than `usage.input_tokens` where a provider reports
    less input than cached input.
    """
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    thought = usage.reasoning_tokens if rates.reasoning is not None else 0
    for_an_hour = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
    write = _either(rates.cache_write, rates.input)
    parts = (
        (read_tokens - cached, rates.input),
        (usage.cache_read_tokens, _either(rates.cache_read, rates.input)),
        (usage.cache_write_tokens - for_an_hour, write),
        (for_an_hour, _either(rates.cache_write_1h, write)),
        (max(usage.output_tokens - thought, 0), rates.output),
        (thought, rates.reasoning),
    )
    if rates.input is None and rates.output is None and rates.request is None:
        return None
    total = Decimal(0)
    for tokens, rate in parts:
        if tokens and rate is None:
            return None
        total += tokens * (rate or 0)
    if usage.web_searches and rates.web_search is None:
        return None
    searched = usage.web_searches * (rates.web_search or 0)
    return total / PER_TOKENS + searched + (rates.request or 0)


def _either(rate: Decimal | None, otherwise: Decimal | None) -> Decimal | None:
    return otherwise if rate is None else rate


def _dearest(rates: Iterable[Decimal | None]) -> Decimal | None:
    return max((rate for rate in rates if rate is not None), default=None)


def _shown(rates: Rates, usage: Usage) -> dict[str, str]:
    """The rates, and the counts of those uses that the call's row does not count."""
    shown = {name: f"{rate:f}" for name, rate in rates._asdict().items() if rate is not None}
    for name, count in (
        ("cache_write_1h", usage.cache_write_1h_tokens),
        ("web_search", usage.web_searches),
    ):
        if count:
            shown[f"{name}_count"] = str(count)
        else:
            shown.pop(name, None)
    return shown


# What genai-prices knows.


def _look_up(provider: str, model: str) -> "ModelInfo | None":
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, info = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    return info


@cache
def _package_version() -> str:
    return f"genai-prices {metadata.version('genai-prices')}"


def _has_prices(info: "ModelInfo") -> bool:
    from genai_prices.types import ModelPrice

    sets = [info.prices] if isinstance(info.prices, ModelPrice) else [p.prices for p in info.prices]
    return any(value is not None for prices in sets for value in vars(prices).values())


def _reachable(info: "ModelInfo", now: datetime, input_tokens: int) -> list[Rates]:
    """The rates of every tier that the input can reach, at every time of the coming day."""
    found: list[Rates] = []
    for prices_then in _price_sets(info, now):
        starts = {0} | {
            tier.start + 1
            for price in vars(prices_then).values()
            for tier in getattr(price, "tiers", ())
            if tier.start < input_tokens
        }
        found += [_rates_of(prices_then, start) for start in sorted(starts)]
    return found


def _price_sets(info: "ModelInfo", now: datetime) -> "list[ModelPrice]":
    from genai_prices.types import ModelPrice

    if isinstance(info.prices, ModelPrice):
        return [info.prices]
    sets = {id(each): each for each in (info.get_prices(now + later) for later in LOOK_AHEAD)}
    return list(sets.values())


def _rates(info: "ModelInfo", at: datetime, read_tokens: int) -> Rates:
    return _rates_of(info.get_prices(at), read_tokens)


def _rates_of(found: "ModelPrice", read_tokens: int) -> Rates:
    def rate(name: str) -> Decimal | None:
        price = getattr(found, name, None)
        if price is None or isinstance(price, Decimal):
            return price
        # The highest tier that the input reaches prices the whole call.
        reached = [tier.price for tier in price.tiers if read_tokens > tier.start]
        return reached[-1] if reached else price.base

    for_requests, for_searches = rate("requests_kcount"), rate("web_searches_kcount")
    return Rates(
        rate("input_mtok"),
        rate("output_mtok"),
        rate("cache_read_mtok"),
        rate("cache_write_mtok"),
        rate("output_reasoning_mtok"),
        None if for_requests is None else for_requests / PER_REQUESTS,
        rate("cache_write_1h_mtok"),
        None if for_searches is None else for_searches / PER_REQUESTS,
    )
