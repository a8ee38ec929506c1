"""What an agent goes on from when its job runs again: whoever answered, and whoever asks now."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent, ModelRequest, ModelResponse
from pydantic_ai.messages import (
    ModelMessage,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.function import AgentInfo, FunctionModel

from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.openai_stub import OpenAIStub
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of, model_at, model_by
from worker.llm.recorded import UnknownShape, asked_of, document_of, response_of

SCRIPT = '[[say first + call look {"n": 1} ;; call look {"n": 2} ;; say {results}]]'


@pytest.mark.parametrize("protocol", ["chat", "responses", "anthropic"])
async def test_another_model_goes_on_with_what_the_first_one_answered(
    api: JobApi, provider: OpenAIStub, protocol: str
) -> None:
    """And the first one again, with what the second one added."""
    provider.share(thought=3)
    models = [model_at(provider, "before"), model_by(protocol, provider), model_at(provider, "z")]

    @handler("work", failures_max=9)
    async def work(job: Job) -> str:
        agent = Agent(models[job.attempt - 1])
        stops = {1: 2, 2: 3}.get(job.attempt)

        @agent.tool_plain
        def look(n: int) -> str:
            if stops == n + 1:
                raise ConnectionError("the job is moved")
            return f"seen {n}"

        answer = await job.agent("draft", agent, SCRIPT)
        if job.attempt < 3:
            raise ConnectionError("the job is moved")
        return answer

    job = await api.run("work")
    assert job.status is JobStatus.DONE, job.error
    assert job.result == "seen 2"
    booked = await calls_of(api, job.id)
    assert len(booked) == len(provider.requests) == 3
    assert booked[0].model == "before"
    assert {call.model for call in booked} - {"before", "z"}


def test_who_answered_is_no_part_of_the_question() -> None:
    def asked(**of_answer: Any) -> dict[str, str]:
        parts = [
            ThinkingPart("why", id=of_answer.get("model_name"), signature=of_answer.get("url")),
            TextPart("x", id=of_answer.get("model_name"), provider_name=of_answer.get("name")),
            ToolCallPart("f", "{}", "id", id=of_answer.get("name")),
        ]
        told: list[ModelMessage] = [
            ModelRequest([UserPromptPart("hi")]),
            ModelResponse(
                parts,
                model_name=of_answer.get("model_name"),
                provider_name=of_answer.get("name"),
                provider_url=of_answer.get("url"),
                finish_reason=of_answer.get("finish"),
            ),
        ]
        return asked_of(told, {}, ModelRequestParameters()).hashes

    assert asked() == asked(model_name="m", name="p", url="http://x", finish="stop")


RECORDS: list[Any] = [
    None,
    "text",
    [],
    {},
    {"asked": {}},
    {"asked": {}, "response": None},
    {"asked": {}, "response": {"kind": "response", "parts": [{"part_kind": "odd"}]}},
    {"asked": {}, "response": {"kind": "request", "parts": []}},
    {"response": {"kind": "response", "parts": []}},
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_of_an_unknown_shape_is_named_as_such(record: Any) -> None:
    with pytest.raises(UnknownShape):
        response_of(record)


async def test_a_record_of_an_unknown_shape_ends_the_job_once_and_readably(
    api: JobApi, provider: OpenAIStub
) -> None:
    agent = Agent(model_at(provider))

    @handler("work", failures_max=5)
    async def work(job: Job) -> str:
        answer = await job.agent("draft", agent, "hello")
        if job.attempt == 1:
            await api.database.execute(
                'update jobsworth.steps set output = \'{"asked": {}, "response": 7}\''
            )
            raise ConnectionError("the job is moved")
        return answer

    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.FAILED, 2)
    assert "the record of step 'draft/request 1' cannot be read as an answer" in (job.error or "")
    assert len(await calls_of(api, job.id)) == 1


async def test_an_answer_that_cannot_be_written_down_whole_is_paid_once(api: JobApi) -> None:
    asked: list[int] = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append(1)
        details: Any = {"raw": object()}
        return ModelResponse([TextPart("gold", provider_details=details)])

    agent = Agent(FunctionModel(answer))

    @handler("work", failures_max=5)
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, "hello")

    job = await api.run("work")
    assert (job.result, len(asked)) == ("gold", 1), job.error


def test_a_document_holds_what_json_does_not() -> None:
    details: Any = {"raw": {1, 2}, "key": object()}
    document = document_of({}, ModelResponse([TextPart("x", provider_details=details)]))
    assert response_of(document).parts[0] == TextPart(
        "x", provider_details={"raw": [1, 2], "key": "object"}
    )
