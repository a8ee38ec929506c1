"""What becomes of a request that is not answered well: in the books, and for the job."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from db.money.calls import CallStatus, UsageSource
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.openai_stub import (
    CUT,
    DUPLICATE_TOOL_IDS,
    EXCESSIVE_USAGE,
    MALFORMED,
    MALFORMED_TOOL_JSON,
    SERVER_ERROR,
    Fault,
    OpenAIStub,
    slow,
    too_many,
)
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of, model_at
from worker.masking import MASK

PROMPT = "a prompt that nobody else may read"


def working(provider: OpenAIStub, prompt: str = PROMPT, **options: Any) -> Agent[None, str]:
    """An agent, and the handler "work" that runs it."""
    agent = Agent(model_at(provider))

    @handler("work", failures_max=3)
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, prompt, **options)

    return agent


async def test_a_rate_limit_that_names_no_time_is_waited_for_all_the_same(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.script(too_many())
    working(provider)
    job = await api.run("work")
    assert (job.status, job.waiting_for, job.failures) == (JobStatus.WAITING, "limit", 0)


@pytest.mark.parametrize("fault", [SERVER_ERROR, CUT, MALFORMED], ids=["500", "cut", "garbage"])
async def test_what_may_have_been_billed_is_held_at_the_estimate_and_tried_again(
    api: JobApi, provider: OpenAIStub, fault: Fault
) -> None:
    provider.script(fault)
    working(provider)
    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.DONE, 1)
    unknown, answered = await calls_of(api, job.id)
    assert (unknown.status, unknown.usage_source) == (CallStatus.UNKNOWN, UsageSource.ESTIMATED)
    assert unknown.input_tokens == unknown.estimated_input_tokens
    assert unknown.output_tokens == 4096
    assert answered.status is CallStatus.OK
    # The SDK did not send it again by itself, and each try has an id of its own.
    assert len(provider.requests) == 2
    assert unknown.request_id != answered.request_id


@pytest.mark.parametrize("setting", ["timeout", "request_timeout"])
async def test_an_answer_that_comes_too_late_is_held_at_the_estimate(
    api: JobApi, provider: OpenAIStub, setting: str
) -> None:
    provider.script(slow(30))
    working(provider, model_settings={setting: 0.3})
    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.DONE, 1)
    unknown, _ = await calls_of(api, job.id)
    assert unknown.status is CallStatus.UNKNOWN
    assert len(provider.bill) == 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
async def test_a_refused_request_fails_the_job_at_once_with_what_the_provider_says(
    api: JobApi, provider: OpenAIStub, status: int
) -> None:
    provider.always(Fault(status, message=f"no: {PROMPT}, key sk-abcdef0123456789"))
    working(provider)
    job = await api.run("work")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    [call] = await calls_of(api, job.id)
    assert (call.status, call.input_tokens, call.output_tokens) == (CallStatus.ERROR, 0, 0)
    for said in (job.error or "", call.error or ""):
        assert f"answered {status}: no: [prompt], key {MASK}" in said
        assert PROMPT not in said
        assert "sk-abcdef" not in said
    assert "retry the job" in (job.error or "")


async def test_a_request_that_was_provably_not_sent_costs_nothing(
    api: JobApi, provider: OpenAIStub
) -> None:
    nobody = OpenAIProvider(base_url="http://127.0.0.1:1/v1", api_key="k")
    agent = Agent(OpenAIChatModel("m", provider=nobody))

    @handler("work", failures_max=1)
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, PROMPT)

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert "cannot be reached" in (job.error or "")
    [call] = await calls_of(api, job.id)
    assert (call.status, call.input_tokens, call.output_tokens) == (CallStatus.ERROR, 0, 0)


async def test_usage_above_the_estimate_is_recorded_and_marked(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.script(EXCESSIVE_USAGE)
    working(provider)
    job = await api.run("work")
    [call] = await calls_of(api, job.id)
    assert call.usage_source is UsageSource.ESTIMATED
    assert (call.output_tokens or 0) > 10_000_000


async def test_tool_calls_with_the_same_id_are_told_apart(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.always(DUPLICATE_TOOL_IDS)
    agent = working(
        provider, '[[call f {"n": 1} + call f {"n": 2} ;; call f {"n": 3} ;; say {results}]]'
    )

    @agent.tool_plain
    def f(n: int) -> int:
        return n * 10

    job = await api.run("work")
    assert job.result == "30"
    told = provider.requests[2].body["messages"]
    ids = [m["tool_call_id"] for m in told if m["role"] == "tool"]
    assert len(set(ids)) == len(ids) == 3


async def test_arguments_that_are_no_json_are_told_to_the_model(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.script(MALFORMED_TOOL_JSON)
    agent = working(provider, '[[call f {"n": 1} ;; call f {"n": 2} ;; say {results}]]')

    @agent.tool_plain
    def f(n: int) -> int:
        return n

    job = await api.run("work")
    assert (job.result, job.failures) == ("2", 0)
    assert len(await calls_of(api, job.id)) == 3


async def test_of_a_fallback_each_model_that_was_asked_is_in_the_books(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.script(SERVER_ERROR)
    agent = Agent(FallbackModel(model_at(provider, "first"), model_at(provider, "second")))

    @handler("work")
    async def work(job: Job) -> str:
        answer = await job.agent("draft", agent, PROMPT)
        if job.attempt == 1:
            raise ConnectionError("after the answer")
        return answer

    job = await api.run("work")
    assert job.status is JobStatus.DONE
    assert [(call.model, call.status) for call in await calls_of(api, job.id)] == [
        ("first", CallStatus.UNKNOWN),
        ("second", CallStatus.OK),
    ]


async def test_a_model_of_a_fallback_that_is_paused_is_passed_over_and_its_settings_are_its_own(
    api: JobApi, provider: OpenAIStub
) -> None:
    """Also in a replay, which reads by the first model what the second was told."""
    provider.script(too_many("60"))
    first = model_at(provider, "first", settings={"max_tokens": 11})
    agent = Agent(FallbackModel(first, model_at(provider, "second")))

    @handler("work")
    async def work(job: Job) -> str:
        answer = await job.agent("draft", agent, PROMPT)
        if job.attempt == 1:
            raise ConnectionError("after the answer")
        return answer

    for _ in range(2):
        job = await api.run("work")
        assert (job.status, job.attempt) == (JobStatus.DONE, 2), job.error
    asked = [request.body["model"] for request in provider.requests]
    assert asked == ["first", "second", "second"]


async def test_a_fallback_that_has_no_model_left_is_tried_again(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.script(SERVER_ERROR, SERVER_ERROR)
    agent = Agent(FallbackModel(model_at(provider, "first"), model_at(provider, "second")))

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, PROMPT)

    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.DONE, 1)
    assert [call.model for call in await calls_of(api, job.id)] == ["first", "second", "first"]


async def test_an_agent_that_gives_up_is_not_run_again(api: JobApi, provider: OpenAIStub) -> None:
    working(provider, output_type=int)
    job = await api.run("work")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert "agent 'draft' gave up" in (job.error or "")


async def test_a_recorded_answer_to_another_question_is_refused_unless_declared(
    api: JobApi, provider: OpenAIStub
) -> None:
    asked: list[int] = []
    agent = Agent(model_at(provider), instructions=lambda: f"It is {asked.append(1) or len(asked)}")

    @handler("work")
    async def work(job: Job, if_changed: Any) -> str:
        answer = await job.agent("draft", agent, "hi", if_changed=if_changed)
        if job.attempt == 1:
            raise ConnectionError("after the answer")
        return answer

    refused = await api.run("work", {"if_changed": "fail"})
    assert refused.status is JobStatus.FAILED
    assert "step 'draft/request 1' was recorded for another request" in (refused.error or "")
    assert "its instructions have changed" in (refused.error or "")
    assert "take a date, a time or a random number from job.step" in (refused.error or "")
    reused = await api.run("work", {"if_changed": "reuse"})
    assert reused.result == "You said: hi"
    assert len(provider.bill) == 2
