"""Who asks, what they may do, and the connection on which they are asked for it.

In: a request. Out: a `Caller`, and transactions in that caller's scope. Invariant: rows of another
team are kept back by row-level security, in the role of the API, not by a condition that a route
could forget. An order is given with a worker's rights, but only about rows that were seen so first.

Where no token was ever issued, only this machine is answered, without a token: whoever may connect
to a port of this machine is taken for a person at it. A proxy would make everybody that person, so
a request that came through one is refused, and one from a page of another site too.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import Depends, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from db.errors import InvalidInput, NotFound, Refused
from db.people import agents, roles, scope, tokens, users
from db.people.tokens import Token
from db.pool import Connection, Database
from worker.api.problems import Forbidden, RolesMissing, Unauthorized

Seen = Callable[[Connection], Awaitable[object]]
Authenticate = Callable[[Request], Awaitable["Caller"]]

BEARER = HTTPBearer(
    auto_error=False, description="A token of `jobsworth token issue NAME --scope …`."
)
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
ISSUE = (
    "issue a token: jobsworth token issue NAME --scope '*', and send authorization: Bearer TOKEN"
)
# What `set role` fails with: no such role; not a member of it.
NO_ROLE = ("22023", "42501")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Without a team they see every team's rows. `actors` are the names under which this
    caller's runs are; empty: a program, or a person, that is nobody's token.
    """

    name: str
    scopes: frozenset[str] = frozenset({tokens.ALL_SCOPES})
    team_id: UUID | None = None
    user_id: UUID | None = None
    agent_id: UUID | None = None
    actors: frozenset[str] = frozenset()
    person: str | None = None
    read_only: bool = False

    def may(self, needed: str) -> bool:
        """Whether this caller has a scope like `jobs:write`."""
        if self.read_only and needed.endswith(":write"):
            return False
        return needed in self.scopes or tokens.ALL_SCOPES in self.scopes

    def require(self, needed: str) -> None:
        """Raises `Forbidden` unless this caller has the scope."""
        if self.may(needed):
            return
        if self.read_only:
            raise Forbidden(f"{needed} is not allowed here: this API only reads", "ask another one")
        held = ", ".join(sorted(self.scopes))
        raise Forbidden(
            f"token {self.name} is not for {needed}, it is for {held}",
            f"issue one that is: jobsworth token issue NAME --scope {needed}",
        )

    def require_installation(self) -> None:
        """Raises `Forbidden` for a caller of one team: what belongs to no team is not theirs."""
        if self.team_id is not None:
            raise Forbidden(
                f"token {self.name} is of one team, and this is for the whole installation",
                "use a token without a team: jobsworth token issue NAME --scope …",
            )

    @property
    def signature(self) -> str:
        """The name under which a decision of this caller is kept."""
        return self.person or self.name

    @property
    def sees_all_runs(self) -> bool:
        """Whether runs of other actors are shown too."""
        return not self.actors or self.may("runs:any")


@dataclass(frozen=True, slots=True)
class Access:
    """A caller, and the database as this caller may use it."""

    database: Database
    caller: Caller
    request_id: str | None = None

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Connection]:
        """A read-only transaction that shows the rows of the caller's team, or all."""
        async with self.database.connection() as conn, self._scope(conn):
            yield conn

    @asynccontextmanager
    async def acting(self, *seen: Seen) -> AsyncGenerator[Connection]:
        """A connection that may do what a worker may, each statement committed by itself.

        First each of `seen` must find its row in the caller's scope; they raise `NotFound`.
        """
        async with self.database.connection() as conn:
            if seen and self.caller.team_id is not None:
                async with self._scope(conn):
                    for find in seen:
                        await find(conn)
            yield conn

    async def exists(self, find: Seen) -> bool:
        """Whether there is such a row for anybody: what tells `Forbidden` from `NotFound`."""
        async with self.database.connection() as conn:
            try:
                await find(conn)
            except NotFound:
                return False
            return True

    @asynccontextmanager
    async def _scope(self, conn: Connection) -> AsyncGenerator[None]:
        role = roles.role_name(conn.schema, "api")
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(scope.reading(conn, self.caller.team_id, role))
            except Refused as error:
                if error.sqlstate not in NO_ROLE:
                    raise
                raise RolesMissing(
                    f"this server cannot enter the role {role}, which keeps teams apart: "
                    f"{error.message}",
                    f"run: jobsworth roles create; then: grant {role} to {conn.info.user}",
                ) from error
            yield


class Gate:
    """Lets callers in, by their tokens or as `authenticate` says."""

    def __init__(
        self,
        database: Database,
        *,
        read_only: bool = False,
        authenticate: Authenticate | None = None,
    ) -> None:
        self.database = database
        self._read_only = read_only
        self._authenticate = authenticate

    async def admit(self, request: Request) -> Caller:
        """The caller of a request. Raises `Unauthorized`."""
        if self._authenticate is not None:
            return await self._authenticate(request)
        given = request.headers.get("authorization")
        if given is None:
            return await self._admit_local(request)
        kind, _, text = given.partition(" ")
        if kind.lower() != "bearer" or not text.strip():
            raise Unauthorized("the authorization header is not a bearer token", ISSUE)
        return await self.admit_text(text.strip())

    async def admit_text(self, text: str) -> Caller:
        """The caller of a token. Raises `Unauthorized`."""
        async with self.database.connection() as conn:
            try:
                token = await tokens.use(conn, text)
            except NotFound as error:
                raise Unauthorized(error.message, ISSUE) from error
            except Refused as error:
                raise Unauthorized(error.message, error.remedy) from error
            actors = await _actors(conn, token)
            return Caller(
                name=token.name,
                scopes=frozenset(token.scopes),
                team_id=token.team_id,
                user_id=token.user_id,
                agent_id=token.agent_id,
                actors=frozenset(actors),
                person=actors[0] if actors else None,
                read_only=self._read_only,
            )

    def access(self, caller: Caller, request_id: str | None = None) -> Access:
        """The database, as this caller may use it."""
        return Access(self.database, caller, request_id)

    async def _admit_local(self, request: Request) -> Caller:
        async with self.database.connection() as conn:
            if await tokens.any_issued(conn):
                raise Unauthorized("this request has no token", ISSUE)
        if not _from_here(request):
            raise Unauthorized(
                "no token was issued yet, so only requests from this machine are answered", ISSUE
            )
        return Caller(name="local", read_only=self._read_only)


def may(needed: str) -> Any:
    """The dependency of a route: the `Access` of a caller who has this scope."""

    async def enter(request: Request, _: Annotated[Any, Security(BEARER)]) -> Access:
        gate: Gate = request.app.state.gate
        caller = await gate.admit(request)
        caller.require(needed)
        _check_query(request)
        return gate.access(caller, request.scope.get("request_id"))

    return Depends(enter)


def _check_query(request: Request) -> None:
    # A filter with a wrong name would otherwise be no filter.
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    contract = request.app.openapi()["paths"][route.path_format][request.method.lower()]
    known = sorted(one["name"] for one in contract.get("parameters", []) if one["in"] == "query")
    for name in request.query_params:
        if name not in known:
            raise InvalidInput(
                f"{route.path} has no parameter {name!r:.60}",
                f"it has {', '.join(known)}" if known else "leave it out",
            )


async def _actors(conn: Connection, token: Token) -> list[str]:
    found: list[str | None] = []
    if token.user_id is not None:
        found += [(await users.get(conn, token.user_id)).external_id, str(token.user_id)]
    if token.agent_id is not None:
        agent = await agents.find(conn, token.agent_id)
        found += [agent.name if agent else None, str(token.agent_id)]
    return [name for name in found if name]


def _from_here(request: Request) -> bool:
    if request.client is None or not _is_loopback(request.client.host):
        return False
    if any(name in request.headers for name in FORWARDED):
        return False
    # A page of another site, and a name of another site that was pointed at this machine.
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if not _is_loopback(host):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
