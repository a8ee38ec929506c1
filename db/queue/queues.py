"""Queues: named streams of jobs, which can be paused.

In: a name. Out: whether workers may claim from it. A queue gets its row when it is first paused.
Running jobs are not affected.
"""

from typing import Any, LiteralString

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput
from db.pool import execute, fetch_all, fetch_one
from db.transactions import transaction


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
    """Stop claims from the queue; running jobs go on. `changed_at` is when it was first paused."""
    return await _set_paused(conn, name, paused=True)


WAKE: LiteralString = "select jobsworth.wake()"


async def resume(conn: AsyncConnection[Any], name: str) -> Queue:
    """Allow claims from the queue again, and wake the workers."""
    async with transaction(conn):
        queue = await _set_paused(conn, name, paused=False)
        await execute(conn, WAKE)
    return queue


LIST: LiteralString = """
select q.name, q.paused, q.changed_at
from jobsworth.queues q
order by q.name
"""


async def list_all(conn: AsyncConnection[Any]) -> list[Queue]:
    """The queues that have ever been paused, by name."""
    return await fetch_all(conn, LIST, None, Queue)


async def _set_paused(conn: AsyncConnection[Any], name: str, *, paused: bool) -> Queue:
    if not name.strip() or "\0" in name:
        raise InvalidInput(
            f"{name!r} is not the name of a queue",
            "give a name; jobs are in queue default by default",
        )
    queue = await fetch_one(conn, SET_PAUSED, {"name": name, "paused": paused}, Queue)
    assert queue is not None, "an upsert returns its row"
    return queue
