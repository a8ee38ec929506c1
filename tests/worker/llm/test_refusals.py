"""What becomes of requests that a provider refuses for its rate limit, by each protocol."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any, LiteralString

import anyio.to_thread
import pytest
import structlog
from pydantic_ai import Agent, RunContext
from pydantic_ai.models.fallback import FallbackModel

from db.money import limits
from db.money.calls import Call, CallStatus
from db.queue import jobs
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.faults import REFUSALS, Fault, too_many
from tests.providers.openai_stub import OpenAIStub
from tests.support import run_cli
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of, model_at, model_by
from worker import events
from worker.masking import MASK

PROTOCOLS = ("chat", "responses", "anthropic")
WHOLE = sorted(REFUSALS.keys() - {"429_first", "429_half", "429_last"})
TOO_LARGE = (
    "Request too large for gpt-5 in organization org-abc on tokens per min (TPM): Limit 30000, "
    "Requested 36278. The input or output tokens must be reduced in order to run successfully."
)
ANTHROPIC_WHOLE = {
    "anthropic-ratelimit-input-tokens-limit": "100",
    "anthropic-ratelimit-input-tokens-remaining": "100",
}
EXCEEDS = (
    "This request would exceed the rate limit for your organization of 100 input tokens a minute"
)
NOW: LiteralString = """
with paused as (
  update jobsworth.rate_limits set paused_until = null, turn_at = null
)
update jobsworth.reactive_jobs set run_at = clock_timestamp()
where status = 'waiting' and waiting_for = 'limit'
"""


def working(provider: OpenAIStub, protocol: str = "chat", *, streamed: bool = False) -> None:
    """The handler "work", which asks a model once."""
    agent = Agent(model_by(protocol, provider))

    async def listen(_: RunContext[Any], events: AsyncIterable[Any]) -> None:
        async for _ in events:
            pass

    @handler("work")
    async def work(job: Job, prompt: str = "hello there, tell me something") -> str:
        listener = listen if streamed else None
        return await job.agent("draft", agent, prompt, event_stream_handler=listener)


async def again(api: JobApi) -> None:
    """Work on, as if all pauses were over."""
    await api.database.execute(NOW)
    await api.work()


async def paused(api: JobApi) -> list[str]:
    async with api.database.connection() as connection:
        return [limit.model for limit in await limits.list_all(connection)]


def took(call: Call) -> tuple[CallStatus, int | None, int | None]:
    return call.status, call.input_tokens, call.output_tokens


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refusal_in_any_form_is_waited_for_and_costs_nothing(
    api: JobApi, provider: OpenAIStub, protocol: str
) -> None:
    provider.script(*(REFUSALS[name] for name in WHOLE))
    working(provider, protocol)
    job = await api.run("work")
    for _ in WHOLE[1:]:
        assert (job.status, job.waiting_for, job.failures) == (JobStatus.WAITING, "limit", 0)
        await again(api)
        job = await api.job(job.id)
    await again(api)
    assert (await api.job(job.id)).status is JobStatus.DONE
    *refused, answered = await calls_of(api, job.id)
    assert [took(call) for call in refused] == [(CallStatus.ERROR, 0, 0)] * len(WHOLE)
    assert {call.cost for call in refused} == {0}
    assert answered.status is CallStatus.OK
    assert len(provider.requests) == len(WHOLE) + 1
    assert len(provider.bill) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refusal_within_a_stream_is_booked_by_what_is_known(
    api: JobApi, provider: OpenAIStub, protocol: str
) -> None:
    """Before the first piece: nothing. Half-way: what was shown. After the last: the answer."""
    provider.script(*(REFUSALS[f"429_{where}"] for where in ("first", "half", "last")))
    working(provider, protocol, streamed=True)
    job = await api.run("work")
    for _ in range(2):
        assert (job.status, job.waiting_for, job.failures) == (JobStatus.WAITING, "limit", 0)
        await again(api)
        job = await api.job(job.id)
    assert (job.status, job.failures) == (JobStatus.DONE, 0), job.error
    first, half, last = await calls_of(api, job.id)
    assert took(first) == (CallStatus.ERROR, 0, 0)
    billed_half, billed = provider.bill
    assert half.status is CallStatus.CUT
    assert billed_half.input_tokens <= (half.input_tokens or 0) <= half.estimated_input_tokens
    assert billed_half.output_tokens <= (half.output_tokens or 0) <= half.estimated_output_tokens
    if protocol == "anthropic":  # it tells the input at the beginning
        assert half.input_tokens == billed_half.input_tokens
    assert took(last) == (CallStatus.OK, billed.input_tokens, billed.output_tokens)
    assert len(provider.requests) == 3


async def test_a_job_that_is_refused_too_often_fails_with_the_providers_words(
    database_url: str, provider: OpenAIStub
) -> None:
    provider.always(Fault(429, message="no room for org-1234567 today"))
    async with JobApi.open(database_url, refusals_max=3) as api:
        working(provider)
        job = await api.run("work")
        while job.status is not JobStatus.FAILED:
            assert job.attempt < 3
            await again(api)
            job = await api.job(job.id)
        assert (job.attempt, len(provider.requests)) == (3, 3)
        assert f"no room for {MASK} today" in (job.error or "")
        assert "refused 3 times" in (job.error or "")
        assert "JOBSWORTH_REFUSALS_MAX" in (job.error or "")
        # A person who runs it again gives it a new start.
        async with api.database.connection() as connection:
            await jobs.retry(connection, job.id)
        await again(api)
        assert (await api.job(job.id)).waiting_for == "limit"
    async with JobApi.open(database_url, refused_seconds_max=0) as api:
        await again(api)
        late = await api.job(job.id)
        assert late.status is JobStatus.FAILED
        assert "JOBSWORTH_REFUSED_SECONDS_MAX" in (late.error or "")


@pytest.mark.parametrize(
    ("fault", "prompt"),
    [
        (Fault(429, message=TOO_LARGE), "x"),
        (Fault(429, headers=ANTHROPIC_WHOLE, message=EXCEEDS), "long " * 100),
        (Fault(429, headers={"x-should-retry": "false"}, message="not for you"), "x"),
    ],
    ids=["requested", "whole", "told"],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_limit_that_a_request_can_never_meet_fails_it_at_once_and_pauses_nothing(
    api: JobApi, provider: OpenAIStub, protocol: str, fault: Fault, prompt: str
) -> None:
    provider.script(fault)
    working(provider, protocol)
    job = await api.run("work", {"prompt": prompt})
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert fault.message.split(" organization")[0] in (job.error or "")
    assert "send less" in (job.error or "")
    [call] = await calls_of(api, job.id)
    assert took(call) == (CallStatus.ERROR, 0, 0)
    assert await paused(api) == []
    assert (await api.run("work", {"prompt": "another"})).status is JobStatus.DONE


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, message=TOO_LARGE.replace("36278", "5000")),
        Fault(429, headers={"x-should-retry": "false", "retry-after": "3600"}, message="wait"),
        Fault(
            429,
            headers={**ANTHROPIC_WHOLE, "anthropic-ratelimit-input-tokens-remaining": "7"},
            message=EXCEEDS,
        ),
        Fault(429, headers=ANTHROPIC_WHOLE, message=EXCEEDS.replace("rate limit", "increase rate")),
    ],
    ids=["fits", "later", "used up", "grows"],
)
async def test_a_limit_that_is_met_later_is_waited_for(
    api: JobApi, provider: OpenAIStub, fault: Fault
) -> None:
    provider.script(fault)
    working(provider)
    job = await api.run("work", {"prompt": "long " * 100})
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, "limit")
    assert await paused(api) == ["gpt-5-mini"]


async def test_a_model_of_a_fallback_that_refuses_is_passed_over(
    api: JobApi, provider: OpenAIStub
) -> None:
    agent = Agent(FallbackModel(model_at(provider, "first"), model_at(provider, "second")))

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, "hello")

    for fault in (too_many("0"), Fault(429, message=TOO_LARGE), Fault(within=429)):
        provider.refuse("first", fault)
        assert (await api.run("work")).status is JobStatus.DONE
        provider.recover()
        await api.database.execute("delete from jobsworth.rate_limits")


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        (502, JobStatus.DONE, None),
        (400, JobStatus.FAILED, "answered 400: upstream says no"),
        (402, JobStatus.FAILED, "answered 402: upstream says no"),
    ],
)
async def test_an_error_that_comes_as_an_answer_keeps_its_reason(
    api: JobApi, provider: OpenAIStub, code: int, status: JobStatus, says: str | None
) -> None:
    """OpenRouter and other gateways answer 200 and write the error into the body."""
    provider.script(Fault(within=code, message="upstream says no"))
    working(provider)
    job = await api.run("work")
    assert job.status is status
    call, *_ = await calls_of(api, job.id)
    assert f"answered {code}: upstream says no" in (call.error or "")
    assert call.status is (CallStatus.UNKNOWN if code == 502 else CallStatus.ERROR)
    assert says is None or says in (job.error or "")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_error_that_comes_in_place_of_a_stream_keeps_its_reason(
    api: JobApi, provider: OpenAIStub, protocol: str
) -> None:
    """Status 200 and plain JSON, where the events of a stream were asked for."""
    working(provider, protocol, streamed=True)
    said = "upstream says no"
    provider.script(Fault(within=402, plain=True, message=said))
    failed = await api.run("work")
    provider.script(Fault(within=429, plain=True, message=said))
    parked = await api.run("work")
    for job in (failed, parked):
        call, *_ = await calls_of(api, job.id)
        assert said in (call.error or ""), call
    assert (parked.status, parked.waiting_for) == (JobStatus.WAITING, "limit")
    if protocol == "responses":  # its error has no status
        assert (await calls_of(api, failed.id))[0].status is CallStatus.UNKNOWN
    else:
        assert failed.status is JobStatus.FAILED
        assert f"answered 402: {said}" in (failed.error or "")


@pytest.mark.parametrize("sent", ["[1]", '{"choices": 3, "error": {}}', "[" * 9_000, "{"])
async def test_a_document_in_place_of_a_stream_ends_the_try_with_a_reason(
    api: JobApi, provider: OpenAIStub, sent: str
) -> None:
    provider.script(Fault(within=200, plain=sent))
    working(provider, streamed=True)
    job = await api.run("work")
    assert job.status is JobStatus.DONE, job.error
    failed, answered = await calls_of(api, job.id)
    assert (failed.status, answered.status) == (CallStatus.UNKNOWN, CallStatus.OK)
    assert "a document that is no stream" in (failed.error or "")


def filtered(body: Any) -> Any:
    body["choices"][0]["finish_reason"] = "content_filter"
    return body


@pytest.mark.parametrize(
    ("protocol", "reason"),
    [
        ("chat", "length"),
        ("responses", "length"),
        ("anthropic", "length"),
        ("chat", "content_filter"),
    ],
)
async def test_an_answer_that_the_model_did_not_end_says_so(
    api: JobApi, provider: OpenAIStub, protocol: str, reason: str
) -> None:
    if reason == "content_filter":
        provider.script(Fault(edit=filtered))
    agent = Agent(model_by(protocol, provider), model_settings={"max_tokens": 2})

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, "a long one")

    with structlog.testing.capture_logs() as logged:
        job = await api.run("work")
    assert job.status is JobStatus.DONE
    assert len(job.result) < len("You said: a long one")
    [call] = await calls_of(api, job.id)
    assert (call.status, call.finish_reason) == (CallStatus.OK, reason)
    [said] = [line for line in logged if line["event"] == events.ANSWER_CUT_SHORT]
    assert (said["call_request_id"], said["finish_reason"]) == (call.request_id, reason)
    shown = await anyio.to_thread.run_sync(
        lambda: run_cli("job", "show", str(job.id), url=api.url).stdout
    )
    assert f"ok, cut short: {reason}" in shown
