"""Handlers of the tests of traces; each queue is served by a worker of its own."""

import os
from decimal import Decimal
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from jobsworth import Answer, Job, Sending, Usage, handler
from tests.worker.tracing import SECRET

writer = Agent(TestModel(call_tools=["look_up"], custom_output_text=SECRET), name="writer")


@writer.tool_plain
def look_up(query: str) -> str:
    """What the agent calls."""
    return f"{SECRET} {query}"


@handler("trace.fetch", queue="trace-a")
async def fetch(job: Job, secret: str) -> str:
    async def send(_: Sending) -> Answer:
        return Answer(secret, Usage(12, 5), cost=Decimal("0.25"))

    await job.step("read", str.upper, secret)
    await job.call("ask", send, provider="acme", model="m-1", estimate=(100, 100))
    job.enqueue("trace.follow", {"secret": secret}, queue="trace-b")
    return f"{os.getpid()}"


@handler("trace.follow", queue="trace-b")
async def follow(job: Job, secret: str) -> str:
    raise ValueError(secret)


@handler("trace.write", queue="trace-b")
async def write(job: Job, secret: str) -> Any:
    decision = await job.ask(f"Write {secret}?", shows=secret)
    assert decision.approved
    return await job.agent("draft", writer, secret)
