"""What a call costs: as the package says, own prices before it, and never above its estimate."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.data_units import unit_data
from genai_prices.types import ModelPrice
from genai_prices.units import UnitRegistry
from hypothesis import given, settings
from hypothesis import strategies as st

from db.money import prices
from db.money.calls import Usage
from db.money.prices import OwnPrice
from db.pool import Connection
from tests.support import environment
from worker.money.pricing import Pricing, Terms, another_model

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
# Every model that is priced by token or request and that its own name finds again.
MODELS = [
    (provider.id, model.id)
    for provider in get_snapshot().providers
    for model in provider.models
    if provider.find_model(model.id.lower(), all_providers=get_snapshot().providers) is model
]
UNITS = UnitRegistry(unit_data).units
RATES = st.decimals(0, 1000, places=4)
TOKENS = st.integers(0, 2_000_000)


def own(**more: object) -> OwnPrice:
    values: dict[str, object] = {
        "id": uuid4(),
        "team_id": None,
        "provider": "acme",
        "model": "large",
        "input": Decimal(2),
        "output": Decimal(8),
        "cache_read": None,
        "cache_write": None,
        "valid_from": None,
        "note": None,
        "created_at": NOW,
    }
    return OwnPrice.model_validate(values | more)


@st.composite
def usages(draw: st.DrawFn, input_most: int = 2_000_000, output_most: int = 2_000_000) -> Usage:
    """Any usage within so many tokens."""
    read = draw(st.integers(0, input_most))
    cached = draw(st.integers(0, read))
    written = draw(st.integers(0, cached))
    output = draw(st.integers(0, output_most))
    thought = draw(st.integers(0, output))
    return Usage(read, output, cached - written, written, reasoning_tokens=thought)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(MODELS), usages(), st.integers(0, 1000), st.times())
def test_a_cost_is_what_genai_prices_says(
    named: tuple[str, str], usage: Usage, days: int, time: time
) -> None:
    provider, model = named
    at = datetime.combine(date(2024, 1, 1) + timedelta(days=days), time, UTC)
    priced = Pricing().price_of(provider, model, usage, at=at)
    if priced is None:
        return
    theirs = TheirUsage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )
    said = get_snapshot().calc(theirs, model, provider, None, at)
    assert priced.cost == said.total_price
    assert priced.version.startswith("genai-prices ")


FIELDS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "output_reasoning_tokens": "reasoning_tokens",
}
TIERED = [
    (provider.id, model.id, " ".join(sorted(variant.when.values())), variant.when)
    for provider in get_snapshot().providers
    for model in provider.models
    for variant in model.price_variants or ()
    if (provider.id, model.id) in MODELS
]
# What has more than the usual prices.
RICH = [
    named
    for named in MODELS
    if any(
        len(vars(model.get_prices(NOW)).keys()) > 4
        for _, model in [get_snapshot().find_provider_model(named[1], None, named[0], None)]
    )
]


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(st.sampled_from(TIERED), st.sampled_from(RICH), st.sampled_from(MODELS)), st.data()
)
def test_each_class_in_each_tier_costs_what_genai_prices_says(
    named: Any, data: st.DataObject
) -> None:
    """Of every class that has a price, some is used by itself, besides what its parts used."""
    provider, model, *terms = named
    tier, context = terms or (None, None)
    at = datetime(2026, 11, 30, tzinfo=UTC)
    owner, info = get_snapshot().find_provider_model(model, None, provider, None)
    priced = info.get_prices(at, context)
    units = [
        unit
        for unit in UNITS.values()
        if unit.usage_key != "requests" and getattr(priced, unit.price_key) is not None
    ]
    alone = {unit.usage_key: data.draw(st.integers(0, 300_000)) for unit in units}
    used = {
        unit.usage_key: sum(
            alone[part.usage_key]
            for part in units
            if unit.dimensions.items() <= part.dimensions.items()
        )
        for unit in units
    }
    said = info.calc_price(
        TheirUsage(**used), owner, genai_request_timestamp=at, price_context=context
    )
    fields: dict[str, Any] = {field: used.get(name, 0) for name, field in FIELDS.items()}
    others = {name: count for name, count in used.items() if name not in FIELDS}
    usage = Usage(**fields, others=others, tier=tier)
    ours = Pricing().price_of(provider, model, usage, at=at)
    if not units:
        assert ours is None or ours.cost == said.total_price
        return
    assert ours is not None, used
    assert ours.cost == said.total_price


def test_a_class_that_is_told_to_be_unused_is_in_no_doubt() -> None:
    """Some input was cached and some was audio: cached audio has a rate of its own."""
    told = {"input_audio_tokens": 1, "cache_audio_read_tokens": 0}
    for others, is_priced in ((told, True), ({"input_audio_tokens": 1}, False)):
        usage = Usage(input_tokens=2, output_tokens=0, cache_read_tokens=1, others=others)
        priced = Pricing().price_of("google", "gemini-2.0-flash", usage, at=NOW)
        assert (priced is not None) is is_priced, others


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODELS), st.sampled_from(sorted(UNITS)), st.integers(1, 9))
def test_a_class_without_a_price_is_never_free(
    named: tuple[str, str], name: str, count: int
) -> None:
    """Nor is a recording ever priced as text, but where the provider does so."""
    fields: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0}
    if name in FIELDS:
        fields[FIELDS[name]] = count
    usage = Usage(**fields, others=others_of(name, count))
    priced = Pricing().price_of(*named, usage)
    owner, info = get_snapshot().find_provider_model(named[1], None, named[0], None)
    prices_then = info.get_prices(datetime.now(UTC))
    covers = [
        unit
        for unit in UNITS.values()
        if getattr(prices_then, unit.price_key) is not None
        and unit.dimensions.items() <= UNITS[name].dimensions.items()
    ]
    if UNITS[name].dimensions.get("modality") == "audio" and owner.id != "google":
        covers = [unit for unit in covers if unit.dimensions.get("modality") == "audio"]
    if not covers:
        assert priced is None or info.id.endswith(":free")


def others_of(name: str, count: int) -> dict[str, int]:
    return {} if name in FIELDS else {name: count}


@pytest.mark.parametrize(
    ("model", "tier", "cost"),
    [
        ("gpt-5-mini", None, "0.25"),
        ("gpt-5-mini", "flex", "0.125"),
        ("gpt-5-mini", "priority", "0.45"),
        ("gpt-5-mini", "batch", "0.125"),
        ("gpt-5-mini", "scale", None),
        ("gpt-5-mini", "flex us", None),
        ("gpt-3.5-turbo", "flex", None),
    ],
)
def test_a_tier_without_a_price_of_its_own_is_unknown(
    model: str, tier: str | None, cost: str | None
) -> None:
    at = datetime(2026, 11, 30, tzinfo=UTC)
    priced = Pricing().price_of("openai", model, Usage(1_000_000, 0, tier=tier), at=at)
    assert (priced and priced.cost) == (cost and Decimal(cost))
    asked = Pricing().upper_cost("openai", model, 1_000_000, 0, terms=Terms(tier, frozenset()))
    if cost is None:
        assert asked is None
    else:
        assert asked is not None
        assert asked >= Decimal(cost)


def test_own_prices_are_those_of_one_tier_and_may_price_any_class() -> None:
    """Whoever has an own price for a model does not pay the package's in its tiers."""
    standard = own(provider="openai", model="gpt-5*", others={"input_audio_mtok": Decimal(30)})
    flex = own(provider="openai", model="gpt-5*", input=Decimal(1), tier="flex")
    heard = {"input_audio_tokens": 500_000}

    def cost(prices: list[OwnPrice], usage: Usage) -> Decimal | None:
        priced = Pricing(prices).price_of("openai", "gpt-5-mini", usage)
        return priced and priced.cost

    assert cost([standard], Usage(1_000_000, 0, others=heard)) == 16
    assert cost([standard], Usage(1_000_000, 0, tier="flex")) is None
    assert cost([standard, flex], Usage(1_000_000, 0, tier="flex")) == 1
    assert cost([standard, flex], Usage(1_000_000, 0, others=heard, tier="flex")) is None
    assert cost([flex], Usage(1_000_000, 0)) == Decimal("0.25")


@pytest.mark.parametrize(
    ("provider", "asked", "answered", "is_another"),
    [
        ("openai", "gpt-5-mini", "gpt-5-mini-2025-08-07", False),
        ("openai", "gpt-4", "gpt-4-0613", False),
        ("openai", "gpt-5-mini", "gpt-5-nano", True),
        ("openai", "gpt-5", "gpt-5-mini", True),
        ("openai", "gpt-5-mini", "", False),
        ("openai", "my-deployment", "gpt-5-mini", True),
        ("openai", "llama3", "llama3", False),
        ("openai", "llama3", "llama3:latest", False),
        ("openai", "llama3", "llama3:70b", True),
        ("openai", "gpt-5-mini", "openai/gpt-5-mini-2025-08-07", False),
        ("openai", "vendor/large", "large", False),
        ("openai", "", "large", True),
        ("anthropic", "claude-3-5-haiku-latest", "claude-3-5-haiku-20241022", False),
        ("anthropic", "claude-sonnet-5-5", "claude-opus-5", True),
        ("offline", "rules", "other", True),
    ],
)
def test_another_model_is_told_from_a_snapshot_of_the_same(
    provider: str, asked: str, answered: str, is_another: bool
) -> None:
    assert another_model(provider, asked, answered) == (answered if is_another else None)


def test_most_models_have_a_price_and_those_without_one_are_unknown() -> None:
    usage = Usage(1000, 100)
    unknown = [named for named in MODELS if Pricing().price_of(*named, usage) is None]
    assert len(MODELS) > 1000
    assert len(unknown) < len(MODELS) / 4
    for provider, model in unknown:
        _, info = get_snapshot().find_provider_model(model, None, provider, None)
        found = info.get_prices(datetime.now(UTC))
        assert isinstance(found, ModelPrice)
        assert None in (found.input_mtok, found.output_mtok), (provider, model)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(MODELS), TOKENS, TOKENS, st.data())
def test_no_usage_within_an_estimate_costs_more_than_the_estimate(
    named: tuple[str, str], input_tokens: int, output_tokens: int, data: st.DataObject
) -> None:
    pricing = Pricing()
    upper = pricing.upper_cost(*named, input_tokens, output_tokens)
    usage = data.draw(usages(input_tokens, output_tokens))
    priced = pricing.price_of(*named, usage)
    if upper is not None:
        assert priced is None or priced.cost <= upper
    else:
        assert pricing.price_of(*named, Usage(input_tokens, output_tokens)) is None


@settings(max_examples=200, deadline=None)
@given(RATES, RATES, st.none() | RATES, st.none() | RATES, TOKENS, TOKENS, st.data())
def test_nor_by_own_prices(
    input_rate: Decimal,
    output_rate: Decimal,
    cache_read: Decimal | None,
    cache_write: Decimal | None,
    input_tokens: int,
    output_tokens: int,
    data: st.DataObject,
) -> None:
    rates = {"input": input_rate, "output": output_rate}
    cached = {"cache_read": cache_read, "cache_write": cache_write}
    pricing = Pricing([own(**rates, **cached)])
    priced = pricing.price_of("acme", "large", data.draw(usages(input_tokens, output_tokens)))
    upper = pricing.upper_cost("acme", "large", input_tokens, output_tokens)
    assert priced is not None
    assert upper is not None
    assert priced.cost <= upper


def test_crossing_a_tier_is_reckoned_with() -> None:
    """The data has such a model; above the threshold every token costs more."""
    pricing, tiers = Pricing(), 0
    for named in MODELS:
        low, high = (pricing.upper_cost(*named, count, 0) for count in (1000, 1_000_000))
        if low is not None and high is not None and high > 1000 * low:
            tiers += 1
    assert tiers > 5


def test_an_unknown_model_or_provider_is_unknown_and_not_free() -> None:
    pricing = Pricing()
    for provider, model in (("acme", "large"), ("openai", "nonsense"), ("", "")):
        assert pricing.price_of(provider, model, Usage(1, 1)) is None
        assert pricing.upper_cost(provider, model, 1, 1) is None


def test_our_own_offline_model_costs_nothing() -> None:
    priced = Pricing().price_of("offline", "rules", Usage(1000, 1000))
    assert priced is not None
    assert (priced.cost, priced.version) == (0, "offline")
    assert Pricing().upper_cost("offline", "rules", 1000, 1000) == 0


def test_a_model_that_is_given_away_costs_nothing_and_one_without_prices_is_unknown() -> None:
    free = Pricing().price_of("openrouter", "deepseek-r1-0528:free", Usage(1, 1))
    assert free is not None
    assert free.cost == 0
    assert Pricing().price_of("google", "gemma-3", Usage(1, 1)) is None


def test_a_count_that_has_no_price_makes_the_cost_unknown() -> None:
    """Models that embed are priced by input alone."""
    name = ("openai", "text-embedding-3-small")
    assert Pricing().price_of(*name, Usage(1000, 0)) is not None
    assert Pricing().price_of(*name, Usage(1000, 1)) is None


def test_own_prices_go_first_and_are_named_in_the_version() -> None:
    price = own(provider="openai", model="gpt-4o*", cache_read=Decimal(1))
    priced = Pricing([price]).price_of("openai", "gpt-4o-mini", Usage(1_000_000, 500_000, 250_000))
    assert priced is not None
    assert priced.cost == Decimal("0.75") * 2 + Decimal("0.25") + 4
    assert priced.version == f"own {price.id}"
    assert priced.rates == {"input": "2", "output": "8", "cache_read": "1"}


def test_usage_that_tells_more_cached_than_read_is_charged_for_what_was_cached() -> None:
    priced = Pricing([own()]).price_of("acme", "large", Usage(10, 0, 1_000_000))
    assert priced is not None
    assert priced.cost == 2


async def test_own_prices_are_read_once_a_minute(conn: Connection) -> None:
    pricing = Pricing()
    assert not pricing.is_fresh()
    assert await pricing.refresh(conn)
    await prices.set_price(conn, "acme", "large", input=Decimal(1), output=Decimal(1))
    assert not await pricing.refresh(conn)
    assert pricing.price_of("acme", "large", Usage(1, 1)) is None
    assert await pricing.refresh(conn, at_most_every=0)
    assert pricing.price_of("acme", "large", Usage(1, 1)) is not None


@pytest.mark.parametrize("module", ["worker.money.pricing", "worker.daemon.daemon", "worker.cli"])
def test_the_data_is_loaded_when_it_is_first_used(module: str) -> None:
    script = f"import sys, {module}; print('genai_prices' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(None),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n", done.stderr
