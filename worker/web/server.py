"""Serves the application inside the worker's own event loop.

In: an address and an application. Out: an open port until cancelled. Invariant: it leaves the
worker's signals and logs alone; a port that cannot be opened is an error of one line at the start;
and it ends within `STOP_SECONDS` of a cancellation, whatever its clients do.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import anyio
import uvicorn
from anyio.abc import TaskStatus
from fastapi import FastAPI

from db.errors import JobsworthError
from worker import events
from worker.log import get_logger

GRACE_SECONDS = 1
STOP_SECONDS = 2.0
CONNECTIONS_MAX = 200
BACKLOG = 256

logger = get_logger()


class ListenError(JobsworthError):
    """The health endpoint's address cannot be opened."""


async def listen(host: str, port: int) -> socket.socket:
    """Open the port, before anything else is started; 0 is any free port. Raises `ListenError`.

    Connections queue until `serve` accepts them.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _bound(family, found[0][4])
    except OSError as error:
        failure = _failure(host, port, error)
        logger.error(events.HEALTH_FAILED, reason=failure.message, remedy=failure.remedy)
        raise failure from error


async def serve(
    listener: socket.socket,
    app: FastAPI,
    *,
    logged: bool = True,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until cancelled, then close the port; `task_group.start` returns the URL, which
    is logged, too, unless the caller says it in its own way.
    """
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    url = _url(listener)

    def started() -> None:
        if logged:
            logger.info(events.HEALTH_LISTENED, url=url)
        task_status.started(url)

    server.on_started = started
    await _until_cancelled(server, listener)


# uvicorn does not clean up when cancelled, so it is shielded and told to exit.
async def _until_cancelled(server: "_Server", listener: socket.socket) -> None:
    shield = anyio.CancelScope(shield=True)

    async def run() -> None:
        with shield, listener:
            await server.serve([listener])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            await anyio.sleep_forever()
        finally:
            server.should_exit = True
            shield.deadline = anyio.current_time() + STOP_SECONDS


class _Server(uvicorn.Server):
    on_started: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_started()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _failure(host: str, port: int, error: OSError) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return ListenError(
            f"port {port} on {host} is in use by another program",
            "set JOBSWORTH_HTTP_PORT to a free port, to 0 for any, or to off",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ListenError(
            f"this user is not allowed to open port {port} on {host}",
            "set JOBSWORTH_HTTP_PORT to 1024 or higher",
        )
    return ListenError(
        f"{host} is not an address of this machine: {error.strerror or error}",
        "set JOBSWORTH_HTTP_HOST to 127.0.0.1, or to 0.0.0.0 for all of its addresses",
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
