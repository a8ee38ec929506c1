"""Models by name, and the one that the operator chose."""

from __future__ import annotations

import sys
from typing import Any

import anyio.to_thread
import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent

from db.errors import ExtraMissing, InvalidInput
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.openai_stub import OpenAIStub
from tests.worker.job_api import JobApi, registered
from tests.worker.llm.support import calls_of
from worker.llm.choice import ModelChoice
from worker.llm.keys import KEYS
from worker.llm.providers import model_of
from worker.settings import MODEL_PROVIDERS


def test_a_model_is_made_by_provider_and_name_and_its_client_does_not_retry() -> None:
    for name, system in (
        ("openai:gpt-5.1", "openai"),
        ("openai-responses:gpt-5.1", "openai"),
        ("anthropic:claude-sonnet-4-5", "anthropic"),
    ):
        model: Any = model_of(name, key="k", timeout_seconds=7)
        assert (model.system, model.model_name) == (system, name.partition(":")[2])
        assert model.client.max_retries == 0
        assert model.client.timeout.read == 7


@pytest.mark.parametrize("name", ["gpt-5.1", "openai:", "nobody:m", ""])
def test_a_name_that_is_no_model_is_refused_with_the_providers_there_are(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"openai, openai-responses, anthropic"):
        model_of(name, key="k")


def test_a_missing_key_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(InvalidInput, match=r"set JOBSWORTH_MODEL_KEY or ANTHROPIC_API_KEY"):
        model_of("anthropic:m")


def test_a_missing_sdk_is_told_with_the_extra_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    remedy = r"set another JOBSWORTH_MODEL, or run: pip install 'jobsworth\[anthropic\]'"
    with pytest.raises(ExtraMissing, match=remedy):
        ModelChoice("anthropic:m", key="k").check()
    with pytest.raises(ExtraMissing, match=remedy):
        model_of("anthropic:m", key="k")
    ModelChoice("openai:m", key="k").check()


@pytest.mark.parametrize("key", ["sk-…", "sk-1\n", "sk 1"])
def test_a_key_that_could_not_be_sent_is_told_before_anything_is_sent(key: str) -> None:
    with pytest.raises(InvalidInput, match="has a character that no key has"):
        ModelChoice("openai:chat-1", key=key).check()


def test_a_server_of_ones_own_may_want_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert model_of("openai:m", url="http://127.0.0.1:1/v1").base_url == "http://127.0.0.1:1/v1/"


def test_settings_and_adapters_know_the_same_providers() -> None:
    assert set(MODEL_PROVIDERS) == set(KEYS)


def test_no_choice_and_offline_are_no_model_and_a_choice_is_built_once() -> None:
    assert ModelChoice().model() is None
    assert ModelChoice("offline").model() is None
    choice = ModelChoice("openai:m", "http://127.0.0.1:1/v1", "secret")
    assert choice.model() is choice.model()
    assert "secret" not in repr(choice)


async def test_of_many_agents_that_start_together_one_loads_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread for each held the loop: each thread that begins looks through all tasks."""
    threads, models = list[object](), list[object]()
    really = anyio.to_thread.run_sync

    async def run_sync(work: Any, *args: Any) -> Any:
        threads.append(work)
        return await really(work, *args)

    monkeypatch.setattr(anyio.to_thread, "run_sync", run_sync)
    choice = ModelChoice("openai:m", "http://127.0.0.1:1/v1", "secret")

    async def start() -> None:
        models.append(await choice.loaded())

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(start)
    assert len(threads) == 1
    assert models == [choice.model()] * 200


async def test_an_agent_without_a_model_takes_the_operators(
    database_url: str, provider: OpenAIStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[dict[str, Any]] = []

    def copied(_: AsyncOpenAI, **options: Any) -> None:
        copies.append(options)

    monkeypatch.setattr(AsyncOpenAI, "with_options", copied)
    agent = Agent()
    chosen: dict[str, Any] = {
        "model": "openai:chat-7",
        "model_url": provider.url,
        "max_output_tokens": 77,
    }
    with registered():

        @handler("work")
        async def work(job: Job) -> str:
            return await job.agent("draft", agent, "hello")

        async with JobApi.open(database_url, **chosen) as api:
            job = await api.run("work")
            [call] = await calls_of(api, job.id)
    assert job.result == "You said: hello"
    assert (call.model, call.estimated_output_tokens) == ("chat-7", 77)
    assert provider.requests[0].body["max_completion_tokens"] == 77
    assert copies == []  # its client sends a request once, and so it serves all of them


async def test_an_agent_without_any_model_is_told_where_to_name_one(api: JobApi) -> None:
    agent = Agent()

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, "hello")

    job = await api.run("work")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert "has no model" in (job.error or "")
    assert "JOBSWORTH_MODEL" in (job.error or "")
