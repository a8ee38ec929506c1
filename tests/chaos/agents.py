"""Agents for daemons that die, against a provider that keeps its own bill.

`JOBSWORTH_CHAOS_PROVIDER` is its address, `JOBSWORTH_CHAOS_DIR` the folder of the diary, into which
the tools write what they really did.
"""

import os
from collections.abc import AsyncIterable
from functools import cache
from pathlib import Path
from typing import Any

import anyio
from anthropic import AsyncAnthropic
from pydantic_ai import Agent, RunContext
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from jobsworth import Job, handler
from tests.chaos import diary

MAX_TOKENS = 100
KEY = "sk-test"
TRIES = 1000
CHARGE_SECONDS = 0.3


@handler("books.agent", failures_max=TRIES)
async def agent(job: Job, prompt: str, **asked: Any) -> str:
    """What the prompt scripts: tools of every kind, and a last word. `asked` is as in `_run`."""
    return await _run(job, prompt, **asked)


@handler("books.frugal", failures_max=TRIES)
async def frugal(job: Job, prompt: str, **asked: Any) -> str:
    """The same in a mode whose budget fails what does not fit."""
    return await _run(job, prompt, **asked)


@handler("books.join", failures_max=TRIES)
async def join(job: Job, prompt: str, **asked: Any) -> str:
    """Where the branches of a run come together, with what they came to."""
    parents = await job.parents()
    # How a parent ended does not change any more, so every attempt asks the same.
    told = ", ".join(f"{node}: {parents[node]}" for node in sorted(parents))
    return await _run(job, f"{told} {prompt}", **asked)


async def _run(
    job: Job, prompt: str, model: str, streamed: bool = False, face: str = "chat", key: str = KEY
) -> str:
    """`face`: the protocol, `chat`, `responses` or `anthropic`."""

    async def listen(ctx: RunContext[Job], events: AsyncIterable[Any]) -> None:
        async for _ in events:
            pass

    return await job.agent(
        "think",
        _agent(face, model, key),
        prompt,
        deps=job,
        event_stream_handler=listen if streamed else None,
        effects={"look": "pure", "charge": "unsafe"},
    )


@cache
def _agent(face: str, model: str, key: str) -> Agent[Job, str]:
    agent = Agent(
        _model(face, model, key),
        deps_type=Job,
        retries=TRIES,
        model_settings=ModelSettings(max_tokens=MAX_TOKENS),
    )

    @agent.tool
    async def look(ctx: RunContext[Job], n: int) -> str:
        return _done(ctx.deps, "look", n)

    @agent.tool
    def note(ctx: RunContext[Job], n: int) -> str:
        return _done(ctx.deps, "note", n)

    @agent.tool
    async def charge(ctx: RunContext[Job], n: int) -> str:
        done = _done(ctx.deps, "charge", n)
        # Nobody knows of it yet.
        await anyio.sleep(CHARGE_SECONDS)
        return done

    @agent.tool(requires_approval=True)
    async def ship(ctx: RunContext[Job], n: int) -> str:
        return _done(ctx.deps, "ship", n)

    return agent


def _done(job: Job, tool: str, n: int) -> str:
    """Something that every tool call has done once it is in the diary."""
    diary.write(
        Path(os.environ["JOBSWORTH_CHAOS_DIR"]) / "diary", tool, job.id, job.attempt, str(n)
    )
    return f"{tool} {n} done"


@cache
def _model(face: str, model: str, key: str) -> Model:
    url = os.environ["JOBSWORTH_CHAOS_PROVIDER"]
    if face == "anthropic":
        client = AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key=key)
        return AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client))
    kind = OpenAIChatModel if face == "chat" else OpenAIResponsesModel
    return kind(model, provider=OpenAIProvider(base_url=url, api_key=key))
