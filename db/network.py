"""What every connection asks of the network: after which time a silent one counts as dead.

In: the URL of a database. Out: the URL with these bounds, unless it names its own. The kernel ends
a connection whose packets are lost (keepalives, `tcp_user_timeout`) and one that cannot be made
(`connect_timeout`). A proxy that swallows what it acknowledges looks well to the kernel. For it,
each side also bounds its waits: see `db.pool` and the heartbeat.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# The kernel gives up 6 s after the last packet that was acknowledged, whether the connection was
# idle then or had something to send.
BOUNDS: dict[str, int] = {
    "connect_timeout": 4,
    "keepalives_idle": 2,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 6000,
}


def bounded_url(url: str) -> str:
    """The URL as a connection string with `BOUNDS`; what the URL itself says wins.

    A text that is no connection string comes back as it is: connecting says what is wrong with it.
    """
    try:
        named = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return url
    return make_conninfo(url, **{name: n for name, n in BOUNDS.items() if name not in named})


@contextmanager
def cut_after(seconds: float, connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Cut the connection if the block takes longer: whoever waits for its answer gets an error.

    For a connection that is used without an event loop, where a wait has no other bound.
    """
    over = threading.Event()
    cutting = threading.Lock()

    def cut_if_late() -> None:
        with cutting:
            if not over.is_set():
                cut(connection)

    timer = threading.Timer(seconds, cut_if_late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with cutting:
            over.set()


def cut(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Shut the connection's socket: a statement that waits for its answer fails at once."""
    with suppress(OSError, psycopg.OperationalError):
        descriptor = socket.socket(fileno=connection.fileno())
        try:
            descriptor.shutdown(socket.SHUT_RDWR)
        finally:
            descriptor.detach()
