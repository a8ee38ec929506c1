"""An OpenAI-compatible provider under test: real HTTP, scripted faults, and a bill of its own.

`POST /v1/embeddings` and `POST /v1/chat/completions` answer deterministically. Faults are scripted
for the next requests (`script`), or for all until `recover` (`always`). The bill holds what a real
provider would charge for: every answer it computed, whether or not the client got to see it. So it
is a source independent of our own books.
"""

from __future__ import annotations

import json
import socket
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Body = dict[str, Any]
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request instead of a good answer.

    Without a `status`, the answer is computed (and billed) and then spoilt: `cut` closes the
    connection half-way through it, `garble` replaces it by broken JSON, `edit` changes it.
    `seconds` delays whatever comes.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    message: str = "scripted fault"
    seconds: float = 0.0
    cut: bool = False
    garble: bool = False
    edit: Callable[[Body], Any] | None = None


GOOD = Fault()
SERVER_ERROR = Fault(500, message="internal error")
CUT = Fault(cut=True)
MALFORMED = Fault(garble=True)


def too_many(retry_after: str | None = None) -> Fault:
    """429, with `Retry-After` if given."""
    return Fault(
        429,
        headers={} if retry_after is None else {"Retry-After": retry_after},
        message="rate limit reached",
    )


def slow(seconds: float) -> Fault:
    return Fault(seconds=seconds)


def wrong_dimensions(dimensions: int) -> Fault:
    def edit(body: Body) -> Body:
        for item in body["data"]:
            item["embedding"] = [0.5] * dimensions
        return body

    return Fault(edit=edit)


@dataclass(frozen=True, slots=True)
class Request:
    """What the client sent."""

    path: str
    headers: Mapping[str, str]
    body: Body


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of the bill."""

    path: str
    model: str
    request_id: str | None
    input_tokens: int
    output_tokens: int


class OpenAIStub:
    """The provider; use it as a context manager. `url` is what a client takes as its base URL."""

    def __init__(
        self,
        *,
        dimensions: int = 64,
        reply: Callable[[Body], str] | None = None,
        key: str | None = None,
    ) -> None:
        self.dimensions = dimensions
        self.reply = reply or _echo
        self.key = key
        self.refuses_dimensions_field = False
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._bill: list[Charge] = []
        self._script: deque[Fault] = deque()
        self._always: Fault | None = None
        self._poison: str | None = None
        self._server = _server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def requests(self) -> list[Request]:
        """Every request so far, oldest first, refused ones too."""
        with self._lock:
            return list(self._requests)

    @property
    def bill(self) -> list[Charge]:
        with self._lock:
            return list(self._bill)

    def billed_tokens(self) -> dict[str, tuple[int, int]]:
        """Input and output tokens of the whole bill, by model."""
        inputs, outputs = Counter[str](), Counter[str]()
        for charge in self.bill:
            inputs[charge.model] += charge.input_tokens
            outputs[charge.model] += charge.output_tokens
        return {model: (inputs[model], outputs[model]) for model in inputs}

    def script(self, *faults: Fault) -> None:
        """These happen to the next requests, one each, in this order; `GOOD` is a good answer."""
        with self._lock:
            self._script.extend(faults)

    def always(self, fault: Fault) -> None:
        """This happens to every request that has no scripted fault, until `recover`."""
        with self._lock:
            self._always = fault

    def recover(self) -> None:
        with self._lock:
            self._script.clear()
            self._always = None
            self._poison = None

    def refuse_texts_with(self, piece: str) -> None:
        """Embedding a text that contains `piece` is refused with 400, with all sent beside it."""
        with self._lock:
            self._poison = piece

    def answer(self, request: Request) -> tuple[Fault, Body]:
        """The fault that happens to this request (maybe `GOOD`), and its answer."""
        with self._lock:
            self._requests.append(request)
            fault = self._script.popleft() if self._script else self._always or GOOD
            if fault.status is None:
                fault = self._refusal(request) or fault
            if fault.status is not None:
                return fault, _error(fault)
            body, charge = self._computed(request)
            self._bill.append(charge)
            return fault, body

    def _refusal(self, request: Request) -> Fault | None:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return Fault(401, message="incorrect API key provided")
        if request.path not in ("/v1/embeddings", "/v1/chat/completions"):
            return Fault(404, message=f"unknown path {request.path}")
        if request.body.get("stream"):
            return Fault(400, message="this provider does not stream")
        if self.refuses_dimensions_field and "dimensions" in request.body:
            return Fault(400, message="this model does not support specifying dimensions")
        if self._poison is not None and any(self._poison in text for text in _inputs(request.body)):
            return Fault(400, message="an input is not allowed")
        return None

    def _computed(self, request: Request) -> tuple[Body, Charge]:
        model = str(request.body["model"])
        request_id = request.headers.get("X-Request-Id") or request.headers.get("Idempotency-Key")
        if request.path == "/v1/embeddings":
            texts = _inputs(request.body)
            tokens = sum(_tokens(text) for text in texts)
            charge = Charge(request.path, model, request_id, tokens, 0)
            return _embeddings(model, texts, tokens, self.dimensions), charge
        text = self.reply(request.body)
        charge = Charge(
            request.path, model, request_id, _prompt_tokens(request.body), _tokens(text)
        )
        return _completion(charge, text, len(self._bill)), charge


def _inputs(body: Body) -> list[str]:
    given = body.get("input", [])
    return [given] if isinstance(given, str) else list(given)


def _embeddings(model: str, texts: list[str], tokens: int, dimensions: int) -> Body:
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(text, dimensions)}
        for index, text in enumerate(texts)
    ]
    return {
        "object": "list",
        "model": model,
        # The order is not promised: a client has to go by the index.
        "data": data[::-1],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(text: str, dimensions: int) -> list[float]:
    vector = [0.0] * dimensions
    for word in text.lower().split():
        vector[zlib.crc32(word.encode()) % dimensions] += 1.0
    return vector


def _completion(charge: Charge, text: str, number: int) -> Body:
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": charge.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": charge.input_tokens,
            "completion_tokens": charge.output_tokens,
            "total_tokens": charge.input_tokens + charge.output_tokens,
        },
    }


def _echo(body: Body) -> str:
    last = body["messages"][-1]["content"]
    return f"You said: {last}"


def _prompt_tokens(body: Body) -> int:
    return sum(_tokens(str(message.get("content") or "")) for message in body["messages"])


def _tokens(text: str) -> int:
    return max(1, -(-len(text) // CHARACTERS_PER_TOKEN))


def _error(fault: Fault) -> Body:
    return {"error": {"message": fault.message, "type": "scripted", "code": fault.status}}


def _server(stub: OpenAIStub) -> ThreadingHTTPServer:
    class Handler(_Handler):
        provider = stub

    # A handler in a slow answer must not hold up the end of the test.
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    return server


class _Handler(BaseHTTPRequestHandler):
    provider: OpenAIStub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        request = Request(self.path, dict(self.headers.items()), json.loads(content))
        request = Request(request.path, _titled(request.headers), request.body)
        fault, body = self.provider.answer(request)
        threading.Event().wait(fault.seconds)
        try:
            self._send(fault, body)
        except OSError:
            # The client lost patience.
            self.close_connection = True

    def _send(self, fault: Fault, body: Body) -> None:
        answer = json.dumps(fault.edit(body) if fault.edit else body).encode()
        if fault.garble:
            answer = answer[: len(answer) // 2]
        self.send_response(fault.status or 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if fault.cut:
            self.wfile.write(answer[: len(answer) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests read `requests`."""


def _titled(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.title(): value for name, value in headers.items()}
