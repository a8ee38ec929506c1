"""Tokens of programs that act for a user or an agent.

In: what a token may do (scopes), and until when. Out: the token, shown once; only its hash is kept.
Invariant: nobody who reads the database can use a token.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_text
from db.errors import InvalidInput, NotFound, Refused, shown
from db.people.naming import check_name, existing
from db.pool import fetch_all, fetch_one, fetch_val

PREFIX = "jw_"
SECRET_BYTES = 32
# Its use is written down once in so many seconds, so that reading costs no write each time.
USE_SECONDS = 60
ALL_SCOPES = "*"


class Token(BaseModel):
    """A row of `api_tokens`, without the hash. The scope `*` stands for all."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    user_id: UUID | None
    agent_id: UUID | None
    name: str
    scopes: list[str]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    last_used_at: AwareDatetime | None
    revoked_at: AwareDatetime | None

    def allows(self, scope: str) -> bool:
        """Whether it has this scope."""
        return scope in self.scopes or ALL_SCOPES in self.scopes


class Issued(NamedTuple):
    """A token, and the text that a program sends, which nothing shows again."""

    token: Token
    text: str


TOKEN_COLUMNS: LiteralString = """
  k.id, k.team_id, k.user_id, k.agent_id, k.name, k.scopes, k.created_at, k.expires_at,
  k.last_used_at, k.revoked_at
"""

ISSUE: LiteralString = (
    """
insert into jobsworth.api_tokens as k (
  team_id, user_id, agent_id, name, hash, scopes, expires_at)
values (%(team_id)s, %(user_id)s, %(agent_id)s, %(name)s, %(hash)s, %(scopes)s,
  now() + %(expires_in)s::interval)
returning """
    + TOKEN_COLUMNS
)


async def issue(
    conn: AsyncConnection[Any],
    name: str,
    scopes: Sequence[str],
    *,
    team_id: UUID | None = None,
    user_id: UUID | None = None,
    agent_id: UUID | None = None,
    expires_in: timedelta | None = None,
) -> Issued:
    """A new token with these scopes; without `expires_in` it does not expire.

    Raises `InvalidInput` for a name or a scope that is no text, no scope at all, or a time that is
    over, and `Refused` for a team, user or agent that is not there.
    """
    if isinstance(scopes, str) or not scopes:
        raise InvalidInput(
            f"scopes {shown(scopes)} is not a list of scopes", "give some, like ['jobs:read']"
        )
    if expires_in is not None and expires_in <= timedelta():
        raise InvalidInput(f"expires_in {expires_in} is not positive", "leave it out for no expiry")
    text = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    values = {
        "team_id": team_id,
        "user_id": user_id,
        "agent_id": agent_id,
        "name": check_name("token", name),
        "hash": hash_of(text),
        "scopes": [check_name("scope", scope) for scope in scopes],
        "expires_in": expires_in,
    }
    issued = await fetch_one(conn, ISSUE, values, Token)
    assert issued is not None
    return Issued(issued, text)


# One statement: a token that is revoked meanwhile is not used.
USE: LiteralString = (
    """
with used as (
  update jobsworth.api_tokens k
  set last_used_at = now()
  where k.hash = %(hash)s and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now())
    and (k.last_used_at is null or k.last_used_at < now() - make_interval(secs => %(seconds)s))
)
select """
    + TOKEN_COLUMNS
    + """, k.expires_at <= now() as expired
from jobsworth.api_tokens k
where k.hash = %(hash)s
"""
)


class _Used(Token):
    expired: bool | None


async def use(conn: AsyncConnection[Any], text: str, scope: str | None = None) -> Token:
    """The token with this text, if it may be used (for `scope`); notes that it was used.

    Raises `NotFound` for one that is unknown, `Refused` for one that is revoked, expired or without
    the scope. No message has the text.
    """
    values = {"hash": hash_of(check_text("the token", text)), "seconds": USE_SECONDS}
    found = await fetch_one(conn, USE, values, _Used)
    if found is None:
        raise NotFound("there is no such token", "issue one: jobsworth token issue NAME --scope …")
    if found.revoked_at is not None or found.expired:
        state = "revoked" if found.revoked_at is not None else "expired"
        raise Refused(f"token {found.name} is {state}", "issue another one", "28000")
    if scope is not None and not found.allows(scope):
        raise Refused(
            f"token {found.name} is not for {shown(scope)}",
            f"it is for {', '.join(found.scopes)}; issue another one",
            "42501",
        )
    return Token.model_validate(found.model_dump(exclude={"expired"}))


ANY_ISSUED: LiteralString = "select exists (select 1 from jobsworth.api_tokens k)"


async def any_issued(conn: AsyncConnection[Any]) -> bool:
    """Whether a token was ever issued, revoked ones included: revoking the last opens nothing."""
    return bool(await fetch_val(conn, ANY_ISSUED))


REVOKE: LiteralString = (
    """
update jobsworth.api_tokens k
set revoked_at = coalesce(k.revoked_at, now())
where k.id = %(id)s
returning """
    + TOKEN_COLUMNS
)


async def revoke(conn: AsyncConnection[Any], token_id: UUID) -> Token:
    """Let nobody use a token any more. Raises `NotFound`."""
    revoked = await fetch_one(conn, REVOKE, {"id": token_id}, Token)
    return existing(revoked, "token", token_id)


LIST: LiteralString = (
    "select "
    + TOKEN_COLUMNS
    + """
from jobsworth.api_tokens k
where %(team_id)s::uuid is null or k.team_id = %(team_id)s::uuid
order by k.id desc
"""
)


async def list_tokens(conn: AsyncConnection[Any], team_id: UUID | None = None) -> list[Token]:
    """All tokens, or those of one team, newest first."""
    return await fetch_all(conn, LIST, {"team_id": team_id}, Token)


def hash_of(text: str) -> bytes:
    """The SHA-256 of a token's text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
