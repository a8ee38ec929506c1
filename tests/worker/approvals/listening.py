"""What tests of webhooks share: an address that listens, and one round of deliveries."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import httpx
import pytest

from db.approvals import approvals
from db.pool import Connection

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

HOSTS = ("127.0.0.1",)


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        return json.loads(self.body)


class Listener:
    """An address that answers as it was told to, the last answer again and again."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[int] = [200]
        self.retry_after: str | None = None
        self.held = threading.Event()
        self.held.set()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                listener.requests.append(Request(self.path, headers, body))
                listener.held.wait(30)
                answers = listener.answers
                status = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", "/elsewhere")
                if listener.retry_after is not None:
                    self.send_header("retry-after", listener.retry_after)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def listener() -> Generator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@asynccontextmanager
async def client(seconds: float = 10) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        timeout=seconds, follow_redirects=False, trust_env=False
    ) as client:
        yield client


async def ask(conn: Connection, **options: Any) -> UUID:
    return (await approvals.create(conn, "Ship it?", shown={"n": 1}, **options)).id


def signed_by(request: Request, secret: str) -> bool:
    """As the specification of Standard Webhooks says, written down once more."""
    key = base64.b64decode(secret[6:])
    content = b".".join(
        [
            request.headers["webhook-id"].encode(),
            request.headers["webhook-timestamp"].encode(),
            request.body,
        ]
    )
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in request.headers["webhook-signature"].split()
