"""How a browser is let in: by the cookie of a token, or as the API lets anybody in.

In: a request. Out: a connection in the caller's scope. Invariant: a page is read in the caller's
own role, and an action is about rows that this caller was shown.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from fastapi import Request

from db.pool import Connection
from worker.api.access import Caller, Gate, Seen

TOKEN_COOKIE = "jobsworth_token"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who was let in: a connection in their scope, their name, and whether they may act."""

    conn: Connection
    who: str
    may_write: bool
    signed_in: bool
    caller: Caller

    @property
    def team_id(self) -> UUID | None:
        """The team whose rows alone this visitor sees; None: all."""
        return self.caller.team_id


class Door:
    """Lets browsers in."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    @asynccontextmanager
    async def reading(self, request: Request, noun: str) -> AsyncGenerator[Visitor]:
        """A transaction that only reads. Raises `Unauthorized`, `Forbidden`."""
        caller = await self._caller(request)
        caller.require(f"{noun}:read")
        async with self._gate.access(caller).reading() as conn:
            yield self._visitor(request, caller, noun, conn)

    @asynccontextmanager
    async def acting(
        self, request: Request, noun: str, seen: Sequence[Seen] = (), *, keeps_to_team: bool = False
    ) -> AsyncGenerator[Visitor]:
        """A connection for an action about what `seen` finds in the caller's scope; without it,
        about the whole installation, unless the action keeps to the caller's team by itself.
        Raises `Unauthorized`, `Forbidden`.
        """
        caller = await self._caller(request)
        caller.require(f"{noun}:write")
        if not seen and not keeps_to_team:
            caller.require_installation()
        async with self._gate.access(caller).acting(*seen) as conn:
            yield self._visitor(request, caller, noun, conn)

    async def check(self, text: str) -> None:
        """Raises `Unauthorized` for a token that lets nobody in."""
        await self._gate.admit_text(text)

    async def _caller(self, request: Request) -> Caller:
        text = request.cookies.get(TOKEN_COOKIE)
        return await (self._gate.admit_text(text) if text else self._gate.admit(request))

    def _visitor(self, request: Request, caller: Caller, noun: str, conn: Connection) -> Visitor:
        signed_in = TOKEN_COOKIE in request.cookies
        may_write = caller.may(f"{noun}:write")
        return Visitor(conn, caller.signature, may_write, signed_in, caller)
