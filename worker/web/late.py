"""An application that is made when its first request comes.

In: a function that makes it. Out: an ASGI application. The routes of the API take seconds of the
processor, and most daemons are never asked for any.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
import anyio.to_thread

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Late:
    """Made once, in a thread, so that the loop of the daemon goes on."""

    def __init__(self, make: Callable[[], Application]) -> None:
        self._make = make
        self._made: Application | None = None
        self._making = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._made is None:
            async with self._making:
                if self._made is None:
                    self._made = await anyio.to_thread.run_sync(self._make)
        await self._made(scope, receive, send)
