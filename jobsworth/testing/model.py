"""A model that answers by script, over HTTP, and keeps its own bill.

In: what it shall answer, in order. Out: requests as they came, and a charge for each answer. It
speaks OpenAI's Chat Completions, whole and streamed, so the agent, the provider's SDK, the metering
and the books are the real ones.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from worker.demo.provider.bill import Charge
from worker.demo.provider.completions import Body, Reply, ToolUse, completion, text_of
from worker.money.calls import REQUEST_ID_HEADER

__all__ = ["Answer", "Charge", "Refusal", "ScriptedModel", "ToolUse"]

MODEL = "openai:gpt-5-mini"
"""A model whose price is known."""
CHAT = "/v1/chat/completions"

PIECE_CHARACTERS = 12
SHUTDOWN_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is none: a status as 429 or 500, and for how long the client shall wait."""

    status: int
    message: str = "refused by the test"
    retry_after_seconds: int | None = None


Answer = str | ToolUse | tuple[str | ToolUse, ...] | Refusal | Callable[[Body], Any]


class ScriptedModel:
    """A model for agents under test, at `url`.

    Once its script is used up it echoes the last message.
    """

    def __init__(self) -> None:
        self.requests: list[Body] = []
        """The requests so far, as OpenAI's API defines them, oldest first."""
        self.bill: list[Charge] = []
        """What was charged so far: a line for each answer, refusals are free."""
        self._script: deque[Answer] = deque()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answers(self, *script: Answer) -> None:
        """Add to the script, one for each request.

        A text, a `ToolUse`, a tuple of them, a `Refusal`; or a function of the request that returns
        one of these.
        """
        self._script.extend(script)

    @property
    def tokens(self) -> tuple[int, int]:
        """Input and output tokens charged so far."""
        return sum(c.input_tokens for c in self.bill), sum(c.output_tokens for c in self.bill)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()

    def serve(self, body: Body, request_id: str) -> Body | Refusal:
        """Answer a request, after billing it."""
        with self._lock:
            self.requests.append(body)
            number = len(self.requests)
            answer = self._script.popleft() if self._script else _echo(body)
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, Refusal):
            return answer
        made = completion(str(body.get("model")), number, _reply(answer), body)
        usage = made["usage"]
        charge = Charge(
            request_id, made["model"], usage["prompt_tokens"], usage["completion_tokens"]
        )
        with self._lock:
            self.bill.append(charge)
        return made


def _echo(body: Body) -> str:
    return f"You said: {text_of(body['messages'][-1])}"


def _reply(answer: Any) -> Reply:
    parts = cast(tuple[object, ...], answer) if isinstance(answer, tuple) else (answer,)
    texts = [part for part in parts if isinstance(part, str)]
    tools = tuple(part for part in parts if isinstance(part, ToolUse))
    if len(texts) + len(tools) != len(parts):
        raise TypeError(f"a model answers with text and ToolUse, not {answer!r}")
    return Reply("".join(texts) or None, tools)


def _chunks(answer: Body) -> Iterator[Body]:
    """The same answer as a stream."""
    head = {key: answer[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"
    [choice] = answer["choices"]
    message = choice["message"]
    text = message["content"] or ""
    deltas: list[Body] = [{"role": "assistant", "content": ""}]
    deltas += [
        {"content": text[start : start + PIECE_CHARACTERS]}
        for start in range(0, len(text), PIECE_CHARACTERS)
    ]
    deltas += [
        {"tool_calls": [{"index": index, **call}]}
        for index, call in enumerate(message.get("tool_calls", []))
    ]
    for delta in deltas:
        yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    end: Body = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    yield {**head, "choices": [end]}
    yield {**head, "choices": [], "usage": answer["usage"]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, model: ScriptedModel) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Buffered: header and body in separate packets would wait for an acknowledgement (Nagle).
    wbufsize = -1

    def do_POST(self) -> None:
        assert isinstance(self.server, _Server)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != CHAT:
            self._refuse(Refusal(404, f"{self.path} does not exist, only {CHAT}"))
            return
        body: Body = json.loads(content)
        try:
            answer = self.server.model.serve(body, self.headers.get(REQUEST_ID_HEADER, ""))
        except Exception as error:
            answer = Refusal(500, f"the script raised {type(error).__name__}: {error}")
        if isinstance(answer, Refusal):
            self._refuse(answer)
        elif body.get("stream"):
            lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in _chunks(answer)]
            self._send(200, "".join([*lines, "data: [DONE]\n\n"]), "text/event-stream")
        else:
            self._send(200, json.dumps(answer))

    def _refuse(self, refusal: Refusal) -> None:
        error = {"message": refusal.message, "type": "test", "code": refusal.status}
        after = refusal.retry_after_seconds
        headers = {} if after is None else {"Retry-After": str(after)}
        self._send(refusal.status, json.dumps({"error": error}), headers=headers)

    def _send(
        self,
        status: int,
        text: str,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: `requests` and `bill` say what was served."""
