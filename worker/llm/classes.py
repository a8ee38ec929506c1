"""Classes of usage and tiers, as providers report them and their adapters drop them.

In: a provider's answer, or a message of its stream, as its SDK gives it; the settings of a request.
Out: counts by the names of genai-prices, and the name of a tier. Invariant: what a provider charges
for is counted, under a name without a price if genai-prices has none, so that its cost is unknown
and not zero.

Where it is reported: OpenAI's Chat Completions and Responses split `usage` by `…_tokens_details`
(developers.openai.com/api/docs/api-reference), name the tier in `service_tier`, and show the runs
of the provider's own tools in `output`; Anthropic's Messages have `service_tier`, `speed` and
`inference_geo` in `usage` (platform.claude.com/docs/en/api/messages), and count an advisor's tokens
apart, because another model's price holds for them.
"""

import re
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any, cast

from genai_prices.data_units import unit_data
from pydantic_ai.usage import RequestUsage

from db.money.calls import TOKENS_MAX

# Stands for usage that could not be read; it has no price.
UNREADABLE = "unreadable_usage"
# These have fields of their own in `Usage`.
_FIELDS = frozenset(
    {
        *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
        *("output_reasoning_tokens", "requests"),
    }
)
_MODALITIES = ("text", "audio", "image", "video")
# Runs of the provider's own tools that are charged by the run, and are told only by their items.
_ITEMS = {
    "file_search_call": "storage_searches",
    "code_interpreter_call": "code_executions",
    "image_generation_call": "image_generations",
}
# The names of standard terms. `auto` says that the provider does not tell.
_STANDARD = frozenset(
    {"", "auto", "default", "standard", "standard_only", "on_demand", "global", "not_available"}
)


def others_of(said: RequestUsage, told: Mapping[str, int]) -> dict[str, int]:
    """The counts of all classes without a field in `Usage`: the adapter's, and those in `told`."""
    found = {
        key: count
        for key, count in vars(said).items()
        if key in unit_data and key not in _FIELDS and isinstance(count, int | float) and count > 0
    }
    advised = sum(
        count for key, count in said.details.items() if re.fullmatch("advisor_.*_tokens", key)
    )
    if advised > 0:
        found["advisor_tokens"] = advised
    return {key: min(ceil(count), TOKENS_MAX) for key, count in {**found, **told}.items()}


def others_in(answer: object, usage: object) -> dict[str, int]:
    """The counts in an answer that adapters drop, by class."""
    dump = getattr(usage, "model_dump", None)
    told = _object(dump(exclude_none=True) if callable(dump) else None)
    read = _object(told.get("prompt_tokens_details") or told.get("input_tokens_details"))
    written = _object(told.get("completion_tokens_details") or told.get("output_tokens_details"))
    cached = _object(read.get("cached_tokens_details"))
    counts = {
        **{f"input_{kind}_tokens": read.get(f"{kind}_tokens") for kind in _MODALITIES},
        **{f"output_{kind}_tokens": written.get(f"{kind}_tokens") for kind in _MODALITIES},
        **{f"cache_{kind}_read_tokens": cached.get(f"{kind}_tokens") for kind in _MODALITIES},
        "cache_write_12h_tokens": _object(read.get("cache_write_tokens_details")).get(
            "ttl_12h_tokens"
        ),
    }
    for item in _items(answer):
        name = _ITEMS.get(str(getattr(item, "type", None)))
        if name is not None:
            counts[name] = (counts.get(name) or 0) + 1
    return {key: count for key, count in counts.items() if isinstance(count, int) and count > 0}


def terms_in(answer: object, usage: object) -> dict[str, object]:
    """The terms under which an answer was served, by the provider's names."""
    found = {
        "service_tier": getattr(answer, "service_tier", None)
        or getattr(usage, "service_tier", None),
        "speed": getattr(usage, "speed", None),
        "inference_geo": getattr(usage, "inference_geo", None),
    }
    return {key: value for key, value in found.items() if value is not None}


def tier_of(terms: Mapping[str, object]) -> str | None:
    """The name of these terms: `flex`, `fast us`; None for the standard ones."""
    words = [
        re.sub(r"[^A-Za-z0-9_.:/-]", "_", value.lower())[:40]
        for key in ("service_tier", "speed", "inference_geo")
        if isinstance(value := terms.get(key), str) and value.lower() not in _STANDARD
    ]
    return " ".join(words) or None


def asked_tier(system: str, settings: Mapping[str, Any]) -> str | None:
    """The tier that these settings ask for; None for the standard one."""
    if system == "anthropic":
        return tier_of({"speed": settings.get("anthropic_speed")})
    asked = settings.get("openai_service_tier") or settings.get("service_tier")
    return tier_of({"service_tier": asked})


def _object(value: object) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _items(answer: object) -> Iterable[object]:
    items: object = getattr(answer, "output", None)
    return cast(list[object], items) if isinstance(items, list) else ()
