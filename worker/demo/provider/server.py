"""The demo's provider: an OpenAI-compatible endpoint that answers by the offline rules.

In: chat completions, by HTTP. Out: answers, and a bill with a line for each answer, written before
the answer is sent: a provider charges for what it has computed, also where the client never reads
it. It is a process of its own:

    python -m worker.demo.provider.server BILL

prints its URL, and serves until it is killed. It answers under the name of any requested model.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

from worker.demo.provider.bill import Charge
from worker.demo.provider.completions import Body, Reply, ToolUse, completion, text_of, texts_of
from worker.modes.offline_model import CARRIED_OUT, CLASSIFIED, PLANNED, OfflineModel
from worker.money.calls import REQUEST_ID_HEADER

PATH = "/v1/chat/completions"


class Provider(ThreadingHTTPServer):
    """Answers requests, and writes the bill."""

    daemon_threads = True
    # Two daemons open a connection for each job that they run.
    request_queue_size = 64

    def __init__(self, bill: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._bill = bill
        self._lock = threading.Lock()
        self._served = 0

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def serve(self, body: Body, request_id: str) -> Body:
        """Answer a request, after billing it."""
        reply = reply_to(body)
        with self._lock:
            self._served += 1
            answer = completion(str(body.get("model")), self._served, reply, body)
            usage = answer["usage"]
            charge = Charge(
                request_id, answer["model"], usage["prompt_tokens"], usage["completion_tokens"]
            )
            with self._bill.open("a") as bill:
                bill.write(json.dumps(asdict(charge)) + "\n")
        return answer


def reply_to(body: Body) -> Reply:
    """Answer a request by the offline rules."""
    offered = [tool["function"]["name"] for tool in body.get("tools") or ()]
    outputs = [name for name in offered if name in (CLASSIFIED, PLANNED, CARRIED_OUT)]
    asked = ModelRequestParameters(output_tools=[ToolDefinition(name=name) for name in outputs])
    said = asyncio.run(OfflineModel().request(list(_messages(body)), None, asked))
    texts = [part.content for part in said.parts if isinstance(part, TextPart)]
    tools = [
        ToolUse(part.tool_name, part.args_as_json_str())
        for part in said.parts
        if isinstance(part, ToolCallPart)
    ]
    return Reply("".join(texts) or None, tuple(tools))


def _messages(body: Body) -> Iterator[ModelMessage]:
    """The conversation in the form of the offline model, which ignores instructions."""
    for message in body["messages"]:
        match message["role"]:
            case "user":
                texts = texts_of(message)
                content = texts[0] if len(texts) == 1 else texts
                yield ModelRequest([UserPromptPart(content)])
            case "assistant" if text_of(message):
                yield ModelResponse([TextPart(text_of(message))])
            case "tool":
                returned = _document(text_of(message))
                if returned is not None:
                    called = str(message.get("tool_call_id"))
                    yield ModelRequest([ToolReturnPart("tool", returned, called)])
            case _:
                pass


def _document(text: str) -> dict[str, Any] | None:
    """What a tool returned; None for a validation error, which is not a JSON object."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None  # pyright: ignore[reportUnknownVariableType]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Buffered: header and body in separate packets would wait for an acknowledgement (Nagle).
    wbufsize = -1

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, answer = self._answer(content)
        try:
            self._send(status, answer)
        except OSError:
            # The client has gone; the answer is on the bill all the same.
            self.close_connection = True

    def _answer(self, content: bytes) -> tuple[int, Body]:
        assert isinstance(self.server, Provider)
        if self.path != PATH:
            return 404, _error(f"{self.path} does not exist, only {PATH}")
        try:
            body: Any = json.loads(content)
            request_id = self.headers.get(REQUEST_ID_HEADER)
            if body.get("stream") or request_id is None:
                return 400, _error(f"send {REQUEST_ID_HEADER}, and do not ask for a stream")
            return 200, self.server.serve(body, request_id)
        except Exception as error:
            return 500, _error(f"{type(error).__name__}: {error}")

    def _send(self, status: int, answer: Body) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the bill says what was served."""


def _error(message: str) -> Body:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def main() -> None:
    with Provider(Path(sys.argv[1])) as provider:
        print(provider.url, flush=True)
        provider.serve_forever()


if __name__ == "__main__":
    main()
