"""Conversations with workers in the test's own loop, which use a provider's model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, LiteralString
from uuid import UUID

import worker.modes
from db.conversations import messages
from db.queue.jobs import Job
from tests.providers.openai_stub import OpenAIStub
from tests.worker.job_api import JobApi

assert worker.modes.__all__, "importing it registers the handlers"

THREAD: LiteralString = """
insert into jobsworth.chat_threads (platform, chat_id) values ('test', gen_random_uuid()::text)
returning id
"""
OF_MESSAGE: LiteralString = """
select j.id from jobsworth.reactive_jobs j where j.trigger_message_id = %(id)s order by j.id
"""
OF_MODE: LiteralString = """
select j.id from jobsworth.reactive_jobs j where j.mode = %(mode)s order by j.id
"""


class Chat(JobApi):
    """Conversations with workers that use a provider's model."""

    thread_id: UUID

    async def open_thread(self) -> None:
        """Talk in a new thread from here on."""
        self.thread_id = await self.value(THREAD)

    async def say(self, text: str) -> list[Job]:
        """Say something, work until nothing moves; all jobs that came of it, in their order."""
        async with self.database.connection() as connection:
            received = await messages.receive(connection, self.thread_id, text, "classify")
        await self.work()
        return await self.jobs_of(received.message.id)

    async def jobs_of(self, message_id: UUID) -> list[Job]:
        return [await self.job(row["id"]) for row in await self.rows(OF_MESSAGE, id=message_id)]

    async def only(self, mode: str) -> Job:
        [row] = await self.rows(OF_MODE, mode=mode)
        return await self.job(row["id"])


@asynccontextmanager
async def chatting(url: str, provider: OpenAIStub, **settings: Any) -> AsyncGenerator[Chat]:
    chosen: dict[str, Any] = {"model": "openai:chat-1", "model_url": provider.url}
    async with Chat.open(url, **{**chosen, **settings}) as chat:
        assert isinstance(chat, Chat)
        await chat.open_thread()
        yield chat
        assert await chat.violations() == []
