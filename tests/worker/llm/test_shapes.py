"""Agents in the shapes that pydantic-ai lets people give them: each is durable and in the books."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    FunctionToolset,
    ModelRetry,
    NativeOutput,
    PromptedOutput,
    RunContext,
    TextOutput,
    ToolOutput,
    UsageLimits,
)
from pydantic_ai.messages import ModelRequest

from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.openai_stub import OpenAIStub
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of, model_at


class City(BaseModel):
    name: str


class River(BaseModel):
    length: int


def louder(text: str) -> str:
    return text.upper()


def city_of(name: str) -> City:
    """Make a city."""
    return City(name=name.upper())


BERN = '{"name": "Bern"}'
PLUS = FunctionToolset[Any]()


@PLUS.tool_plain
def plus(n: int) -> int:
    return n + 1


def picky(model: Any) -> Agent[None, str]:
    agent = Agent(model)

    @agent.output_validator
    def is_good(output: str) -> str:
        if output != "good":
            raise ModelRetry("say good")
        return output

    return agent


def instructed(model: Any) -> Agent[int, str]:
    agent = Agent(model, deps_type=int)

    @agent.instructions
    def about(ctx: RunContext[int]) -> str:
        return f"The number is {ctx.deps}."

    @agent.system_prompt
    def who() -> str:
        return "You are a clerk."

    return agent


class Shape(NamedTuple):
    """`output` is what comes of it, as text, in so many `requests`; `options` are job.agent's."""

    name: str
    agent: Agent[Any, Any]
    prompt: str | None
    output: str = "x"
    requests: int = 1
    options: Mapping[str, Any] = MappingProxyType({})


def shapes(model: Any) -> Iterator[Shape]:
    of: Any = Agent
    city, said, called = str(City(name="Bern")), f"[[say {BERN}]]", f"[[call final_result {BERN}]]"
    yield Shape("native", of(model, output_type=NativeOutput(City)), said, city)
    yield Shape("prompted", of(model, output_type=PromptedOutput(City)), said, city)
    named = of(model, output_type=ToolOutput(City, name="city"))
    yield Shape("tool", named, f"[[call city {BERN}]]", city)
    river = '[[call final_result_River {"length": 3}]]'
    yield Shape("union", of(model, output_type=[City, River]), river, "length=3")
    yield Shape("function", of(model, output_type=city_of), called, "name='BERN'")
    yield Shape("text function", of(model, output_type=TextOutput(louder)), "[[say hi]]", "HI")
    yield Shape("validator", picky(model), "[[say bad ;; say good]]", "good", 2)
    yield Shape("dynamic", instructed(model), "[[say x]]", options={"deps": 3})
    plus_one = '[[call plus {"n": 1} ;; say {results}]]'
    yield Shape("toolset", of(model, toolsets=[PLUS]), plus_one, "2", 2)
    yield Shape("toolset of a call", of(model), plus_one, "2", 2, {"toolsets": [PLUS]})
    yield Shape("model by name", of("openai-chat:gpt-5-mini"), "[[say x]]")
    by_name = {"model": "openai:gpt-5-mini"}
    yield Shape("model of a call", of(), "[[say x]]", options=by_name)
    yield Shape("deferring", of(model, output_type=[str, DeferredToolRequests]), "[[say x]]")
    warm = {"model_settings": {"temperature": 0.1}}
    short = of(model, model_settings={"max_tokens": 11})
    yield Shape("settings", short, "[[say x]]", options=warm)
    earlier = {"message_history": [ModelRequest.user_text_prompt("[[say earlier]]")]}
    yield Shape("history alone", of(model), None, "earlier", options=earlier)


async def test_agents_of_each_shape_come_back_the_same_from_a_replay_and_are_paid_once(
    api: JobApi, provider: OpenAIStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    kept = {shape.name: shape for shape in shapes(model_at(provider))}

    @handler("work")
    async def work(job: Job, name: str) -> str:
        shape = kept[name]
        prompt: Any = shape.prompt
        output = await job.agent("draft", shape.agent, prompt, **shape.options)
        if job.attempt == 1:
            raise ConnectionError("after the answer")
        return str(output)

    jobs = {name: await api.enqueue("work", {"name": name}) for name in kept}
    await api.work()
    for name, job_id in jobs.items():
        job = await api.job(job_id)
        assert (name, job.attempt, job.result) == (name, 2, kept[name].output), job.error
        assert len(await calls_of(api, job_id)) == kept[name].requests, name
    billed = sorted(charge.request_id or "" for charge in provider.bill)
    booked = [call.request_id for job_id in jobs.values() for call in await calls_of(api, job_id)]
    assert sorted(booked) == billed


async def test_an_agents_limit_of_usage_ends_the_job_with_a_line_that_says_so(
    api: JobApi, provider: OpenAIStub
) -> None:
    agent = Agent(model_at(provider), toolsets=[PLUS])
    limits = UsageLimits(request_limit=1)

    @handler("work")
    async def work(job: Job) -> str:
        prompt = '[[call plus {"n": 1} ;; say {results}]]'
        return await job.agent("draft", agent, prompt, usage_limits=limits)

    job = await api.run("work")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert "agent 'draft' gave up: UsageLimitExceeded" in (job.error or "")
    assert len(provider.bill) == 1
