"""Broken invariants, as the view `violations` lists them. The view is always empty.

In: nothing. Out: which row breaks which invariant, and how. Tests, fault tests, `doctor` and a
metric read it. The view reads whole tables, so `count` has a time limit of its own.
"""

from typing import LiteralString
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.arguments import check_limit
from db.errors import QUERY_CANCELED, Unavailable, translated
from db.pool import Connection, execute, fetch_all, fetch_val
from db.transactions import transaction

LIMIT_MAX = 10_000


class Violation(BaseModel):
    """One breach: the invariant, the row that breaks it (a job, call or deployment), and how.

    `subject_id` is None for a row without an id, which `detail` names.
    """

    model_config = ConfigDict(frozen=True)

    invariant: str
    subject_id: UUID | None
    detail: str | None


LIST: LiteralString = """
select v.invariant, v.subject_id, v.detail
from jobsworth.violations v
order by v.invariant, v.subject_id
limit %(limit)s
"""


async def list_violations(conn: Connection, limit: int = 100) -> list[Violation]:
    """The first `limit` (1 to 10,000) breaches, by invariant."""
    check_limit(limit, LIMIT_MAX, "mend some of them first")
    return await fetch_all(conn, LIST, {"limit": limit}, Violation)


LIMIT_TIME: LiteralString = "select set_config('statement_timeout', %(milliseconds)s, true)"
COUNT: LiteralString = "select count(*) from jobsworth.violations"


async def count(conn: Connection, timeout_seconds: float) -> int | None:
    """How many breaches there are, or None if counting took longer than `timeout_seconds`."""
    milliseconds = max(1, round(timeout_seconds * 1000))
    try:
        with translated():
            async with transaction(conn):
                await execute(conn, LIMIT_TIME, {"milliseconds": str(milliseconds)})
                return await fetch_val(conn, COUNT)
    except Unavailable as error:
        if error.sqlstate == QUERY_CANCELED:
            return None
        raise
