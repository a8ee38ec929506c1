"""`job.agent`: agents run inside jobs, durable and metered, against a provider over real HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext

from db.money.calls import CallStatus, UsageSource
from jobsworth import Job, handler
from tests.providers.openai_stub import OpenAIStub
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of, model_at, steps_of


async def test_an_agents_request_is_a_call_in_the_books_and_a_step(
    api: JobApi, provider: OpenAIStub
) -> None:
    agent = Agent(model_at(provider), instructions="Be brief.")

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, "hello")

    job = await api.run("work")
    assert job.result == "You said: hello"
    [call] = await calls_of(api, job.id)
    [charge] = provider.bill
    assert (call.status, call.step_name) == (CallStatus.OK, "draft/request 1")
    assert (call.provider, call.model) == ("openai", "chat-1")
    assert (call.request_id, call.usage_source) == (charge.request_id, UsageSource.PROVIDER)
    assert (call.input_tokens, call.output_tokens) == (charge.input_tokens, charge.output_tokens)
    assert await steps_of(api, job.id) == ["draft/request 1"]
    [request] = provider.requests
    assert request.body["max_completion_tokens"] == 4096
    assert call.estimated_output_tokens == 4096
    assert call.estimated_input_tokens > len(str(request.body).encode())


async def test_a_replay_reads_answers_and_results_of_tools_and_sends_nothing(
    api: JobApi, provider: OpenAIStub
) -> None:
    looked_up: list[str] = []
    agent = Agent(model_at(provider))

    @agent.tool_plain
    def search(query: str) -> dict[str, Any]:
        looked_up.append(query)  # the two in any order, each in a thread of its own
        return {"hits": [query]}

    @handler("work")
    async def work(job: Job) -> str:
        prompt = '[[call search {"query": "x"} + call search {"query": "y"} ;; say got {results}]]'
        answer = await job.agent("look", agent, prompt)
        if job.attempt < 3:
            raise ConnectionError("after the answer")
        return answer

    job = await api.run("work")
    assert job.result == 'got {"hits":["x"]}, {"hits":["y"]}'
    assert (job.failures, sorted(looked_up)) == (2, ["x", "y"])
    assert len(provider.bill) == len(await calls_of(api, job.id)) == 2
    assert await steps_of(api, job.id) == [
        "look/request 1",
        "look/request 1/tool search 1",
        "look/request 1/tool search 2",
        "look/request 2",
    ]


class Weather(BaseModel):
    city: str
    degrees: int


@dataclass
class Station:
    degrees: int


async def test_agents_with_dependencies_and_typed_outputs_are_run_unchanged(
    api: JobApi, provider: OpenAIStub
) -> None:
    agent = Agent(model_at(provider), deps_type=Station, output_type=Weather)

    @agent.tool
    def measure(ctx: RunContext[Station]) -> int:
        return ctx.deps.degrees

    @handler("work")
    async def work(job: Job) -> list[Any]:
        prompt = '[[call measure {} ;; call final_result {"city": "Bern", "degrees": 21}]]'
        weather = await job.agent("ask", agent, prompt, deps=Station(21))
        word = await job.agent("again", agent, "hi", deps=Station(0), output_type=str)
        return [weather.city, weather.degrees + 1, word]

    assert (await api.run("work")).result == ["Bern", 22, "You said: hi"]


async def test_what_a_tool_tells_the_model_by_raising_is_recorded_too(
    api: JobApi, provider: OpenAIStub
) -> None:
    asked: list[int] = []
    agent = Agent(model_at(provider))

    @agent.tool_plain(retries=3)
    def dice(sides: int) -> int:
        asked.append(sides)
        if sides < 6:
            raise ModelRetry("take a real die")
        return sides

    @handler("work")
    async def work(job: Job) -> str:
        prompt = (
            '[[call dice {"sides": 2} ;; call dice {"sides": "many"} ;; call dice {"sides": 6} ;; '
            "say {results}]]"
        )
        answer = await job.agent("roll", agent, prompt)
        if job.attempt == 1:
            raise ConnectionError("after the answer")
        return answer

    job = await api.run("work")
    assert (job.result, asked) == ("6", [2, 6])
    assert len(provider.bill) == 4


async def test_two_agents_of_one_name_at_once_are_not_both_paid(
    api: JobApi, provider: OpenAIStub
) -> None:
    agent = Agent(model_at(provider))

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(job.agent, "look", agent, "[[say x]]")

    job = await api.run("work")
    assert "look" in (job.error or "")
    assert len(provider.bill) <= 1
