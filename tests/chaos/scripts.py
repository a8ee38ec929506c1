"""What a seed makes of a run of agents: its jobs, and what the models will answer them.

In: a seed. Out: the nodes of a run, as `start_run` takes them. The same seed draws the same run.
"""

from __future__ import annotations

import json
import random
from typing import Any

from tests.chaos import price_list
from tests.providers import usage_script

MODELS = {"steady-1": 5, "hourly-1": 3, "limited-1": 2}
TOOLS = {"look": 4, "note": 3, "charge": 3, "ship": 1}
TURNS = (0, 1, 1, 2, 3)
TOOLS_A_TURN = (1, 1, 1, 2, 3)
# The protocol of an agent, and what its provider says besides the tokens of the text
# (`tests.providers.usage_script`): every class of usage and every kind of terms that it can tell.
_OPENAI = {
    "((cache_read_tokens=20 cache_write_tokens=7))": 1,
    "((input_audio_tokens=9 cache_read_tokens=12 cache_audio_read_tokens=4))": 1,
    "((input_image_tokens=9 cache_read_tokens=5 cache_image_read_tokens=5))": 1,
    "((input_video_tokens=6 cache_read_tokens=2 cache_video_read_tokens=1))": 1,
    "((output_image_tokens=3 output_reasoning_tokens=2))": 1,
    "((output_audio_tokens=4 output_video_tokens=1))": 1,
    "((service_tier=default))": 1,
    "((service_tier=flex cache_read_tokens=3))": 1,
    "((service_tier=scale))": 1,
    "((model=other-2))": 1,
    "((model=nobodys-1))": 1,
}
USED = {
    "chat": {"": 6, **_OPENAI},
    "responses": {"": 4, **_OPENAI}
    | {
        "((web_searches=2))": 1,
        "((storage_searches=1 web_searches=1))": 1,
        "((code_executions=1))": 1,
    },
    "anthropic": {
        "": 3,
        "((cache_read_tokens=20 cache_write_tokens=7))": 1,
        "((cache_write_tokens=11 cache_write_1h_tokens=6))": 1,
        "((output_reasoning_tokens=5))": 1,
        "((web_searches=2))": 1,
        "((service_tier=standard inference_geo=global))": 1,
        "((service_tier=flex cache_read_tokens=3))": 1,
        "((service_tier=priority inference_geo=us))": 1,
        "((model=other-2))": 1,
        "((model=nobodys-1))": 1,
    },
}
FACES = {"chat": 4, "responses": 3, "anthropic": 3}
FRUGAL_SHARE = 0.07
FAN_SHARE = 0.12

Node = dict[str, Any]


def nodes_of(seed: int) -> list[Node]:
    """One agent; or two side by side, and one that comes after both."""
    draw = random.Random(seed)
    if draw.random() >= FAN_SHARE:
        mode = "books.frugal" if draw.random() < FRUGAL_SHARE else "books.agent"
        return [_node(draw, seed, "only", mode)]
    after = [{"node": node, "on_failure": "run"} for node in ("left", "right")]
    return [
        _node(draw, seed, "left", "books.agent", turns=1),
        _node(draw, seed, "right", "books.agent", turns=1),
        _node(draw, seed, "joined", "books.join", turns=0) | {"after": after},
    ]


def parts_scripted(used: str) -> set[str]:
    """What a charge consists of, by a script of `USED`: see `price_list.parts_of`."""
    counts, words = usage_script.scripted({"messages": [{"role": "user", "content": used}]})
    terms = [words[name] for name in usage_script.TERMS if name in words]
    said = {" ".join(terms), words.get("model", "")} - {"", *price_list.STANDARD_TERMS}
    return counts.keys() | said


def rush_of(model: str) -> list[Node]:
    """One agent with one question, of which many are asked at the same moment."""
    payload = {"prompt": "[[say me first]]", "model": model}
    return [{"node": "only", "mode": "books.agent", "payload": payload}]


def _node(
    draw: random.Random, seed: int, node: str, mode: str, *, turns: int | None = None
) -> Node:
    turns = draw.choice(TURNS) if turns is None else turns
    [model] = draw.choices(list(MODELS), list(MODELS.values()))
    script = [_turn(draw, n * 10) for n in range(turns)]
    last = "say {results} of" if turns else "say nothing done of"
    [face] = draw.choices(list(FACES), list(FACES.values()))
    [used] = draw.choices(list(USED[face]), list(USED[face].values()))
    prompt = f"seed {seed} {node} {used} [[{' ;; '.join([*script, f'{last} {seed}'])}]]"
    payload = {"prompt": prompt, "model": model, "streamed": draw.random() < 0.5, "face": face}
    return {"node": node, "mode": mode, "payload": payload}


def _turn(draw: random.Random, first: int) -> str:
    """Tool calls of one answer. The numbers tell apart what the diary says of them."""
    tools = draw.choices(list(TOOLS), list(TOOLS.values()), k=draw.choice(TOOLS_A_TURN))
    return " + ".join(f"call {tool} {json.dumps({'n': first + n})}" for n, tool in enumerate(tools))
