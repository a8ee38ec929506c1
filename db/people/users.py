"""Users: the people whom a platform sends, by that platform's own ids.

In: an external id, which is any text. Out: the user that has it; created if there is none.
"""

from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit
from db.documents import to_payload, to_text
from db.people.naming import LIMIT_MAX, check_name, existing, id_or_name
from db.pool import fetch_all, fetch_one


class User(BaseModel):
    """A row of `users`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    external_id: str | None
    name: str | None
    metadata: dict[str, Any]
    created_at: AwareDatetime
    updated_at: AwareDatetime


USER_COLUMNS: LiteralString = """
  u.id, u.external_id, u.name, u.metadata, u.created_at, u.updated_at
"""

SAVE: LiteralString = (
    """
insert into jobsworth.users as u (external_id, name, metadata)
values (%(external_id)s, %(name)s, coalesce(%(metadata)s::jsonb, '{}'))
on conflict on constraint one_user_per_external_id do update
set name = coalesce(excluded.name, u.name),
  metadata = coalesce(%(metadata)s::jsonb, u.metadata)
returning """
    + USER_COLUMNS
)


async def save(
    conn: AsyncConnection[Any],
    external_id: str | None,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> User:
    """The user with this external id, created or changed as given; what is left out stays.

    Without an external id a new user is created. Raises `InvalidInput` for an empty one.
    """
    values = {
        "external_id": None if external_id is None else check_name("external id", external_id),
        "name": None if name is None else to_text(name),
        "metadata": None if metadata is None else to_payload(metadata, "the metadata of a user"),
    }
    saved = await fetch_one(conn, SAVE, values, User)
    assert saved is not None
    return saved


GET: LiteralString = (
    "select "
    + USER_COLUMNS
    + """
from jobsworth.users u
where u.id = %(id)s or u.external_id = %(name)s
"""
)


async def get(conn: AsyncConnection[Any], user: UUID | str) -> User:
    """The user with this id, or this external id (a text). Raises `NotFound`."""
    return existing(await fetch_one(conn, GET, id_or_name(user), User), "user", user)


LIST: LiteralString = (
    "select "
    + USER_COLUMNS
    + """
from jobsworth.users u
where %(before_id)s::uuid is null or u.id < %(before_id)s::uuid
order by u.id desc
limit %(limit)s
"""
)


async def list_users(
    conn: AsyncConnection[Any], *, limit: int = 100, before_id: UUID | None = None
) -> list[User]:
    """Users, newest first. For the next page, pass the last id of this one as `before_id`."""
    check_limit(limit, LIMIT_MAX)
    return await fetch_all(conn, LIST, {"limit": limit, "before_id": before_id}, User)
