"""What the provider of the tests charges: each token once, at the rate of its narrowest class.

In: a charge of the bill. Out: its cost by hand, or None where the list has no price for the model
that answered, for its tier, or for a class that was used. Nothing of the product is used here.

Rates of what a prompt cannot announce (recordings, images, searches) are below those of text, so
that an estimate of the text is the most that a call can cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import LiteralString

import psycopg
from psycopg.types.json import Jsonb

from tests.providers.openai_stub import Charge

# US dollars for a million tokens, or for a thousand uses, by the names of genai-prices.
Rates = Mapping[str, Decimal]

PER_TOKENS = 1_000_000
PER_USES = 1_000
STANDARD: Rates = {
    "input_tokens": Decimal(2),
    "output_tokens": Decimal(8),
    "cache_read_tokens": Decimal(1),
    "cache_write_tokens": Decimal("2.5"),
    "cache_write_1h_tokens": Decimal(4),
    "cache_audio_read_tokens": Decimal("0.3"),
    "cache_image_read_tokens": Decimal("0.7"),
    "cache_video_read_tokens": Decimal("0.9"),
    "input_audio_tokens": Decimal("1.7"),
    "input_image_tokens": Decimal("1.5"),
    "input_video_tokens": Decimal("1.3"),
    "output_reasoning_tokens": Decimal(9),
    "output_audio_tokens": Decimal(5),
    "output_image_tokens": Decimal(4),
    "output_video_tokens": Decimal(3),
    "web_searches": Decimal("0.01"),
    "storage_searches": Decimal("0.003"),
}
# Where a class has no rate of its own, its tokens cost as much as others of its direction.
FLEX: Rates = {
    "input_tokens": Decimal(1),
    "output_tokens": Decimal(4),
    "cache_read_tokens": Decimal("0.5"),
}
OTHER: Rates = {"input_tokens": Decimal("0.6"), "output_tokens": Decimal("2.2")}
ANSWERS_INSTEAD = "other-2"
# Names of the terms that the standard rates are for.
STANDARD_TERMS = ("default", "standard global")
# Models without a price: what they charge is unknown.
UNPRICED = ("nobodys-1",)
LIST: dict[tuple[str, str | None], Rates] = {
    ("*", None): STANDARD,
    ("*", "flex"): FLEX,
    (ANSWERS_INSTEAD, None): OTHER,
}

PRICE: LiteralString = """
insert into jobsworth.prices (provider, model, tier, input, output, cache_read, cache_write, others)
values (%(provider)s, %(model)s, %(tier)s, %(input)s, %(output)s, %(read)s, %(written)s, %(others)s)
"""


def set_prices(conn: psycopg.Connection[dict[str, object]], models: tuple[str, ...]) -> None:
    """Write the list down as own prices of both providers, for each of these models."""
    named = [
        (name, tier, rates)
        for (model, tier), rates in LIST.items()
        for name in (models if model == "*" else (model,))
    ]
    for provider in ("openai", "anthropic"):
        for name, tier, rates in named:
            others = dict(rates)
            row = {
                "provider": provider,
                "model": name,
                "tier": tier,
                "input": others.pop("input_tokens"),
                "output": others.pop("output_tokens"),
                "read": others.pop("cache_read_tokens", None),
                "written": others.pop("cache_write_tokens", None),
            }
            told = {_price_name(name): str(rate) for name, rate in others.items()}
            conn.execute(PRICE, {**row, "others": Jsonb(told)})


def cost(charge: Charge) -> Decimal | None:
    """What this charge comes to; None if a part of it has no price."""
    if charge.answered_model in UNPRICED:
        return None
    model = ANSWERS_INSTEAD if charge.answered_model == ANSWERS_INSTEAD else "*"
    rates = LIST.get((model, tier_of(charge)))
    if rates is None:
        return None
    total, others = Decimal(0), charge.others
    narrow = {
        "cache_read_tokens": charge.cached_tokens,
        "cache_write_tokens": charge.written_tokens,
        "output_reasoning_tokens": charge.thought_tokens,
        **{name: count for name, count in others.items() if name.endswith("_tokens")},
    }
    # What is cached of a kind is a part of both the cached tokens and those of the kind.
    for kind in ("audio", "image", "video"):
        both = narrow.get(f"cache_{kind}_read_tokens", 0)
        narrow["cache_read_tokens"] -= both
        narrow[f"input_{kind}_tokens"] = narrow.get(f"input_{kind}_tokens", 0) - both
    narrow["cache_write_tokens"] -= narrow.get("cache_write_1h_tokens", 0)
    plain = {"input_tokens": charge.input_tokens, "output_tokens": charge.output_tokens}
    for name, count in narrow.items():
        direction = "output_tokens" if name.startswith("output_") else "input_tokens"
        plain[direction] -= count
        if count and name not in rates and "audio" in name:
            return None
        total += count * rates.get(name, rates[direction])
    total += sum((count * rates[name] for name, count in plain.items()), Decimal(0))
    uses = Decimal(0)
    for name, count in others.items():
        if not name.endswith("_tokens"):
            if name not in rates:
                return None
            uses += count * rates[name]
    return total / PER_TOKENS + uses / PER_USES


def tier_of(charge: Charge) -> str | None:
    return None if charge.tier in STANDARD_TERMS else charge.tier


def parts_of(charge: Charge) -> set[str]:
    """The names of what a charge consists of besides plain tokens; its tier; who answered."""
    counts = {
        "cache_read_tokens": charge.cached_tokens,
        "cache_write_tokens": charge.written_tokens,
        "output_reasoning_tokens": charge.thought_tokens,
        **charge.others,
    }
    words = {tier_of(charge), charge.answered_model} - {None, charge.model}
    return {name for name, count in counts.items() if count} | {str(word) for word in words}


def _price_name(usage: str) -> str:
    name = usage.removesuffix("_tokens")
    return f"{name}_mtok" if name != usage else f"{usage}_kcount"
