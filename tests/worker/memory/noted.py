"""An account that books nothing and notes how each request ended."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4


class Noted:
    """`endings` are the names of the endings, in their order; with the tokens where there are."""

    def __init__(self) -> None:
        self.endings: list[str] = []

    async def begin(self, texts: Sequence[str]) -> _Request:
        return _Request(self.endings)


class _Request:
    def __init__(self, endings: list[str]) -> None:
        self.request_id = uuid4().hex
        self._endings = endings

    async def answered(self, tokens: int | None, vectors: object) -> None:
        self._endings.append(f"answered {tokens}")

    async def spoilt(self, tokens: int | None, error: object) -> None:
        self._endings.append(f"spoilt {tokens}")

    async def refused(self, error: object) -> None:
        self._endings.append("refused")

    async def limited(self, error: object, wait_seconds: float | None) -> None:
        self._endings.append("limited")

    async def unsent(self, error: object) -> None:
        self._endings.append("unsent")

    async def lost(self, error: object) -> None:
        self._endings.append("lost")
