"""Connections to the providers of models, for as many requests as there are agents.

In: requests of many agents. Out: the same, each on a connection of its own. Invariant: what cannot
be sent yet is not booked: an agent waits for its connection before its call is in the books.

An HTTP client looks through all its connections for each request: with 4,000 in one client that
took 71 % of a core. So the operator's model sends by many clients of a few hundred connections
each; they are made as they are needed. A model of a user's own has one client with a limit of its
own, past which requests would wait inside it, booked and not sent.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import anyio
import httpx2
from pydantic_ai.models import Model

from worker import events
from worker.llm.turns import Turns
from worker.log import get_logger
from worker.repeats import Repeats

# The cost of a request grows with the connections of its client: 0.25 ms at 250.
CONNECTIONS_OF_CLIENT = 250

log = get_logger()


class ManyClients(httpx2.AsyncClient):
    """One client to an SDK, which sends each request by the first of its clients that has room.

    It opens as many clients as requests need; `connections_max` is what `free` keeps to.
    """

    def __init__(self, make: Callable[[], httpx2.AsyncClient], connections_max: int) -> None:
        """`make` makes a client for `CONNECTIONS_OF_CLIENT` connections."""
        first = make()
        super().__init__(
            transport=_Unused(), timeout=first.timeout, follow_redirects=first.follow_redirects
        )
        self.connections_max = connections_max
        self._turns = Turns()
        self._make = make
        self._clients = [self._paced(first)]
        self.open_requests = [0]
        """Of each client, how many requests are open."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        n = self._client_with_room()
        self.open_requests[n] += 1
        try:
            response = await self._clients[n].send(request, **options)
        except BaseException:
            self.open_requests[n] -= 1
            raise
        if response.is_closed:
            self.open_requests[n] -= 1
        else:
            response.stream = _Counted(response.stream, lambda: self._ended(n))  # pyright: ignore[reportArgumentType]
        for hook in self.event_hooks["response"]:
            await hook(response)
        return response

    async def aclose(self) -> None:
        await super().aclose()
        for client in self._clients:
            await client.aclose()

    def _client_with_room(self) -> int:
        for n, count in enumerate(self.open_requests):
            if count < CONNECTIONS_OF_CLIENT:
                return n
        self._clients.append(self._paced(self._make()))
        self.open_requests.append(0)
        return len(self._clients) - 1

    def _ended(self, n: int) -> None:
        self.open_requests[n] -= 1

    def _paced(self, client: httpx2.AsyncClient) -> httpx2.AsyncClient:
        """The client, which reads answers in turns: ten thousand may come at once."""
        found: Any = client
        for transport in (found._transport, *found._mounts.values()):
            pool = getattr(transport, "_pool", None)
            if pool is not None:
                pool._network_backend = Paced(pool._network_backend, self._turns)
        return client


class Paced:
    """The network of a connection pool, or a stream of it: each piece that is read takes a turn."""

    def __init__(self, inner: Any, turns: Turns) -> None:
        self._inner = inner
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def connect_tcp(self, *args: Any, **options: Any) -> Any:
        return Paced(await self._inner.connect_tcp(*args, **options), self._turns)

    async def start_tls(self, *args: Any, **options: Any) -> Any:
        return Paced(await self._inner.start_tls(*args, **options), self._turns)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        piece = await self._inner.read(max_bytes, timeout)
        await self._turns.take()
        return piece


class _Unused(httpx2.AsyncBaseTransport):
    """The transport of a client that sends by other clients."""


class _Counted(httpx2.AsyncByteStream):
    """The body of a streamed answer; says once when it is closed."""

    def __init__(self, body: httpx2.AsyncByteStream, closed: Callable[[], None]) -> None:
        self._body = body
        self._closed: Callable[[], None] | None = closed

    @property
    def elapsed(self) -> Any:
        """What the response reads when it is closed."""
        return getattr(self._body, "elapsed", None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(cast("AsyncGenerator[bytes]", aiter(self._body))) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        closed, self._closed = self._closed, None
        try:
            await self._body.aclose()
        finally:
            if closed is not None:
                closed()


class _Places:
    """The connections of one HTTP client, of which each request takes one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.repeats = Repeats()
        self.free = anyio.Semaphore(most)


_places: WeakKeyDictionary[Any, _Places] = WeakKeyDictionary()


@asynccontextmanager
async def connection_of(model: Model) -> AsyncGenerator[None]:
    """Hold a connection of the model's HTTP client within the block; wait until one is free.

    A client whose limit is not known counts as one without a limit.
    """
    places = _places_of(model)
    if places is None:
        yield
        return
    if places.free.value == 0 and places.repeats.due(events.CONNECTIONS_TAKEN):
        log.warning(events.CONNECTIONS_TAKEN, model=model.model_id, connections=places.most)
    async with places.free:
        yield


def _places_of(model: Model) -> _Places | None:
    client: Any = getattr(getattr(model, "client", None), "_client", None)
    if client is None:
        return None
    places = _places.get(client)
    if places is None and (most := _connections_max(client)):
        places = _places[client] = _Places(most)
    return places


def _connections_max(client: Any) -> int | None:
    """How many requests this HTTP client has open at once; None if that is not known."""
    if isinstance(client, ManyClients):
        return client.connections_max
    pool = getattr(getattr(client, "_transport", None), "_pool", None)
    if getattr(pool, "_http2", False):
        return None  # one connection carries many requests
    most = getattr(pool, "_max_connections", None)
    return most if isinstance(most, int) else None
