"""Queues: named streams of jobs, which can be paused.

In: a name. Out: whether workers may claim from it. A queue needs no row here until somebody pauses
it; jobs that run already go on.
"""

from typing import Any, LiteralString

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput
from db.pool import execute, fetch_all, fetch_one


class Queue(BaseModel):
    """A row of `queues`."""

    model_config = ConfigDict(frozen=True)

    name: str
    paused: bool
    changed_at: AwareDatetime


SET_PAUSED: LiteralString = """
insert into jobsworth.queues as q (name, paused)
values (%(name)s, %(paused)s)
on conflict (name) do update
set paused = excluded.paused,
  changed_at = case when q.paused = excluded.paused then q.changed_at else now() end
returning q.name, q.paused, q.changed_at
"""


async def pause(conn: AsyncConnection[Any], name: str) -> Queue:
    """Let no job of the queue be claimed; what runs goes on. `changed_at`: paused since."""
    return await _set_paused(conn, name, paused=True)


WAKE: LiteralString = "select jobsworth.wake()"


async def resume(conn: AsyncConnection[Any], name: str) -> Queue:
    """Let the jobs of the queue be claimed again."""
    async with conn.transaction():
        queue = await _set_paused(conn, name, paused=False)
        await execute(conn, WAKE)
    return queue


LIST: LiteralString = """
select q.name, q.paused, q.changed_at
from jobsworth.queues q
order by q.name
"""


async def list_all(conn: AsyncConnection[Any]) -> list[Queue]:
    """The queues that were ever paused, by name."""
    return await fetch_all(conn, LIST, None, Queue)


async def _set_paused(conn: AsyncConnection[Any], name: str, *, paused: bool) -> Queue:
    if not name.strip() or "\0" in name:
        raise InvalidInput(f"queue {name!r} has no name", "name it; the first one is default")
    queue = await fetch_one(conn, SET_PAUSED, {"name": name, "paused": paused}, Queue)
    assert queue is not None, "an upsert returns its row"
    return queue
