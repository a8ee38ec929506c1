"""Answers that are streamed: live the first time, read back in a replay, never free when cut."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from pydantic_ai import Agent, AgentStreamEvent, PartDeltaEvent, PartStartEvent, RunContext
from pydantic_ai.messages import TextPart, TextPartDelta

from db.money.calls import CallStatus, UsageSource
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.openai_stub import MALFORMED, OpenAIStub, too_many
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of, model_at

PROMPT = "tell me something that is long enough to come in several pieces"


class Listener:
    """Collects the text that comes, a list for each answer of the model."""

    def __init__(self) -> None:
        self.heard: list[list[str]] = []

    async def __call__(self, ctx: RunContext[Any], events: AsyncIterable[AgentStreamEvent]) -> None:
        pieces: list[str] = []
        async for event in events:
            match event:
                case PartStartEvent(part=TextPart(content=text)) if text:
                    pieces.append(text)
                case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                    pieces.append(text)
                case _:
                    pass
        # It is called for tools as well.
        if pieces:
            self.heard.append(pieces)


def working(provider: OpenAIStub, listener: Any, failing: int = 0) -> None:
    agent = Agent(model_at(provider))

    @handler("work")
    async def work(job: Job) -> str:
        answer = await job.agent("draft", agent, PROMPT, event_stream_handler=listener)
        if job.attempt <= failing:
            raise ConnectionError("after the answer")
        return answer


async def test_a_stream_is_live_the_first_time_and_one_piece_in_a_replay(
    api: JobApi, provider: OpenAIStub
) -> None:
    listener = Listener()
    working(provider, listener, failing=1)
    job = await api.run("work")
    live, replayed = listener.heard
    assert job.result == "".join(live) == "".join(replayed) == f"You said: {PROMPT}"
    assert len(live) > 3
    assert len(replayed) == 1
    [call] = await calls_of(api, job.id)
    [charge] = provider.bill
    assert provider.requests[0].body["stream"] is True
    assert (call.status, call.usage_source) == (CallStatus.OK, UsageSource.PROVIDER)
    assert (call.input_tokens, call.output_tokens) == (charge.input_tokens, charge.output_tokens)
    assert call.request_id == charge.request_id


async def test_a_stream_of_garbage_is_not_free(api: JobApi, provider: OpenAIStub) -> None:
    provider.script(MALFORMED)
    working(provider, Listener())
    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.DONE, 1)
    spoilt, _ = await calls_of(api, job.id)
    assert spoilt.status in (CallStatus.UNKNOWN, CallStatus.CUT)
    assert (spoilt.usage_source, spoilt.output_tokens) == (UsageSource.ESTIMATED, 4096)


async def test_a_listener_that_fails_leaves_the_call_settled(
    api: JobApi, provider: OpenAIStub
) -> None:
    async def fail(ctx: RunContext[Any], events: AsyncIterable[AgentStreamEvent]) -> None:
        async for _ in events:
            raise ValueError("not mine")

    working(provider, fail)
    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert {call.status for call in await calls_of(api, job.id)} == {CallStatus.CUT}


async def test_a_stream_that_is_refused_costs_nothing(api: JobApi, provider: OpenAIStub) -> None:
    provider.script(too_many())
    working(provider, Listener())
    job = await api.run("work")
    assert (job.status, job.waiting_for, job.failures) == (JobStatus.WAITING, "limit", 0)
    [call] = await calls_of(api, job.id)
    assert (call.status, call.output_tokens) == (CallStatus.ERROR, 0)
