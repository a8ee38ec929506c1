"""A provider whose answers take long: it holds many requests open at little cost.

    python -m bench.slow_provider --open 10000

It prints its base URL. It answers nothing until so many requests are open, and then each after the
time that it took to get there: they are answered as they came. `GET /count` tells how many requests
are open, the most that were open at once, and how many were answered.
"""

import argparse
import asyncio
import json
import resource
from collections.abc import Callable

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

    def __init__(self, wanted: int) -> None:
        self.open = self.most = self.answered = 0
        self._wanted = wanted
        self._waiting: list[tuple[float, Callable[[], None]]] = []

    def begin(self, answer: Callable[[], None]) -> None:
        """Count one more open request, and call `answer` when it is time to."""
        self.open += 1
        self.most = max(self.most, self.open)
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time(), answer))
        if self.open >= self._wanted:
            seconds = loop.time() - self._waiting[0][0]
            for began, waiting in self._waiting:
                loop.call_at(began + seconds, waiting)
            self._waiting.clear()

    def end(self, *, answered: bool) -> None:
        """Count one open request less."""
        self.open -= 1
        self.answered += answered

    def told(self) -> dict[str, int]:
        """What `GET /count` answers."""
        return {"open": self.open, "most": self.most, "answered": self.answered}


class Connection(asyncio.Protocol):
    """One connection: one request after the other, none in advance."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._read = b""
        self._asked = False

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
            self._send(json.dumps(self._count.told()).encode())
            return
        self._asked = True
        self._count.begin(self._give_answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._asked:
            self._asked = False
            self._count.end(answered=False)

    def _give_answer(self) -> None:
        if not self._asked:
            return
        self._asked = False
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


async def _serve(wanted: int) -> None:
    count = Count(wanted)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(count), "127.0.0.1", 0, backlog=BACKLOG
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(prog="slow_provider", description=__doc__)
    parser.add_argument("--open", type=int, required=True, help="open requests to wait for")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve(given.open))


if __name__ == "__main__":
    main()
