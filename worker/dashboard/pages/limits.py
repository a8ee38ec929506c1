"""A limit of jobs: its keys, who holds its slots, and another bound.

In: a limit's name. Out: one page of it; the limit changed or removed, of which waiting jobs hear in
the same transaction.
"""

from collections.abc import Mapping

from fastapi import Response

from db.errors import InvalidInput, NotFound
from db.limits import job_limits
from db.limits.job_limits import LimitUse
from db.pool import Connection
from worker.dashboard.frame import Frame, Said, answer

HOLDERS = 20


async def one(conn: Connection, frame: Frame, name: str) -> Response:
    limit = await _find(conn, name)
    keys = await job_limits.keys(conn, name)
    key = frame.query.get("key", keys[0].key if keys else "")
    return answer(
        frame,
        "limit.html",
        page="system",
        asking=0,
        limit=limit,
        keys=keys,
        key=key,
        holders=await job_limits.holders(conn, name, key, HOLDERS) if limit.slots else [],
    )


async def act(
    conn: Connection, frame: Frame, name: str, action: str, fields: Mapping[str, str]
) -> Said:
    """Change or remove it; returns what to say."""
    limit = await _find(conn, name)
    match action:
        case "change":
            number = _number(fields.get("bound", ""))
            if limit.slots:
                await job_limits.set_limit(conn, name, slots=number)
            else:
                await job_limits.set_limit(conn, name, rate=number)
            return Said(f"Limit {name} is {number:,} now; jobs that run already count for it.")
        case "remove":
            await job_limits.remove(conn, name)
            return Said(f"Limit {name} holds nothing back any more.", to=frame.url("system"))
        case _:
            raise NotFound(f"there is no action {action!r}", "choose one of the page's buttons")


async def _find(conn: Connection, name: str) -> LimitUse:
    found = next((each for each in await job_limits.list_all(conn) if each.name == name), None)
    if found is None:
        raise NotFound(f"there is no limit {name!r}", "the limits are on the page System")
    return found


def _number(text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdigit():
        raise InvalidInput(f"{text!r} is not a whole number", "write one from 1 on")
    return int(text)
