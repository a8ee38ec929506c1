"""Usage of every class, as a prompt scripts it: what the stub provider charges for and reports.

A first prompt that contains `((…))` names in there, by genai-prices' names, what its requests use
besides their text; `model=` names another model as the one that answered, and `service_tier=`,
`speed=` and `inference_geo=` the terms:

    ((input_audio_tokens=30 web_searches=2 service_tier=flex model=gpt-5-nano))

Within the stub an answer is a chat completion, whose keys that Chat Completions does not have are
taken away or put elsewhere by the faces: `runs` of the provider's own tools, and `terms`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from worker.demo.provider.completions import Body, text_of

TERMS = ("service_tier", "speed", "inference_geo")
RUNS = ("web_searches", "storage_searches", "code_executions")
OF_INPUT = {
    "cached_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "audio_tokens": "input_audio_tokens",
    "image_tokens": "input_image_tokens",
    "video_tokens": "input_video_tokens",
}
OF_CACHE = {
    "audio_tokens": "cache_audio_read_tokens",
    "image_tokens": "cache_image_read_tokens",
    "video_tokens": "cache_video_read_tokens",
}
OF_OUTPUT = {
    "reasoning_tokens": "output_reasoning_tokens",
    "audio_tokens": "output_audio_tokens",
    "image_tokens": "output_image_tokens",
    "video_tokens": "output_video_tokens",
}


def scripted(chat: Body) -> tuple[dict[str, int], dict[str, str]]:
    """The counts, and the words, that the prompt of this chat scripts."""
    told = "\n".join(text_of(m) for m in chat.get("messages", []) if m["role"] == "user")
    found = re.search(r"\(\((\w+=.*?)\)\)", told)
    pairs = [pair.split("=", 1) for pair in found[1].split()] if found else []
    counts = {name: int(value) for name, value in pairs if value.isdigit()}
    return counts, {name: value for name, value in pairs if not value.isdigit()}


def used(body: Body, chat: Body, shared: Mapping[str, int]) -> Body:
    """The completion with the usage that is scripted or shared with each request."""
    counts, words = scripted(chat)
    counts = {**shared, **counts}
    if words:
        body["model"] = words.get("model", body["model"])
        body["terms"] = {name: words[name] for name in TERMS if name in words}
    if counts:
        body["runs"] = {name: counts[name] for name in RUNS if name in counts}
        most = chat.get("max_completion_tokens") or chat.get("max_tokens")
        body["usage"] = _usage(body["usage"], counts, most)
    return body


def _usage(usage: Body, counts: Mapping[str, int], most: int | None) -> Body:
    def of(*names: str) -> int:
        return sum(counts.get(name, 0) for name in names)

    read = usage["prompt_tokens"] + of(
        *("cache_read_tokens", "cache_write_tokens", "input_audio_tokens"),
        *("input_image_tokens", "input_video_tokens"),
    )
    # These are parts of both the cached tokens and those of their kind.
    read -= of(*OF_CACHE.values())
    scripted_output = of(*OF_OUTPUT.values())
    written = usage["completion_tokens"] + scripted_output
    if most is not None:
        # The text is shorter then: what else the model makes counts towards the most, too.
        written = min(written, max(most, scripted_output))
    of_input = {key: counts[name] for key, name in OF_INPUT.items() if name in counts}
    of_cache = {key: counts[name] for key, name in OF_CACHE.items() if name in counts}
    of_output = {key: counts[name] for key, name in OF_OUTPUT.items() if name in counts}
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": of_input
        | ({"cached_tokens_details": of_cache} if of_cache else {}),
        "completion_tokens_details": of_output,
    }


def charged(body: Body) -> dict[str, Any]:
    """What the bill says of a completion: the fields of a `Charge`, but for who asked."""
    usage: Body = body["usage"]
    of_input: Body = usage.get("prompt_tokens_details", {})
    of_output: Body = usage.get("completion_tokens_details", {})
    of_cache: Body = of_input.get("cached_tokens_details", {})
    others = {
        **{OF_INPUT[key]: count for key, count in of_input.items() if key in OF_INPUT},
        **{OF_CACHE[key]: count for key, count in of_cache.items()},
        **{OF_OUTPUT[key]: count for key, count in of_output.items()},
        **body.get("runs", {}),
    }
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "cached_tokens": others.pop("cache_read_tokens", 0),
        "written_tokens": others.pop("cache_write_tokens", 0),
        "thought_tokens": others.pop("output_reasoning_tokens", 0),
        "others": {name: count for name, count in others.items() if count},
        "answered_model": body["model"],
        "tier": " ".join(body.get("terms", {}).values()) or None,
    }


def chat_completion(body: Body) -> Body:
    """The completion as Chat Completions sends it."""
    answer = {key: value for key, value in body.items() if key not in ("runs", "terms")}
    return answer | {
        key: value for key, value in body.get("terms", {}).items() if key == "service_tier"
    }
