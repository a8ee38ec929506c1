"""What tests of concurrent handlers share: ways to run branches together, and a paid call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx

from db.money.calls import Answer, Usage
from jobsworth import Job, Sending
from tests.providers.openai_stub import OpenAIStub

Branch = Callable[[], Awaitable[Any]]


async def gathered(*branches: Branch) -> list[Any]:
    return list(await asyncio.gather(*(branch() for branch in branches)))


async def in_task_group(*branches: Branch) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_coroutine(branch)) for branch in branches]
    return [task.result() for task in tasks]


async def in_anyio_group(*branches: Branch) -> list[Any]:
    results: dict[int, Any] = {}

    async def run(n: int, branch: Branch) -> None:
        results[n] = await branch()

    async with anyio.create_task_group() as group:
        for n, branch in enumerate(branches):
            group.start_soon(run, n, branch)
    return [results[n] for n in range(len(branches))]


async def forgiving(*branches: Branch) -> list[Any]:
    """As handlers often do it; what was raised comes back as a value."""
    coroutines = (branch() for branch in branches)
    return list(await asyncio.gather(*coroutines, return_exceptions=True))


async def _coroutine(branch: Branch) -> Any:
    return await branch()


TOGETHER = {
    "gather": gathered,
    "forgiving gather": forgiving,
    "TaskGroup": in_task_group,
    "anyio": in_anyio_group,
}


async def paid(job: Job, provider: OpenAIStub, name: str = "think") -> Any:
    """A paid call over real HTTP, which stands on the provider's bill."""

    async def send(sending: Sending) -> Answer:
        body = {"model": "chat-1", "messages": [{"role": "user", "content": name}]}
        async with httpx.AsyncClient() as client:
            sending.sent()
            reply = await client.post(
                f"{provider.url}/chat/completions",
                json=body,
                headers={"X-Request-Id": sending.request_id},
                timeout=60,
            )
        reply.raise_for_status()
        document = reply.json()
        usage = Usage(document["usage"]["prompt_tokens"], document["usage"]["completion_tokens"])
        return Answer(document["choices"][0]["message"]["content"], usage)

    return await job.call(name, send, provider="openai", model="chat-1", estimate=(100, 100))
