"""Every class of usage and every tier, by each protocol, whole and streamed: booked as billed.

All cases are jobs of one worker. What a call costs is computed here by hand, from the provider's
bill and the rates below, which are those of the providers' price lists.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from anthropic import AsyncAnthropic
from pydantic_ai import Agent, RunContext
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import RequestUsage

from db.money import ledger
from db.money.calls import Call, CallStatus, UsageSource
from jobsworth import Job, handler
from tests.providers.openai_stub import Charge, OpenAIStub
from tests.support import run_cli
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of
from worker.llm import classes

# US dollars for a million, or for a thousand searches. What is read or written without a rate of
# its own costs as much as other input or output; None: nobody knows.
Rates = Mapping[str, str]
MINI: Rates = {"in": "0.25", "out": "2", "cached": "0.025", "web_searches": "10"}
FILES = {"storage_searches": "2.5"}
FLEX: Rates = {**MINI, "in": "0.125", "out": "1", "cached": "0.0125"}
PRIORITY: Rates = {**MINI, "in": "0.45", "out": "3.6", "cached": "0.045"}
NANO: Rates = {"in": "0.05", "out": "0.4", "cached": "0.005"}
AUDIO: Rates = {
    "in": "0.6",
    "out": "2.4",
    "input_audio_tokens": "10",
    "output_audio_tokens": "20",
}
IMAGE: Rates = {"in": "5", "out": "40", "cached": "1.25", "input_image_tokens": "10"}
SONNET: Rates = {
    "in": "2",
    "out": "10",
    "cached": "0.1",
    "written": "2.5",
    "cache_write_1h_tokens": "4",
    "web_searches": "10",
}
FAST: Rates = {"in": "10", "out": "50", "cached": "1", "written": "12.5"}


class Case(NamedTuple):
    protocol: str
    model: str
    used: str
    rates: Rates | None
    answered: str | None = None
    tier: str | None = None


OPENAI = ("chat", "responses")
CASES = [
    *(Case(protocol, "gpt-5-mini", "", MINI) for protocol in OPENAI),
    *(
        Case(protocol, "gpt-5-mini", "cache_read_tokens=50 output_reasoning_tokens=20", MINI)
        for protocol in OPENAI
    ),
    *(Case(p, "gpt-5-mini", "service_tier=default", MINI) for p in OPENAI),
    *(
        Case(p, "gpt-5-mini", "cache_read_tokens=9 service_tier=flex", FLEX, tier="flex")
        for p in OPENAI
    ),
    *(Case(p, "gpt-5-mini", "service_tier=priority", PRIORITY, tier="priority") for p in OPENAI),
    *(Case(p, "gpt-5-mini", "service_tier=fast", PRIORITY, tier="fast") for p in OPENAI),
    *(Case(p, "gpt-5-mini", "service_tier=ultrafast", None, tier="ultrafast") for p in OPENAI),
    *(Case(p, "gpt-5-mini", "service_tier=scale", None, tier="scale") for p in OPENAI),
    *(Case(p, "gpt-5-mini", "model=gpt-5-nano", NANO, "gpt-5-nano") for p in OPENAI),
    *(Case(p, "gpt-5-mini", "model=gpt-5-mini-2025-08-07", MINI) for p in OPENAI),
    *(Case(p, "gpt-5-mini", "model=nobodys-model", None, "nobodys-model") for p in OPENAI),
    *(Case(p, "gpt-5-mini", "input_audio_tokens=30", None) for p in OPENAI),
    *(Case(p, "gpt-5-mini", "output_audio_tokens=30", None) for p in OPENAI),
    *(Case(p, "gpt-5-mini", "input_image_tokens=30", MINI) for p in OPENAI),
    Case("chat", "gpt-audio-mini", "input_audio_tokens=30 output_audio_tokens=40", AUDIO),
    Case("chat", "gpt-audio-mini", "input_audio_tokens=70", AUDIO),
    Case("chat", "gpt-image-1", "input_image_tokens=300 output_image_tokens=500", IMAGE),
    Case("responses", "gpt-5-mini", "web_searches=3", MINI),
    Case("responses", "gpt-5-mini", "storage_searches=2", {**MINI, **FILES}),
    Case("responses", "gpt-5-mini", "code_executions=1", None),
    Case("responses", "gpt-3.5-turbo", "web_searches=1", None),
    Case("anthropic", "claude-sonnet-5-5", "", SONNET),
    Case(
        "anthropic",
        "claude-sonnet-5-5",
        "cache_read_tokens=50 cache_write_tokens=40 cache_write_1h_tokens=30 web_searches=2",
        SONNET,
    ),
    Case("anthropic", "claude-sonnet-5-5", "output_reasoning_tokens=9", SONNET),
    Case("anthropic", "claude-sonnet-5-5", "service_tier=standard inference_geo=global", SONNET),
    Case("anthropic", "claude-sonnet-5-5", "service_tier=priority", None, tier="priority"),
    Case("anthropic", "claude-sonnet-5-5", "inference_geo=us", None, tier="us"),
    Case("anthropic", "claude-opus-5", "speed=fast cache_read_tokens=7", FAST, tier="fast"),
    Case("anthropic", "claude-opus-5", "model=claude-sonnet-5-5", SONNET, "claude-sonnet-5-5"),
]


def model_of(case: Case, provider: OpenAIStub) -> Model:
    if case.protocol == "anthropic":
        client = AsyncAnthropic(base_url=provider.root, api_key="k")
        return AnthropicModel(case.model, provider=AnthropicProvider(anthropic_client=client))
    kind = OpenAIChatModel if case.protocol == "chat" else OpenAIResponsesModel
    return kind(case.model, provider=OpenAIProvider(base_url=provider.url, api_key="k"))


def price(charge: Charge, rates: Rates) -> Decimal:
    """By hand, from the bill: each token once, at the rate of its narrowest class."""
    read = charge.input_tokens - charge.cached_tokens - charge.written_tokens
    written = charge.written_tokens - charge.others.get("cache_write_1h_tokens", 0)
    answered = charge.output_tokens
    amount = Decimal(0)
    for name, count in charge.others.items():
        if name not in rates:
            continue
        if name.startswith("input_"):
            read -= count
        if name.startswith("output_"):
            answered -= count
        amount += count * Decimal(rates[name]) * (1000 if name.endswith("searches") else 1)
    amount += read * Decimal(rates["in"]) + answered * Decimal(rates["out"])
    amount += charge.cached_tokens * Decimal(rates.get("cached", rates["in"]))
    return (amount + written * Decimal(rates.get("written", rates["in"]))) / 1_000_000


async def listen(ctx: RunContext[Any], events: AsyncIterable[Any]) -> None:
    async for _ in events:
        pass


async def test_each_class_and_tier_is_booked_as_billed_to_the_token_and_to_the_cent(
    api: JobApi, provider: OpenAIStub
) -> None:
    @handler("work")
    async def work(job: Job, case: int, streamed: bool) -> str:
        chosen = CASES[case]
        prompt = f"case {case} (({chosen.used}))" if chosen.used else f"case {case}"
        agent = Agent(model_of(chosen, provider))
        listener = listen if streamed else None
        return await job.agent("draft", agent, prompt, event_stream_handler=listener)

    jobs: dict[UUID, Case] = {}
    for number, case in enumerate(CASES):
        for streamed in (False, True):
            payload = {"case": number, "streamed": streamed}
            jobs[await api.enqueue("work", payload)] = case
    await api.work()
    bill = {charge.request_id: charge for charge in provider.bill}
    for job_id, case in jobs.items():
        job = await api.job(job_id)
        assert job.result, (case, job.error)
        [call] = await calls_of(api, job_id)
        check(case, call, bill[call.request_id])
    await check_ledger(api, len(jobs))


def check(case: Case, call: Call, charge: Charge) -> None:
    assert (call.status, call.usage_source) == (CallStatus.OK, UsageSource.PROVIDER), case
    assert (call.input_tokens, call.output_tokens) == (charge.input_tokens, charge.output_tokens)
    assert call.cache_read_tokens == charge.cached_tokens, case
    assert call.cache_write_tokens == charge.written_tokens, case
    assert call.reasoning_tokens == charge.thought_tokens, case
    assert (call.other_usage or {}) == charge.others, case
    assert call.tier == case.tier, case
    assert (call.model, call.answered_model) == (case.model, case.answered), case
    assert call.cost == (None if case.rates is None else price(charge, case.rates)), (case, call)
    assert (call.price is None) == (case.rates is None)


async def check_ledger(api: JobApi, jobs: int) -> None:
    """It says which model answered, and how many costs are unknown."""
    async with api.database.connection() as connection:
        asked = {one.key: one for one in await ledger.usage_by(connection, "model")}
        answered = {one.key: one for one in await ledger.usage_by(connection, "answered")}
    assert sum(one.entries for one in answered.values()) == jobs
    assert "openai:gpt-5-nano" in answered.keys() - asked.keys()
    nano = answered["openai:gpt-5-nano"]
    assert (nano.entries, nano.unknown_cost_entries) == (4, 0)
    unknown = 2 * sum(case.rates is None for case in CASES)
    assert sum(one.unknown_cost_entries for one in asked.values()) == unknown


async def test_what_was_asked_and_who_answered_is_shown(api: JobApi, provider: OpenAIStub) -> None:
    case = Case("chat", "gpt-5-mini", "model=gpt-5-nano service_tier=flex", NANO)

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", Agent(model_of(case, provider)), f"(({case.used}))")

    job = await api.run("work")
    shown = run_cli("job", "show", str(job.id), url=api.url).stdout
    assert "answered by" in shown
    assert "gpt-5-nano" in shown
    assert "openai:gpt-5-nano" in run_cli("ledger", "--by", "answered", url=api.url).stdout


# What an adapter drops, and what nobody expects.


def test_an_advisors_tokens_make_the_cost_unknown() -> None:
    details = {"advisor_input_tokens": 7, "advisor_output_tokens": 3, "compaction_iterations": 1}
    assert classes.others_of(RequestUsage(details=details), {}) == {"advisor_tokens": 10}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_provider_reports_is_read(seed: int) -> None:
    draw = random.Random(seed)

    def odd(depth: int = 0) -> Any:
        values: list[Any] = [None, -1, 3, 2.5, "x", True, [], {}]
        if depth < 3:
            names = draw.sample(["audio_tokens", "cached_tokens_details", "image_tokens", "x"], 2)
            values += [{name: odd(depth + 1) for name in names}] * 4
        return draw.choice(values)

    class Odd:
        output: Any = draw.choice([None, 3, [None, 5, "x"]])
        service_tier: Any = odd()

        def model_dump(self, **_: Any) -> Any:
            return {"prompt_tokens_details": odd(), "completion_tokens_details": odd()}

    counts = classes.others_in(Odd(), Odd())
    assert all(count > 0 for count in counts.values())
    classes.tier_of(classes.terms_in(Odd(), Odd()))
