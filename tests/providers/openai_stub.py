"""A stub of a model provider: real HTTP, scripted faults, and a bill of its own.

It speaks OpenAI's Embeddings, Chat Completions and Responses, and Anthropic's Messages (streamed
too; see `tests.providers.provider_faces`), and answers deterministically; a prompt can script its
answer (see `tests.providers.openai_chat`). Faults are scripted for the next requests (`script`), or
for all until `recover` (`always`), or happen at random. The bill holds what a real provider would
charge for: every answer it computed, whether or not the client received it. So the bill is
independent of our own books.

It also runs as a process of its own, for tests that kill workers:

    python -m tests.providers.openai_stub --bill bill.jsonl --seed 7 --faults 500=0.1,cut=0.1

It prints its URL, and appends a line to the bill before it answers. A random fault depends on the
seed, the request and how often it was sent, not on the order of clients, so a seed can be replayed.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.providers import openai_chat, usage_script
from tests.providers.faults import ANY_REFUSAL
from tests.providers.faults import CUT as CUT
from tests.providers.faults import DUPLICATE_TOOL_IDS as DUPLICATE_TOOL_IDS
from tests.providers.faults import EXCESSIVE_USAGE as EXCESSIVE_USAGE
from tests.providers.faults import FAULTS as FAULTS
from tests.providers.faults import GOOD as GOOD
from tests.providers.faults import INCONSISTENT_USAGE as INCONSISTENT_USAGE
from tests.providers.faults import MALFORMED as MALFORMED
from tests.providers.faults import MALFORMED_TOOL_JSON as MALFORMED_TOOL_JSON
from tests.providers.faults import MISSING_USAGE as MISSING_USAGE
from tests.providers.faults import REFUSALS as REFUSALS
from tests.providers.faults import SERVER_ERROR as SERVER_ERROR
from tests.providers.faults import Fault as Fault
from tests.providers.faults import slow as slow
from tests.providers.faults import too_many as too_many
from tests.providers.faults import wrong_dimensions as wrong_dimensions
from tests.providers.openai_embeddings import embeddings, inputs_of
from tests.providers.provider_faces import EMBEDDINGS, FACES, event_of
from worker.demo.provider.completions import Body, Reply, completion, tokens


@dataclass(frozen=True, slots=True)
class Request:
    """What the client sent."""

    path: str
    headers: Mapping[str, str]
    body: Body


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of the bill; `others` are classes of usage by the names of genai-prices."""

    path: str
    model: str
    request_id: str | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    written_tokens: int = 0
    thought_tokens: int = 0
    others: dict[str, int] = field(default_factory=dict[str, int])
    answered_model: str | None = None
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class BillLine:
    """A line of a bill file: a charge, or, if not `computed`, a refusal, which costs nothing.

    `at` is the time by this machine's clock, `fault` a name of `FAULTS`.
    """

    charge: Charge
    computed: bool
    fault: str | None
    at: float
    streamed: bool = False


class OpenAIStub:
    """The provider; use it as a context manager.

    `url` is the base URL for OpenAI's clients, `root` the one for Anthropic's.
    """

    def __init__(
        self,
        *,
        dimensions: int = 64,
        reply: Callable[[Body], str | Reply] | None = None,
        key: str | None = None,
        port: int = 0,
        bill_file: Path | None = None,
        faults: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.dimensions = dimensions
        self.reply = reply or openai_chat.scripted
        self.key = key
        self._bill_file = bill_file
        self._chances = dict(faults or {})
        self._seed = seed
        self._asked = Counter[str]()
        self.refuses_dimensions_field = False
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._bill: list[Charge] = []
        self._script: deque[Fault] = deque()
        self._always: Fault | None = None
        self._ways = deque(REFUSALS.values())
        self._refused: list[tuple[str, str | None, deque[Fault]]] = []
        self._poison: str | None = None
        self._shares: dict[str, int] = {}
        self._server = _server(self, port)
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
    def root(self) -> str:
        return self.url.removesuffix("/v1")

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
        """Apply these faults to the next requests, one each, in this order; `GOOD` is none."""
        with self._lock:
            self._script.extend(faults)

    def always(self, fault: Fault) -> None:
        """Apply this fault to every request without a scripted one, until `recover`."""
        with self._lock:
            self._always = fault

    def refuse(self, model: str, *faults: Fault, key: str | None = None) -> None:
        """Apply these faults to the requests of this model in turn; `key`: only to those of it."""
        with self._lock:
            self._refused.append((model, key, deque(faults)))

    def recover(self) -> None:
        with self._lock:
            self._script.clear()
            self._always = None
            self._refused.clear()
            self._poison = None

    def share(
        self, *, cached: int = 0, written: int = 0, for_an_hour: int = 0, thought: int = 0
    ) -> None:
        """Add so many tokens of these kinds to the usage of each chat from now on."""
        self._shares = {
            "cache_read_tokens": cached,
            "cache_write_tokens": written,
            "output_reasoning_tokens": thought,
        } | ({"cache_write_1h_tokens": for_an_hour} if for_an_hour else {})

    def refuse_texts_with(self, piece: str) -> None:
        """Refuse, with 400, every embedding request with a text that contains `piece`."""
        with self._lock:
            self._poison = piece

    def answer(self, request: Request) -> tuple[Fault, Body]:
        """The fault of this request, which may be `GOOD`, and its answer."""
        with self._lock:
            self._requests.append(request)
            drawn = self._next_fault(request)
            if drawn.status is None:
                drawn = self._refusal(request) or drawn
            fault = drawn.of(streamed=bool(request.body.get("stream")))
            if fault.status is not None or fault.before_all:
                nothing = Charge(request.path, _model(request), _request_id(request), 0, 0)
                self._write(request, nothing, drawn, computed=False)
                return fault, _error(request, fault)
            body, charge = self._computed(request)
            if fault.refuses and fault.at == "half":
                charge = replace(charge, output_tokens=charge.output_tokens // 2)
            self._bill.append(charge)
            self._write(request, charge, drawn, computed=True)
            return fault, body

    def _next_fault(self, request: Request) -> Fault:
        if self._script:
            return self._script.popleft()
        for model, key, faults in self._refused:
            if request.body.get("model") == model and key in (None, _key(request)):
                faults.rotate(-1)
                return faults[-1]
        return self._always or self._chance(request)

    def _chance(self, request: Request) -> Fault:
        if not self._chances:
            return GOOD
        asked = _asked(_chat(request))
        self._asked[asked] += 1
        drawn = random.Random(f"{self._seed} {self._asked[asked]} {asked}").random()
        for name, chance in self._chances.items():
            drawn -= chance
            if drawn < 0 and name == ANY_REFUSAL:
                self._ways.rotate(-1)
                return self._ways[-1]
            if drawn < 0:
                face = FACES.get(request.path)
                # What states no total cannot contradict it.
                untold = name == "inconsistent_usage" and face and not face.states_total
                return MISSING_USAGE if untold else FAULTS[name]
        return GOOD

    def _write(self, request: Request, charge: Charge, fault: Fault, *, computed: bool) -> None:
        """Write the line before the answer is sent, so that it is there if the client is killed."""
        if self._bill_file is not None:
            streamed = bool(request.body.get("stream"))
            line = BillLine(charge, computed, _fault_name(fault), time.time(), streamed)
            with self._bill_file.open("a") as bill:
                bill.write(json.dumps(asdict(line)) + "\n")

    def _refusal(self, request: Request) -> Fault | None:
        if self.key is not None and _key(request) != self.key:
            return Fault(401, message="incorrect API key provided")
        if request.path != EMBEDDINGS and request.path not in FACES:
            return Fault(404, message=f"unknown path {request.path}")
        if self.refuses_dimensions_field and "dimensions" in request.body:
            return Fault(400, message="this model does not support specifying dimensions")
        if self._poison is not None and any(
            self._poison in text for text in inputs_of(request.body)
        ):
            return Fault(400, message="an input is not allowed")
        return None

    def _computed(self, request: Request) -> tuple[Body, Charge]:
        model, request_id = _model(request), _request_id(request)
        if request.path == EMBEDDINGS:
            texts = inputs_of(request.body)
            count = sum(tokens(text) for text in texts)
            charge = Charge(request.path, model, request_id, count, 0)
            return embeddings(model, texts, count, self.dimensions), charge
        asked = _chat(request)
        reply = self.reply(asked)
        reply = Reply(reply) if isinstance(reply, str) else reply
        body = completion(model, len(self._bill), reply, asked)
        body = usage_script.used(body, asked, self._shares)
        return body, Charge(request.path, model, request_id, **usage_script.charged(body))


def bill_of(file: Path) -> list[BillLine]:
    """The lines of a bill file, oldest first."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [BillLine(Charge(**line.pop("charge")), **line) for line in lines]


def _fault_name(fault: Fault) -> str | None:
    return next((name for name, named in FAULTS.items() if named is fault), None)


def _asked(body: Body) -> str:
    """What identifies a request: its model, first message, and number of answers."""
    messages: list[Body] = body.get("messages", [])
    begun = [message["content"] for message in messages if message["role"] == "user"][:1]
    answered = sum(message["role"] == "assistant" for message in messages)
    return f"{body.get('model')} {answered} {begun or inputs_of(body)}"


def _chat(request: Request) -> Body:
    face = FACES.get(request.path)
    return face.chat_of(request.body) if face else request.body


def _key(request: Request) -> str:
    """The key, from either header; which one Anthropic's SDK sends depends on its version."""
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return bearer or request.headers.get("X-Api-Key", "")


def _model(request: Request) -> str:
    return str(request.body.get("model"))


def _request_id(request: Request) -> str | None:
    return request.headers.get("X-Request-Id") or request.headers.get("Idempotency-Key")


def _error(request: Request, fault: Fault) -> Body:
    face = FACES.get(request.path, FACES["/v1/chat/completions"])
    if fault.within:
        return face.within(fault.within, fault.message)
    return face.error(fault.status or 500, fault.message)


def _server(stub: OpenAIStub, port: int) -> ThreadingHTTPServer:
    class Handler(_Handler):
        provider = stub

    # A slow answer must not delay the end of the test.
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    return server


class _Handler(BaseHTTPRequestHandler):
    provider: OpenAIStub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        content = self.rfile.read(length)
        if len(content) < length:
            # The client died while it was sending.
            self.close_connection = True
            return
        path = self.path.partition("?")[0]
        request = Request(path, _titled(dict(self.headers.items())), json.loads(content))
        fault, body = self.provider.answer(request)
        threading.Event().wait(fault.seconds)
        try:
            if request.body.get("stream") and fault.status is None and not fault.within:
                self._stream(fault, body, request)
            else:
                self._send(fault, body, request)
        except OSError:
            # The client has disconnected.
            self.close_connection = True

    def _send(self, fault: Fault, body: Body, request: Request) -> None:
        if fault.status is None and not fault.within:
            body = fault.edit(body) if fault.edit else body
            face = FACES.get(request.path)
            body = face.answer_of(body) if face else body
        answer = (fault.plain if isinstance(fault.plain, str) else json.dumps(body)).encode()
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

    def _stream(self, fault: Fault, body: Body, request: Request) -> None:
        """Send server-sent events; the answer ends with the connection."""
        face = FACES[request.path]
        if fault.before_all:
            self._send_events(fault, [event_of(face.broken(fault.breaks or 0, fault.message))])
            return
        answer = face.answer_of(fault.edit(body) if fault.edit else body)
        events = face.stream(answer, request.body)
        half = events[: len(events) // 2]
        if fault.garble:
            events = [event[: len(event) // 2] + b"\n\n" for event in events]
        elif fault.cut:
            # With a piece of the next event, so that no client takes it for the end.
            events = [*half, b'data: {"id"']
        elif fault.ends:
            events = half
        elif fault.breaks is not None:
            shown = half if fault.at == "half" else events[: len(events) - face.closing]
            events = [*shown, event_of(face.broken(fault.breaks, fault.message))]
        self._send_events(fault, events)

    def _send_events(self, fault: Fault, events: list[bytes]) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            self.wfile.flush()
        if fault.cut:
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: tests read `requests`."""


def _titled(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.title(): value for name, value in headers.items()}


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.providers.openai_stub")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bill", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default="", help="500=0.1,cut=0.05: the probability of each")
    given = parser.parse_args()
    pairs = [pair.split("=") for pair in given.faults.split(",") if pair]
    unknown = sorted({name for name, _ in pairs} - FAULTS.keys() - {ANY_REFUSAL})
    if unknown:
        parser.error(f"unknown faults: {', '.join(unknown)}; known: {', '.join(FAULTS)}")
    faults = {name: float(chance) for name, chance in pairs}
    with OpenAIStub(port=given.port, bill_file=given.bill, faults=faults, seed=given.seed) as stub:
        print(stub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    _main()
