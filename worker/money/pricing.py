"""What a model call costs, and the most that it can cost.

In: a provider, a model, and what was used in which tier. Out: a cost with the version and the rates
of its calculation, which are frozen into the call's row; or None where the price is not known: of
the model, of a class that was used, or of the tier. Own prices (the table `prices`) take precedence
over the data of genai-prices, which is read from the installed package: no price is ever fetched
from the network.

Invariant: an unknown price is None, never zero, and `upper_cost` of an estimate is at least
`price_of` of any usage within it, as long as own prices stay as they are.
"""

import re
import time
from collections.abc import Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import anyio
import anyio.to_thread

from db.money import prices
from db.money.calls import Usage
from db.money.prices import PRICES_MAX, OwnPrice
from db.pool import Connection, Database
from worker.money.rates import Rates

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, PriceVariant

REFRESH_SECONDS = 60.0
PER_TOKENS = 1_000_000
# The provider of our own offline model, which costs nothing.
FREE_PROVIDER = "offline"
# Models that a provider gives away end in this, and have no prices in the data.
FREE_SUFFIX = ":free"
OWN = "own "
# The providers on whose models recordings without a price of their own cost as much as text.
AUDIO_AS_TEXT = frozenset({"google"})
# A recording counts for at least so many seconds (console.groq.com/docs/speech-to-text).
SECONDS_MIN = {("groq", "whisper-large-v3"): 10, ("groq", "whisper-large-v3-turbo"): 10}
# What a provider adds to the name of a model for one of its snapshots.
_SNAPSHOT = re.compile(r"|[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)|:latest")
# Some models cost less at night: an estimate takes the highest price of the coming day.
LAST_TIME = 48
LOOK_AHEAD = [timedelta(minutes=30 * number) for number in range(LAST_TIME + 1)]


class Terms(NamedTuple):
    """What the price of a call depends on besides its tokens, as far as it is known beforehand.

    `tier`: the one that is asked for; the provider may serve it in its standard one. `kinds`: what
    the request holds besides text (`image`, `audio`, `video`); None: perhaps anything.
    """

    tier: str | None = None
    kinds: frozenset[str] | None = None


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


STANDARD = Terms()


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
        """What `usage` costs at an instant (by default now); None if the price is unknown.

        A usage in a tier is priced by the prices of that tier alone.
        """
        at = at or datetime.now(UTC)
        for version, rates in self._find(provider, model, [at], usage.tier, team_id):
            costs = rates.cost(_counts(usage))
            return None if costs is None else Priced(costs.cost, version, costs.rates)
        return None

    def upper_cost(
        self,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        team_id: UUID | None = None,
        terms: Terms = STANDARD,
    ) -> Decimal | None:
        """The most that a call within this estimate can cost; None if the price is unknown.

        All input is priced at the highest rate of its classes, all output likewise, each in the
        most expensive tier of size that the input can reach, at the most expensive time of the
        coming day. Uses of the provider's own tools are not included: their number is unknown
        before the call. Nor is a tier that nobody asked for.
        """
        now = datetime.now(UTC)
        times = [now + later for later in LOOK_AHEAD]
        tiers = {None, terms.tier}
        found = [self._find(provider, model, times, tier, team_id) for tier in tiers]
        if not all(found):
            return None
        costs = [
            _upper(rates, input_tokens, output_tokens, terms.kinds)
            for each in found
            for _, rates in each
        ]
        known = [cost for cost in costs if cost is not None]
        return max(known) if len(known) == len(costs) else None

    def _find(
        self,
        provider: str,
        model: str,
        times: Sequence[datetime],
        tier: str | None,
        team_id: UUID | None,
    ) -> list[tuple[str, Rates]]:
        """(version, rates) at each of these times, each rates once; empty if no price is known."""
        own = prices.choose(self._own, provider, model, times[0], team_id, tier)
        if own is not None:
            return [(f"{OWN}{own.id}", _own_rates(own))]
        if provider == FREE_PROVIDER:
            return [(FREE_PROVIDER, _free())]
        if tier is not None and prices.choose(self._own, provider, model, times[0], team_id, None):
            # Whoever has an own price for the model pays other prices in its tiers as well.
            return []
        from genai_prices.types import ModelPrice

        found = _look_up(provider, model)
        if found is None:
            return []
        info = found.info
        if info.id.endswith(FREE_SUFFIX) and not _has_prices(info):
            return [(_package_version(), _free())]
        if isinstance(info.prices, ModelPrice):
            times = times[::LAST_TIME]  # they do not change within the day
        sets = {id(rates): rates for at in times if (rates := _package_rates(found, at, tier))}
        return [(_package_version(), rates) for rates in sets.values()]


def _counts(usage: Usage) -> dict[str, int]:
    """The counts of a usage by genai-prices' names; the whole is at least as much as its parts.

    A provider may report less input than cached input, or less output than reasoning.
    """
    others = dict(usage.others)
    written = usage.cache_write_tokens
    for_an_hour = others.get("cache_write_1h_tokens")
    if for_an_hour is not None:
        others["cache_write_1h_tokens"] = min(for_an_hour, written)
    read = max(usage.input_tokens, usage.cache_read_tokens + written)
    made = max(usage.output_tokens, usage.reasoning_tokens)
    return {
        **others,
        "input_tokens": read,
        "output_tokens": made,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": written,
        "output_reasoning_tokens": usage.reasoning_tokens,
    }


def _upper(
    rates: Rates, input_tokens: int, output_tokens: int, kinds: frozenset[str] | None
) -> Decimal | None:
    dear_input = rates.dearest("input", input_tokens, kinds)
    dear_output = rates.dearest("output", input_tokens, None)
    if (input_tokens and dear_input is None) or (output_tokens and dear_output is None):
        return None
    tokens = input_tokens * (dear_input or 0) + output_tokens * (dear_output or 0)
    return Decimal(tokens) / PER_TOKENS + rates.request()


@lru_cache(maxsize=PRICES_MAX)
def _own_rates(own: OwnPrice) -> Rates:
    from genai_prices.types import ModelPrice

    cached = {"cache_read_mtok": own.cache_read, "cache_write_mtok": own.cache_write}
    return Rates(ModelPrice(input_mtok=own.input, output_mtok=own.output, **cached, **own.others))


@cache
def _free() -> Rates:
    from genai_prices.types import ModelPrice

    return Rates(ModelPrice(input_mtok=Decimal(0), output_mtok=Decimal(0)), audio_as_text=True)


def another_model(provider: str, asked: str, answered: str | None) -> str | None:
    """`answered`, if it is another model than the one asked; None for the same and its snapshots.

    `gpt-5-mini-2025-08-07` is a snapshot of `gpt-5-mini`, and so it is for a gateway that puts the
    vendor before the name.
    """
    if not answered or answered == asked:
        return None
    name, called = (each.rpartition("/")[2].lower() for each in (asked, answered))
    if called.startswith(name) and _SNAPSHOT.fullmatch(called[len(name) :]):
        return None
    if provider == FREE_PROVIDER:
        return answered
    one, other = _look_up(provider, asked), _look_up(provider, answered)
    return None if one and other and one.info is other.info else answered


# What genai-prices knows.


class Found(NamedTuple):
    """A model in the package's data; `variants`: it is the provider's own, so its tiers count.

    `compiled` keeps the rates by the sets of prices that they are made of, which live for good.
    """

    info: "ModelInfo"
    provider_id: str
    variants: bool
    compiled: dict[tuple[int, ...], Rates]


@lru_cache(maxsize=4_096)
def _look_up(provider: str, model: str) -> Found | None:
    from genai_prices.data_snapshot import get_snapshot

    try:
        owner, info = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    return Found(info, owner.id, any(info is each for each in owner.models), {})


@cache
def _package_version() -> str:
    return f"genai-prices {metadata.version('genai-prices')}"


def _has_prices(info: "ModelInfo") -> bool:
    from genai_prices.types import ModelPrice

    sets = [info.prices] if isinstance(info.prices, ModelPrice) else [p.prices for p in info.prices]
    return any(value is not None for prices in sets for value in vars(prices).values())


def _package_rates(found: Found, at: datetime, tier: str | None) -> Rates | None:
    """The rates at an instant; None if the tier has none of its own."""
    info = found.info
    standard = info.get_prices(at)
    variants: list[PriceVariant] = []
    if tier is not None:
        variants = [
            each
            for each in (info.price_variants or () if found.variants else ())
            if sorted(each.when.values()) == sorted(tier.split())
            and (each.constraint is None or each.constraint.active(at))
        ]
        if not variants:
            return None
    key = (id(standard), *map(id, variants))
    if key not in found.compiled:
        in_force = copy(standard)
        for variant in reversed(variants):
            own = {key: price for key, price in vars(variant.prices).items() if price is not None}
            vars(in_force).update(own)
        found.compiled[key] = Rates(
            in_force,
            audio_as_text=found.provider_id in AUDIO_AS_TEXT,
            seconds_min=SECONDS_MIN.get((found.provider_id, info.id), 0),
        )
    return found.compiled[key]
