"""A proxy between a program and PostgreSQL that can fall silent as broken networks do."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CHUNK_BYTES = 65536


class Proxy:
    """Passes on what clients and the server say to each other, until told to `swallow`.

    Swallowing, it still reads from both, so their kernels get every acknowledgement, and passes
    nothing on. New connections are swallowed too unless `spare_new`.
    """

    def __init__(self, url: str) -> None:
        at = conninfo_to_dict(url)
        host, port = str(at["host"]), int(at.get("port") or 5432)
        self._unix = host.startswith("/")
        self._server = f"{host}/.s.PGSQL.{port}" if self._unix else (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = make_conninfo(
            url, host="127.0.0.1", port=self._listener.getsockname()[1], sslmode="disable"
        )
        self._swallowed: set[socket.socket] = set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._swallow_new = self._cut_new = False
        self.lost = 0
        """How many answers were lost because of `lose_answer_to`."""
        self._lost_words: bytes | None = None
        self._unanswered: set[socket.socket] = set()
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._flows.set()
        for pair in self._pairs:
            _close(pair)

    def swallow(self, *, spare_new: bool = False) -> None:
        """From now on, let nothing through."""
        self._swallow_new = not spare_new
        self._swallowed.update(one for pair in self._pairs for one in pair)

    def cut(self) -> None:
        """Close every connection, and each new one at once."""
        self._cut_new = True
        for pair in self._pairs:
            _close(pair)

    def lose_answer_to(self, words: bytes) -> None:
        """Close the next connection that says these words, in place of the server's answer."""
        self._lost_words = words

    def drop(self) -> None:
        """Read nothing any more, neither from these connections nor from new ones."""
        self._flows.clear()

    def heal(self) -> None:
        """Let new connections through; those that were swallowed stay silent."""
        self._swallow_new = self._cut_new = False
        self._flows.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX if self._unix else socket.AF_INET)
                with suppress(OSError):
                    server.connect(self._server)
                self._pairs.append((client, server))
                if self._cut_new:
                    _close((client, server))
                if self._swallow_new:
                    self._swallowed.update((client, server))
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._flows.wait()
                if self._lost_words is not None and self._lost_words in data:
                    self._lost_words = None
                    self._unanswered.add(target)
                if source in self._unanswered:
                    self.lost += 1
                    _close((source, target))
                    return
                if source not in self._swallowed:
                    target.sendall(data)
        if source not in self._swallowed:
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)


def _close(pair: tuple[socket.socket, socket.socket]) -> None:
    for one in pair:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
