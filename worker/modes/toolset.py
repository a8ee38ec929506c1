"""What `execute` lets a model do: a small set of tools, none of which does more than the plan.

In: a model's tool calls. Out: what became of them. Invariant: one at a time, in the order in which
the model calls them; whether a tool does anything is decided by `Carrying`, not by the model.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic_ai import RunContext, Tool

from worker.modes import conversation
from worker.modes.carrying import Carrying, Result
from worker.steps.steps import Effect


async def read_thread(ctx: RunContext[Carrying]) -> list[dict[str, str]]:
    """Read the conversation that the plan came from, oldest message first."""
    turns = await conversation.read_thread(ctx.deps.job)
    return [{"role": role, "text": text} for role, text in turns]


async def search_memory(ctx: RunContext[Carrying], query: str) -> dict[str, Any]:
    """Search what is remembered from earlier conversations."""
    return _told(await ctx.deps.search(query))


async def note(ctx: RunContext[Carrying], text: str) -> dict[str, Any]:
    """Have a sentence of the plan remembered, word for word."""
    return _told(await ctx.deps.note(text))


async def save_artifact(ctx: RunContext[Carrying], name: str, content: str) -> dict[str, Any]:
    """Save a text file that the plan names."""
    return _told(await ctx.deps.save(name, content))


async def deploy(ctx: RunContext[Carrying], environment: str, sha: str) -> dict[str, Any]:
    """Deploy a commit to an environment, both exactly as the plan has them. May take long."""
    return _told(await ctx.deps.deploy(environment, sha))


_FUNCTIONS: tuple[Any, ...] = (read_thread, search_memory, note, save_artifact, deploy)
TOOLS = [Tool[Carrying](tool, takes_ctx=True, sequential=True) for tool in _FUNCTIONS]
# Run again in a replay, where they read the steps that they recorded under the plan's numbers: so
# an artifact or a memory is there however often the job was run.
EFFECTS: Mapping[str, Effect | None] = {
    "read_thread": "pure",
    "search_memory": None,
    "note": None,
    "save_artifact": None,
    "deploy": None,
}


def _told(result: Result) -> dict[str, Any]:
    return asdict(result) | {"found": list(result.found)}
