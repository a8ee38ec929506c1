"""What a seed makes of a run of agents: its jobs, and what the models will answer them.

In: a seed. Out: the nodes of a run, as `start_run` takes them. The same seed draws the same run.
"""

from __future__ import annotations

import json
import random
from typing import Any

MODELS = {"steady-1": 5, "hourly-1": 3, "limited-1": 2}
TOOLS = {"look": 4, "note": 3, "charge": 3, "ship": 1}
TURNS = (0, 1, 1, 2, 3)
TOOLS_A_TURN = (1, 1, 1, 2, 3)
# What the provider says besides the tokens of the text (`tests.providers.usage_script`).
USED = {
    "": 6,
    "((input_image_tokens=9 cache_write_tokens=7))": 1,
    "((output_image_tokens=3 output_reasoning_tokens=2))": 1,
    "((service_tier=flex))": 1,
    "((service_tier=scale))": 1,
    "((model=other-2))": 1,
}
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


def rush_of(model: str) -> list[Node]:
    """One agent with one question, of which many are asked at the same moment."""
    payload = {"prompt": "[[say me first]]", "model": model, "streamed": False}
    return [{"node": "only", "mode": "books.agent", "payload": payload}]


def _node(
    draw: random.Random, seed: int, node: str, mode: str, *, turns: int | None = None
) -> Node:
    turns = draw.choice(TURNS) if turns is None else turns
    [model] = draw.choices(list(MODELS), list(MODELS.values()))
    script = [_turn(draw, n * 10) for n in range(turns)]
    last = "say {results} of" if turns else "say nothing done of"
    [used] = draw.choices(list(USED), list(USED.values()))
    prompt = f"seed {seed} {node} {used} [[{' ;; '.join([*script, f'{last} {seed}'])}]]"
    payload = {"prompt": prompt, "model": model, "streamed": draw.random() < 0.5}
    return {"node": node, "mode": mode, "payload": payload}


def _turn(draw: random.Random, first: int) -> str:
    """Tool calls of one answer. The numbers tell apart what the diary says of them."""
    tools = draw.choices(list(TOOLS), list(TOOLS.values()), k=draw.choice(TOOLS_A_TURN))
    return " + ".join(f"call {tool} {json.dumps({'n': first + n})}" for n, tool in enumerate(tools))
