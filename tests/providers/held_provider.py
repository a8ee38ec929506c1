"""A provider that keeps every request waiting until it is told to answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from bench.slow_provider import ANSWER


class HeldProvider:
    """`open` requests wait for their answer now; `most` did at once."""

    def __init__(self) -> None:
        self.url = ""
        self.open = self.most = self.asked = 0
        self._answers = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncGenerator[HeldProvider]:
        """It listens on a free port until the block ends."""
        provider = cls()
        server = await asyncio.start_server(provider._serve, "127.0.0.1", 0)
        provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield provider
        finally:
            provider.answer()
            server.close()

    def answer(self) -> None:
        """Answer what is open, and whatever comes, at once."""
        self._answers.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                [length] = [
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ]
                body = json.loads(await reader.readexactly(length))
                self.asked += 1
                self.open += 1
                self.most = max(self.most, self.open)
                await self._answers.wait()
                self.open -= 1
                writer.write(_streamed() if body.get("stream") else _whole())
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def _whole() -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}"
    return head.encode() + b"\r\n\r\n" + ANSWER


def _streamed() -> bytes:
    body = b"data: [DONE]\n\n"
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body
