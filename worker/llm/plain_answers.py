"""A plain document in place of the stream that was asked for: the error in it is kept.

Gateways send such an error with status 200. The SDKs look for the events of a stream in it, find
none, and drop it. In: the answers of a model's HTTP client, before its SDK reads them. Out: the
document, for whoever made the request.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any

from pydantic_ai.models import Model

DOCUMENT_BYTES_MAX = 1_000_000


class PlainAnswer:
    """What came in place of a stream: `document` is any JSON; `came` is False if nothing did."""

    def __init__(self) -> None:
        self.came = False
        self.document: Any = None

    @contextmanager
    def heeded(self, model: Model) -> Generator[None]:
        """Within the block, a request of this model notes here that a document came."""
        client: Any = getattr(getattr(model, "client", None), "_client", None)
        hooks: Any = getattr(client, "event_hooks", {})
        after: list[Any] = hooks.get("response", [])
        if _note not in after:
            after.append(_note)
        token = _waiting.set(self)
        try:
            yield
        finally:
            _waiting.reset(token)


_waiting: ContextVar[PlainAnswer | None] = ContextVar("jobsworth_plain_answer", default=None)


async def _note(response: Any) -> None:
    """A hook of the HTTP client. What it has read, the SDK reads again from memory."""
    waiting = _waiting.get()
    if waiting is None or response.status_code != HTTPStatus.OK:
        return
    if "json" not in response.headers.get("content-type", "").lower():
        return
    content = await response.aread()
    waiting.came = True
    try:
        waiting.document = json.loads(content) if len(content) <= DOCUMENT_BYTES_MAX else None
    except (ValueError, RecursionError):
        waiting.document = None
