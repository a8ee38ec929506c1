"""Threads by their last message, with counts of their messages.

In: filters. Out: a page of threads, the one that spoke last first. Invariant: a page costs one look
into the index of messages for each thread that the filters leave, and no more for long threads:
messages are counted only up to `COUNTED_MAX` for each thread of the page.
"""

from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime

from db.arguments import check_limit
from db.conversations.threads import LIMIT_MAX, THREAD_COLUMNS, Thread, ThreadStatus
from db.pool import fetch_all

COUNTED_MAX = 1_000


class RecentThread(Thread):
    """A thread, when its last message came, and how many of its newest 1,000 messages have each
    role.

    `last_id` is the id of its last message, or its own before the first one.
    """

    last_id: UUID
    last_message_at: AwareDatetime | None
    messages: int
    """1,000 stands for 1,000 or more."""
    by_role: dict[str, int]


# The function is in migrations/schema/conversations/recent.sql.
LIST_RECENT: LiteralString = (
    "select "
    + THREAD_COLUMNS
    + """,
  r.last_id, r.last_message_at, r.messages, r.by_role
from jobsworth.recent_threads(
  threads => %(limit)s, status => %(status)s::jobsworth.thread_status, user_id => %(user_id)s,
  agent_id => %(agent_id)s, team_id => %(team_id)s, platform => %(platform)s,
  before_id => %(before_id)s, counted => %(counted)s) r
cross join lateral (
  select x.* from jobsworth.chat_threads x where x.id = r.thread_id offset 0
) t
order by r.last_id desc
"""
)


async def list_recent(
    conn: AsyncConnection[Any],
    *,
    status: ThreadStatus | None = None,
    user_id: UUID | None = None,
    agent_id: UUID | None = None,
    team_id: UUID | None = None,
    platform: str | None = None,
    limit: int = 100,
    before_id: UUID | None = None,
) -> list[RecentThread]:
    """The threads that spoke last, at most `limit` (1 to 1,000); without `status`, all but the
    deleted ones. For the next page, pass the last `last_id` of this one as `before_id`.
    """
    check_limit(limit, LIMIT_MAX)
    values = {
        "status": status,
        "user_id": user_id,
        "agent_id": agent_id,
        "team_id": team_id,
        "platform": platform,
        "limit": limit,
        "before_id": before_id,
        "counted": COUNTED_MAX,
    }
    return await fetch_all(conn, LIST_RECENT, values, RecentThread)
