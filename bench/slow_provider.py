"""A provider whose answers take long: it holds many requests open at little cost.

    python -m bench.slow_provider --seconds 60

It prints its base URL, and answers every chat completion after so many seconds. `GET /count` tells
how many requests are open, the most that were open at once, and how many were answered.
"""

import argparse
import asyncio
import json
import resource

BACKLOG = 4096
ANSWER = json.dumps(
    {
        "id": "chatcmpl-slow",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "slow",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "The answer, given late."},
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 26},
    }
).encode()


class Count:
    """The requests of all connections."""

    def __init__(self) -> None:
        self.open = self.most = self.answered = 0

    def begin(self) -> None:
        """Count one more open request."""
        self.open += 1
        self.most = max(self.most, self.open)

    def end(self, *, answered: bool) -> None:
        """Count one open request less."""
        self.open -= 1
        self.answered += answered


class Connection(asyncio.Protocol):
    """One connection: one request after the other, none in advance."""

    def __init__(self, count: Count, seconds: float) -> None:
        self._count = count
        self._seconds = seconds
        self._read = b""
        self._answer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            return
        self._read = b""
        if head.startswith(b"GET"):
            self._send(json.dumps(vars(self._count)).encode())
            return
        self._count.begin()
        loop = asyncio.get_running_loop()
        self._answer = loop.call_later(self._seconds, self._give_answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None:
            self._answer.cancel()
            self._count.end(answered=False)

    def _give_answer(self) -> None:
        self._answer = None
        self._count.end(answered=True)
        self._send(ANSWER)

    def _send(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def _serve(seconds: float) -> None:
    count = Count()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(count, seconds), "127.0.0.1", 0, backlog=BACKLOG
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(prog="slow_provider", description=__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="time until each answer")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve(given.seconds))


if __name__ == "__main__":
    main()
