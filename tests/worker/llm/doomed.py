"""Agents for daemons that are killed: handlers of a process of its own.

`JOBSWORTH_TEST_PROVIDER` is the address of the provider, `JOBSWORTH_TEST_DIARY` the file into which
the tool that may not run twice writes.
"""

import os
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

from pydantic_ai import Agent, RunContext
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from jobsworth import Job, handler

SCRIPT = """[[
call search {"query": "a"} + call search {"query": "b"} ;;
call charge {"euros": 5} ;;
say {results}
]]"""


@handler("doomed.agent", failures_max=50)
async def agent(job: Job, n: int, streamed: bool = False) -> str:
    """Searches twice side by side, charges once somebody has approved, and tells."""
    agent = Agent(
        OpenAIChatModel(
            "chat-1",
            provider=OpenAIProvider(
                base_url=os.environ["JOBSWORTH_TEST_PROVIDER"], api_key="sk-test"
            ),
        )
    )

    @agent.tool_plain
    async def search(query: str) -> str:
        return f"found {query}"

    @agent.tool_plain(requires_approval=True)
    def charge(euros: int) -> str:
        with Path(os.environ["JOBSWORTH_TEST_DIARY"]).open("a") as diary:
            diary.write(f"{n}\n")
        return f"{euros} charged for {n}"

    async def listen(ctx: RunContext[Any], events: AsyncIterable[Any]) -> None:
        async for _ in events:
            pass

    listener = listen if streamed else None
    return await job.agent(
        "pay", agent, f"job {n} {SCRIPT}", event_stream_handler=listener, effects={"search": "pure"}
    )
