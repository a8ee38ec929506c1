"""Rates of one model, and what a usage costs by them.

In: prices of genai-prices for one model, at one time and in one tier; counts by its classes of
usage (`genai_prices.data_units`: `input_tokens`, `input_audio_tokens`, `web_searches` …). Out: the
cost; or None where a class that was used has no price.

Classes lie within each other: cached audio is a part of the cached tokens and of the audio, and
both are parts of the input. A token is charged by the narrowest class that has a price, once
(`genai_prices.decompose`). So cached tokens without a price of their own cost as much as other
input, and images mostly as much as text, as providers charge them. Recordings do not: their price
is several times that of text, so without one of its own their cost is unknown, except on Google's
models, whose documents say that the price of text holds for them
(ai.google.dev/gemini-api/docs/pricing).

This is the calculation of `ModelPrice.calc_price`, which takes 200 µs; what does not depend on the
counts is done once here, and the rest takes 15 µs. That one also takes a class without any price
for free.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from db.errors import InvalidInput, shown

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices
    from genai_prices.units import UnitDef

Counts = Mapping[str, int | Decimal]

INPUT = "input_tokens"
REQUESTS = "requests"
_SECONDS = frozenset({"audio_seconds", "input_audio_seconds"})
# Sets of classes of which is kept whether they have prices.
KNOWN_MAX = 1_000
# Shown with every cost, whether they were used or not.
_ALWAYS_SHOWN = frozenset(
    {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "output_reasoning_mtok"}
)


class Rate(NamedTuple):
    """The price of a class: US dollars for `unit.per` of it; `parts` are the priced classes in it.

    `parts` are places in the list of rates, all before this one. `name` is shown.
    """

    unit: "UnitDef"
    price: "Decimal | TieredPrices"
    parts: tuple[int, ...]
    name: str


class Costs(NamedTuple):
    """A cost in US dollars, and the rates behind it: for a million tokens, or for one use."""

    cost: Decimal
    rates: dict[str, str]


class Rates:
    """The rates of a model.

    `audio_as_text`: recordings without a price cost as much as text. `seconds_min`: a recording
    that is charged by its seconds counts for at least so many.
    """

    def __init__(
        self, prices: "ModelPrice", *, audio_as_text: bool = False, seconds_min: int = 0
    ) -> None:
        from genai_prices.units import _get_registry  # pyright: ignore[reportPrivateUsage]

        self._units = _get_registry().units
        self._audio_as_text = audio_as_text
        self._seconds_min = seconds_min
        by_key = {unit.price_key: unit for unit in self._units.values()}
        priced = [
            (by_key[key], price)
            for key, price in vars(prices).items()
            if price is not None and key in by_key
        ]
        # The narrowest classes first, so that each comes after its parts.
        priced.sort(key=lambda one: (-len(one[0].dimensions), one[0].usage_key))
        self._rates = [
            Rate(
                unit,
                price,
                tuple(n for n in range(place) if _holds(unit, priced[n][0])),
                shown_name(unit),
            )
            for place, (unit, price) in enumerate(priced)
        ]
        self._known: dict[tuple[frozenset[str], frozenset[str]], bool] = {}

    def cost(self, counts: Counts) -> Costs | None:
        """What these counts cost; None if one of them has no price, or they contradict each other.

        `counts` holds the wider classes as well, as `input_tokens`. A zero may be left out. One
        that is there says that none was used, where that could be in doubt.
        """
        none = frozenset(key for key, count in counts.items() if not count)
        used = {key: count for key, count in counts.items() if count}
        if self._seconds_min:
            billed = max(*(used.get(key, 0) for key in _SECONDS), self._seconds_min)
            used |= {key: billed for key in _SECONDS if used.keys() & _SECONDS}
        if not self._are_priced(frozenset(used), none):
            return None
        read = used.get(INPUT, 0)
        total, alone, rates = Decimal(0), list[int | Decimal](), dict[str, str]()
        for unit, price, parts, name in self._rates:
            count = 1 if unit.usage_key == REQUESTS else used.get(unit.usage_key, 0)
            for part in parts:
                count -= alone[part]
            if count < 0:
                return None
            alone.append(count)
            if count or unit.price_key in _ALWAYS_SHOWN:
                rate = _reached(price, read)
                total += rate * count / unit.per
                rates[name] = f"{_shown_rate(rate, unit):f}"
        return Costs(total, dict(reversed(rates.items())))

    def dearest(
        self, direction: str, input_tokens: int, kinds: frozenset[str] | None
    ) -> Decimal | None:
        """The highest rate per million tokens in this direction, in a tier that the input reaches.

        `kinds`: what besides text may be among them; None: anything. None without a price, or if
        one of the kinds has none.
        """
        rates = [
            max(_reached(price, read) for read in _thresholds(price, input_tokens))
            for unit, price, _, _ in self._rates
            if unit.dimensions.get("family") == "tokens"
            and unit.dimensions.get("direction") == direction
            and (kinds is None or unit.dimensions.get("modality", "text") in {"text", *kinds})
        ]
        audio = f"{direction}_audio_tokens"
        if kinds and "audio" in kinds and not self._has_price(audio):
            return None
        return max(rates, default=None)

    def request(self) -> Decimal:
        """What each request costs besides its tokens."""
        return sum(
            (
                _reached(price, 0) / unit.per
                for unit, price, _, _ in self._rates
                if unit.usage_key == REQUESTS
            ),
            Decimal(0),
        )

    def _are_priced(self, used: frozenset[str], none: frozenset[str]) -> bool:
        """Whether these classes, together, have prices, if of those in `none` none were used."""
        known = self._known.get((used, none))
        if known is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            priced = bool(self._rates) and all(map(self._has_price, used))
            known = priced and not any(
                self._is_open(rate.unit, used)
                for rate in self._rates
                if rate.unit.usage_key not in none
            )
            self._known[used, none] = known
        return known

    def _has_price(self, key: str) -> bool:
        """Whether a class has a price, or is a part of one that has."""
        unit = self._units.get(key)
        if unit is None:
            return False
        wider = [rate.unit for rate in self._rates if _holds(rate.unit, unit)]
        if unit.dimensions.get("modality") == "audio" and not self._audio_as_text:
            wider = [each for each in wider if each.dimensions.get("modality") == "audio"]
        return bool(wider)

    def _is_open(self, unit: "UnitDef", used: frozenset[str]) -> bool:
        """Whether a priced class that is not told may have been used all the same.

        So it is if a part of it is told, or two classes that have it in common.
        """
        if unit.usage_key == REQUESTS or unit.usage_key in used:
            return False
        told = [self._units[key] for key in used]
        return any(_holds(unit, each) for each in told) or any(
            first.is_compatible_with(second)
            and {**first.dimensions, **second.dimensions} == unit.dimensions
            for first in told
            for second in told
        )


def shown_name(unit: "UnitDef") -> str:
    """The name of a class in the rates of a call: `input_audio`, `web_search`, `request`."""
    name = unit.price_key.removesuffix("_mtok")
    if not name.endswith("_kcount"):
        return name
    name = name.removesuffix("_kcount")
    return name.removesuffix("es") if name.endswith("ches") else name.removesuffix("s")


def is_by_use(name: str) -> bool:
    """Whether a rate that is shown under this name is for one use, and not for a million tokens."""
    key = _price_keys().get(name, "")
    return key.endswith("_kcount")


def shown_rates(prices: Mapping[str, Decimal]) -> dict[str, str]:
    """Rates by genai-prices' names for prices, as `read_rates` takes them."""
    from genai_prices.units import _get_registry  # pyright: ignore[reportPrivateUsage]

    units = {unit.price_key: unit for unit in _get_registry().units.values()}
    return {
        shown_name(units[key]): f"{_shown_rate(rate, units[key]):f}"
        for key, rate in prices.items()
        if key in units
    }


def read_rates(given: Iterable[str]) -> dict[str, Decimal]:
    """Rates from `name=USD`, by genai-prices' names for prices. Raises `InvalidInput`."""
    keys, rates = _price_keys(), dict[str, Decimal]()
    for pair in given:
        name, _, amount = pair.partition("=")
        key = keys.get(name.strip())
        if key is None:
            close = get_close_matches(name, keys, n=1)
            raise InvalidInput(
                f"{shown(name)} is not a class that has a price",
                f"do you mean {close[0]}?" if close else "name one, as input_audio or web_search",
            )
        try:
            rate = Decimal(amount.strip())
        except InvalidOperation:
            rate = Decimal("NaN")
        if not rate.is_finite() or rate < 0:
            raise InvalidInput(
                f"the rate of {name} is {shown(amount)}", "give US dollars, as input_audio=10"
            )
        rates[key] = rate * 1_000 if key.endswith("_kcount") else rate
    return rates


@cache
def _price_keys() -> dict[str, str]:
    """The names of prices by the names that are shown."""
    from genai_prices.units import _get_registry  # pyright: ignore[reportPrivateUsage]

    return {shown_name(unit): unit.price_key for unit in _get_registry().units.values()}


def _shown_rate(rate: Decimal, unit: "UnitDef") -> Decimal:
    return rate / unit.per if unit.price_key.endswith("_kcount") else rate


def _holds(wide: "UnitDef", narrow: "UnitDef") -> bool:
    return wide.dimensions.items() <= narrow.dimensions.items()


def _reached(price: "Decimal | TieredPrices", read: int | Decimal) -> Decimal:
    """The rate of the highest tier that the input reaches; it prices the whole call."""
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if read > tier.start]
    return reached[-1] if reached else price.base


def _thresholds(price: "Decimal | TieredPrices", input_tokens: int) -> Iterable[int]:
    if isinstance(price, Decimal):
        return (0,)
    return {0} | {tier.start + 1 for tier in price.tiers if tier.start < input_tokens}
