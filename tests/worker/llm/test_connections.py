"""Each request to a model has a connection of its own, and is not booked before it has one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, LiteralString

import anyio
import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from structlog.testing import capture_logs

from db.pool import Connection, fetch_val
from jobsworth import Job, handler
from tests.providers.held_provider import HeldProvider
from tests.support import until
from tests.worker.job_api import JobApi, registered
from worker.llm import connections
from worker.llm.connections import ManyClients
from worker.llm.providers import model_of

AGENTS = 7

BOOKED: LiteralString = "select count(*) from jobsworth.llm_calls"

RUNNING: LiteralString = "select count(*) from jobsworth.reactive_jobs where status = 'running'"

DONE: LiteralString = "select count(*) from jobsworth.reactive_jobs where status = 'done'"


@pytest.fixture
async def provider() -> AsyncGenerator[HeldProvider]:
    async with HeldProvider.running() as provider:
        yield provider


@pytest.fixture
def small_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_OF_CLIENT", 2)


async def until_open(provider: HeldProvider, count: int) -> None:
    async def there() -> bool:
        return provider.open == count

    await until(there, 30, f"{count} open requests")


async def count(conn: Connection, question: LiteralString) -> int:
    found = await fetch_val(conn, question)
    assert isinstance(found, int)
    return found


async def run_agents(
    conn: Connection, url: str, provider: HeldProvider, model: Model | None, opened: int
) -> None:
    """Run `AGENTS` agents; when `opened` requests are open, as many are booked and no more."""
    agent = Agent(model)
    chosen: dict[str, Any] = {"model": "openai:m", "model_url": provider.url}
    with registered():

        @handler("think")
        async def think(job: Job, n: int) -> str:
            return await job.agent(f"draft {n}", agent, "hello")

        async with JobApi.open(url, slots=AGENTS, **chosen) as api, api.working():
            for n in range(AGENTS):
                await api.enqueue("think", {"n": n})
            await until_open(provider, opened)

            async def all_running() -> bool:
                return await count(conn, RUNNING) == AGENTS

            await until(all_running, 30)
            assert await count(conn, BOOKED) == opened
            provider.answer()
            await api.idle()
    assert (await count(conn, DONE), await count(conn, BOOKED)) == (AGENTS, AGENTS)
    assert (provider.most, provider.asked) == (opened, AGENTS)


async def test_more_requests_than_one_client_has_connections_are_all_open(
    conn: Connection, database_url: str, provider: HeldProvider, small_clients: None
) -> None:
    await run_agents(conn, database_url, provider, None, opened=AGENTS)


@pytest.mark.parametrize("others", ["own client", "own limit"])
async def test_a_request_without_a_free_connection_is_not_booked(
    conn: Connection, database_url: str, provider: HeldProvider, others: str
) -> None:
    """Neither with a client of the user's own, nor with the operator's."""
    model: Model
    if others == "own client":
        http = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=2))
        client = AsyncOpenAI(base_url=provider.url, api_key="k", http_client=http)
        model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
    else:
        model = model_of("openai:m", url=provider.url, key="k", connections_max=2)
    with capture_logs() as logs:
        await run_agents(conn, database_url, provider, model, opened=2)
    told = [record for record in logs if record["event"] == "connections.taken"]
    assert [(record["model"], record["connections"]) for record in told] == [("openai:m", 2)]


async def test_a_stopped_request_gives_its_connection_back(
    provider: HeldProvider, small_clients: None
) -> None:
    model: Any = model_of("openai:m", url=provider.url, key="k")
    http: ManyClients = model.client._client
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(Agent(model).run, "hello")
        await until_open(provider, 3)
        assert http.open_requests == [2, 1]
        tasks.cancel_scope.cancel()
    assert http.open_requests == [0, 0]
    provider.answer()
    await Agent(model).run("hello")
    assert http.open_requests == [0, 0]


async def test_a_streamed_answer_keeps_its_connection_until_it_is_closed(
    provider: HeldProvider, small_clients: None
) -> None:
    provider.answer()
    model: Any = model_of("openai:m", url=provider.url, key="k")
    http: ManyClients = model.client._client
    stream = await model.client.chat.completions.create(model="m", messages=[], stream=True)
    assert http.open_requests == [1]
    async for _ in stream:
        pass
    await stream.close()
    assert http.open_requests == [0]


@pytest.mark.parametrize("provider_name", ["openai", "openai-responses", "anthropic"])
async def test_answers_are_read_in_turns_also_through_a_proxy(
    provider_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the HTTP library no longer has what this rests on, or a proxy is passed over."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    model: Any = model_of(f"{provider_name}:m", key="k")
    [client] = model.client._client._clients
    transports = [client._transport, *client._mounts.values()]
    pools = [transport._pool for transport in transports if transport is not None]
    assert len(pools) >= 2
    for pool in pools:
        assert isinstance(pool._network_backend, connections.Paced)
        assert pool._max_connections == connections.CONNECTIONS_OF_CLIENT
