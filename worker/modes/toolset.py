"""The tools of `execute`; none of them does more than the plan allows.

In: a model's tool calls. Out: their results. Invariant: tools run one at a time, in the order in
which the model calls them; `PlanExecution` decides whether a tool acts, not the model.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic_ai import RunContext, Tool

from worker.modes import conversation
from worker.modes.plan_execution import PlanExecution, Result
from worker.steps.declaration import StepEffect


async def read_thread(ctx: RunContext[PlanExecution]) -> list[dict[str, str]]:
    """Read the conversation that the plan came from, oldest message first."""
    turns = await conversation.read_thread(ctx.deps.job)
    return [{"role": role, "text": text} for role, text in turns]


async def search_memory(ctx: RunContext[PlanExecution], query: str) -> dict[str, Any]:
    """Search what is remembered from earlier conversations."""
    return _told(await ctx.deps.search(query))


async def note(ctx: RunContext[PlanExecution], text: str) -> dict[str, Any]:
    """Have a sentence of the plan remembered, word for word."""
    return _told(await ctx.deps.note(text))


async def save_artifact(ctx: RunContext[PlanExecution], name: str, content: str) -> dict[str, Any]:
    """Save a text file that the plan names."""
    return _told(await ctx.deps.save(name, content))


async def deploy(ctx: RunContext[PlanExecution], environment: str, sha: str) -> dict[str, Any]:
    """Deploy a commit to an environment, both exactly as the plan has them. May take long."""
    return _told(await ctx.deps.deploy(environment, sha))


_FUNCTIONS: tuple[Any, ...] = (read_thread, search_memory, note, save_artifact, deploy)
TOOLS = [Tool[PlanExecution](tool, takes_ctx=True, sequential=True) for tool in _FUNCTIONS]
# None: the tools run in every replay, and read the steps that `PlanExecution` recorded; so their
# artifacts and memories are effects of each attempt, and commit with the one that ends well.
EFFECTS: Mapping[str, StepEffect | None] = {
    "read_thread": "pure",
    "search_memory": None,
    "note": None,
    "save_artifact": None,
    "deploy": None,
}


def _told(result: Result) -> dict[str, Any]:
    return asdict(result) | {"found": list(result.found)}
