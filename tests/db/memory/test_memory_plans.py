"""The indexes of memories that few have something in, each by the statement that needs it.

Counted by the scans of the statement itself, because EXPLAIN does not show those of the functions
and triggers that it runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, LiteralString
from uuid import UUID

from db.diagnosis import violations
from db.memory import memories, outbox, spaces, status, switch
from db.memory.spaces import SpaceKey
from db.memory.status import MemoryStatus
from db.pool import Connection, execute, fetch_val

QUERY = [1.0, 0.0, 0.0]
MOST, SOME, FEW = 6_000, 60, 3
KEY = SpaceKey("test", "m", 3)
OTHER = SpaceKey("test", "another", 3)

THREAD: LiteralString = """
with t as (
  insert into jobsworth.chat_threads (platform, chat_id) values ('test', '1') returning id
)
insert into jobsworth.chat_messages (thread_id, role, text)
select t.id, 'user', 'hi' from t, generate_series(1, %(most)s)
"""
# The first are inactive, the next hold for a time, the next have evidence: one message each.
LOAD: LiteralString = """
insert into jobsworth.memories (source_kind, text, status, valid_to, message_ids)
select 'note', 'the tower is ' || n || ' metres high',
  case when n <= %(some)s then 'retracted' else 'active' end::jobsworth.memory_status,
  case when n between %(some)s + 1 and %(some)s + %(few)s then now() + interval '1 hour' end,
  case when n between 2 * %(some)s + 1 and 3 * %(some)s then array[m.id] end
from generate_series(1, %(most)s) n
left join (
  select c.id, row_number() over (order by c.id) as no from jobsworth.chat_messages c
) m on m.no = n - 2 * %(some)s
"""
SUPERSEDE: LiteralString = """
update jobsworth.memories m set status = 'superseded', superseded_by = (
  select s.id from jobsworth.memories s where s.id > m.id order by s.id limit 1)
where m.status = 'retracted'
"""
SWITCHED: LiteralString = """
update jobsworth.embedding_outbox o set space_id = %(space_id)s
where o.memory_id in (select x.memory_id from jobsworth.embedding_outbox x limit %(some)s)
"""
ANALYZE: LiteralString = """
analyze jobsworth.memories, jobsworth.embedding_outbox, jobsworth.chat_messages
"""
SCANS: LiteralString = "select pg_stat_get_xact_numscans(('jobsworth.' || %(name)s)::regclass)"
MESSAGE: LiteralString = """
select m.message_ids[1] from jobsworth.memories m where m.message_ids is not null limit 1
"""
DELETE: LiteralString = "delete from jobsworth.memories m where m.id = %(id)s"
SUCCESSOR: LiteralString = """
select m.superseded_by from jobsworth.memories m where m.superseded_by is not null limit 1
"""

Work = Callable[[], Awaitable[Any]]


async def scans(conn: Connection, work: Work, *names: str) -> list[int]:
    """How often work scans each index, and how often it reads a whole table of that name."""

    async def counted() -> list[int]:
        return [await fetch_val(conn, SCANS, {"name": name}) for name in names]

    async with conn.transaction(force_rollback=True):
        before = await counted()
        await work()
        after = await counted()
    return [now - then for now, then in zip(after, before, strict=True)]


async def load(conn: Connection) -> UUID:
    """Returns the id of a memory that supersedes another one."""
    await execute(conn, THREAD, {"most": SOME})
    await execute(conn, LOAD, {"most": MOST, "some": SOME, "few": FEW})
    await execute(conn, SUPERSEDE)
    space = await spaces.get_or_create(conn, KEY)
    await spaces.get_or_create(conn, OTHER)
    await execute(conn, SWITCHED, {"space_id": space.id, "some": SOME})
    await execute(conn, ANALYZE)
    return await fetch_val(conn, SUCCESSOR)


async def test_what_few_memories_have_is_found_without_reading_the_others(
    conn: Connection,
) -> None:
    successor = await load(conn)
    message = await fetch_val(conn, MESSAGE)
    space = await spaces.get_or_create(conn, KEY)

    async def retract_message() -> None:
        assert await status.retract_message(conn, message) == 1

    async def delete() -> None:
        await execute(conn, DELETE, {"id": successor})

    async def search() -> None:
        await memories.search(conn, space, QUERY)

    async def show() -> None:
        assert (await status.get(conn, successor)).supersedes

    async def list_inactive() -> None:
        found = await status.list_memories(conn, status=MemoryStatus.SUPERSEDED)
        assert len(found) == SOME

    async def look_for_violations() -> None:
        assert await violations.list_violations(conn) == []

    async def lease() -> None:
        assert len(await outbox.lease_due(conn, 10, 60, KEY, fresh=False)) == 10

    async def progress() -> None:
        assert (await switch.progress(conn, space)).left == SOME

    async def begin() -> None:
        await switch.begin(conn, await spaces.get_or_create(conn, OTHER))

    wrong: list[str] = []
    for index, work in (
        ("memories_message_ids", retract_message),
        ("memories_superseded_by", delete),
        ("memories_superseded_by", show),
        ("memories_bounded", search),
        ("memories_inactive", list_inactive),
        ("memories_inactive", look_for_violations),
        ("memories_superseded_by", look_for_violations),
        ("embedding_outbox_switched", lease),
        ("embedding_outbox_switched", progress),
        ("embedding_outbox_switched", begin),
    ):
        table = "embedding_outbox" if index.startswith("embedding") else "memories"
        used, whole = await scans(conn, work, index, table)
        if not used:
            wrong.append(f"{work.__name__} does not use {index}")
        # Another part of the view of violations reads whole tables.
        if whole and work is not look_for_violations:
            wrong.append(f"{work.__name__} reads all of {table}")
    assert wrong == []
