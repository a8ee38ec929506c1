"""OpenAI's Chat Completions and Responses, and Anthropic's Messages: each as billed, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterable
from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext

from db.money.calls import Call, CallStatus, UsageSource
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.openai_stub import (
    CUT,
    INCONSISTENT_USAGE,
    MISSING_USAGE,
    SERVER_ERROR,
    Charge,
    Fault,
    OpenAIStub,
)
from tests.worker.job_api import JobApi, registered
from tests.worker.llm.support import calls_of, model_by
from worker.llm.providers import model_of

PROTOCOLS = ("chat", "responses", "anthropic")
EACH = pytest.mark.parametrize("protocol", PROTOCOLS)
# US dollars for a million tokens: read, read from the cache, written to it, answered.
RATES = {"anthropic": ("2", "0.10", "2.50", "10"), "openai": ("0.25", "0.025", "0.25", "2")}
SOON = {"Retry-After-Ms": "100"}


async def listen(ctx: RunContext[Any], events: AsyncIterable[Any]) -> None:
    async for _ in events:
        pass


def working(protocol: str, provider: OpenAIStub, prompt: str, *, streamed: bool = False) -> None:
    """The handler "work": an agent with a tool."""
    agent = Agent(model_by(protocol, provider), instructions="Be brief.")

    @agent.tool_plain
    def look(n: int) -> str:
        return f"seen {n}"

    listener = listen if streamed else None

    @handler("work", failures_max=4)
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, prompt, event_stream_handler=listener)


def price(call: Call, charge: Charge) -> Decimal:
    """By hand, from the bill."""
    fresh, cached, written, answered = map(Decimal, RATES[call.provider])
    read = charge.input_tokens - charge.cached_tokens - charge.written_tokens
    cents = read * fresh + charge.cached_tokens * cached + charge.written_tokens * written
    return (cents + charge.output_tokens * answered) / 1_000_000


@EACH
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_each_request_is_one_call_with_every_token_and_its_price_as_billed(
    api: JobApi, provider: OpenAIStub, protocol: str, streamed: bool
) -> None:
    provider.share(cached=100, written=40, thought=30)
    working(
        protocol,
        provider,
        '[[say I look + call look {"n": 1} + call look {"n": 2} ;; say {results}]]',
        streamed=streamed,
    )
    job = await api.run("work")
    assert job.result == "seen 1, seen 2", job.error
    booked = await calls_of(api, job.id)
    assert len(booked) == len(provider.requests) == 2
    for call, charge in zip(booked, provider.bill, strict=True):
        assert (call.status, call.usage_source) == (CallStatus.OK, UsageSource.PROVIDER)
        assert call.request_id == charge.request_id
        assert (call.input_tokens, call.output_tokens) == (
            charge.input_tokens,
            charge.output_tokens,
        )
        assert (call.cache_read_tokens, call.cache_write_tokens, call.reasoning_tokens) == (
            *(charge.cached_tokens, charge.written_tokens, charge.thought_tokens),
        )
        assert call.cost == price(call, charge)
    limit = {"anthropic": "max_tokens", "responses": "max_output_tokens"}
    for request in provider.requests:
        assert request.body[limit.get(protocol, "max_completion_tokens")] == 4096
        assert bool(request.body.get("stream")) is streamed


@EACH
@pytest.mark.parametrize("status", [429, 529])
async def test_a_provider_that_has_too_much_to_do_is_waited_for_and_burns_no_failure(
    api: JobApi, provider: OpenAIStub, protocol: str, status: int
) -> None:
    provider.script(Fault(status, headers=SOON, message="busy"))
    working(protocol, provider, "hi")
    job = await api.run("work")
    assert (job.status, job.failures, job.attempt) == (JobStatus.DONE, 0, 2), job.error
    refused, answered = await calls_of(api, job.id)
    assert (refused.status, refused.input_tokens, refused.cost) == (CallStatus.ERROR, 0, 0)
    assert answered.status is CallStatus.OK
    assert len(provider.requests) == 2


@pytest.mark.parametrize("protocol", ["anthropic", "responses"])
async def test_a_stream_in_which_the_provider_says_that_it_is_overloaded_is_not_free(
    api: JobApi, provider: OpenAIStub, protocol: str
) -> None:
    """What it may have thought and written until then may be billed; whoever comes next waits."""
    provider.script(Fault(breaks=429 if protocol == "responses" else 529, message="Overloaded"))
    working(protocol, provider, "hello, tell me something long", streamed=True)
    job = await api.run("work")
    assert (job.status, job.waiting_for, job.failures) == (JobStatus.WAITING, "limit", 0), job.error
    [cut] = await calls_of(api, job.id)
    assert (cut.status, cut.usage_source) == (CallStatus.CUT, UsageSource.ESTIMATED)
    [billed] = provider.bill
    known = {"anthropic": billed.input_tokens, "responses": cut.estimated_input_tokens}
    assert (cut.input_tokens, cut.output_tokens) == (known[protocol], 4096)


@EACH
async def test_a_stream_that_is_cut_is_cut_and_a_server_error_unknown_and_each_is_asked_again_once(
    api: JobApi, provider: OpenAIStub, protocol: str
) -> None:
    provider.script(CUT, SERVER_ERROR, Fault(ends=True))
    working(protocol, provider, "hello, tell me something long", streamed=True)
    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.DONE, 3), job.error
    *held_back, answered = await calls_of(api, job.id)
    assert [call.status for call in held_back] == ["cut", "unknown", "cut"]
    assert answered.status is CallStatus.OK
    for held in held_back:
        assert (held.input_tokens, held.output_tokens) == (held.estimated_input_tokens, 4096)
        assert held.cost == held.estimated_cost
    assert len(provider.requests) == 4


@pytest.mark.parametrize("protocol", ["chat", "responses"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_usage_that_is_not_told_or_contradicts_its_total_counts_at_the_estimate(
    api: JobApi, provider: OpenAIStub, protocol: str, streamed: bool
) -> None:
    provider.script(MISSING_USAGE, INCONSISTENT_USAGE)
    working(protocol, provider, '[[call look {"n": 1} ;; say {results}]]', streamed=streamed)
    job = await api.run("work")
    booked = await calls_of(api, job.id)
    assert [(call.status, call.usage_source) for call in booked] == [
        (CallStatus.OK, UsageSource.ESTIMATED)
    ] * 2, job.error
    assert [call.output_tokens for call in booked] == [4096] * 2
    assert job.result == "seen 1"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_message_of_anthropics_without_usage_which_no_adapter_reads_is_not_free(
    api: JobApi, provider: OpenAIStub, streamed: bool
) -> None:
    provider.script(MISSING_USAGE)
    working("anthropic", provider, "hi", streamed=streamed)
    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.DONE, 1), job.error
    held, _ = await calls_of(api, job.id)
    assert (held.usage_source, held.cost) == (UsageSource.ESTIMATED, held.estimated_cost)
    assert held.status is (CallStatus.CUT if streamed else CallStatus.UNKNOWN)


async def test_what_is_kept_in_the_cache_for_an_hour_has_its_own_price(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.share(written=1000, for_an_hour=400)
    working("anthropic", provider, "hi" * 1000)
    job = await api.run("work")
    [call] = await calls_of(api, job.id)
    [charge] = provider.bill
    dearer = 400 * (Decimal(4) - Decimal("2.50")) / 1_000_000
    assert call.cost == price(call, charge) + dearer
    assert (call.price or {})["cache_write_1h"] == "4"
    assert call.other_usage == {"cache_write_1h_tokens": 400}


@EACH
async def test_the_operators_model_is_asked_where_and_with_which_key_the_settings_say(
    database_url: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the SDK's own variable names another; all of them with /v1 at the end."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    names = {"chat": "openai", "responses": "openai-responses", "anthropic": "anthropic"}
    with registered(), OpenAIStub(key="sk-right") as guarded:

        @handler("work")
        async def work(job: Job) -> str:
            return await job.agent("draft", Agent(), "hello")

        chosen: dict[str, Any] = {
            "model": f"{names[protocol]}:m",
            "model_url": guarded.url,
            "model_key": "sk-right",
        }
        async with JobApi.open(database_url, **chosen) as api:
            job = await api.run("work")
    assert job.result == "You said: hello", job.error


async def test_the_address_of_anthropic_may_be_named_as_its_sdk_takes_it(
    provider: OpenAIStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.root)
    answer = await Agent(model_of("anthropic:m", key="k")).run("hello")
    assert answer.output == "You said: hello"
