"""The batches of an operation on many jobs, and what it would do.

In: an operation and a filter. Out: the ids of a page of jobs, what became of them, and how many it
would be for. Invariant: jobs that were created after the operation are not its own. Jobs are
locked in one statement and looked at again in the next, so each is as the filter says when the
operation is done with it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.bulk.filters import MATCHES, MODE, JobFilter
from db.errors import InvalidInput, shown
from db.pool import Connection, fetch_all, fetch_one, fetch_val
from db.queue.enqueue import enqueue
from db.queue.jobs import JOB_COLUMNS, Job
from db.queue.new_job import NewJob

EXAMPLES = 10
URGENT = 1


class Operation(StrEnum):
    CANCEL = "cancel"
    RETRY = "retry"
    RUN_NOW = "run_now"
    MOVE = "move"
    REPRIORITIZE = "reprioritize"


@dataclass(frozen=True, slots=True)
class Change:
    """What to do: `reason` of a cancel, `queue` to move to, `priority` to give."""

    operation: Operation
    reason: str = "canceled by a bulk operation"
    queue: str | None = None
    priority: int | None = None

    def check(self) -> None:
        """Raise `InvalidInput` if the operation lacks what it changes, or has what it does not."""
        if (self.operation is Operation.MOVE) != (self.queue is not None):
            raise InvalidInput(
                f"the queue of a {self.operation} is {shown(self.queue)}",
                "a move needs a queue, and no other operation takes one",
            )
        if (self.operation is Operation.REPRIORITIZE) != (self.priority is not None):
            raise InvalidInput(
                f"the priority of a {self.operation} is {shown(self.priority)}",
                "reprioritize needs a priority from 1 to 4, and no other operation takes one",
            )
        if self.priority is not None and not 1 <= self.priority <= 4:
            raise InvalidInput(
                f"priority {self.priority} is not 1 to 4", "1 is urgent, 3 the default"
            )
        if self.queue is not None:
            NewJob("any", queue=self.queue)

    def values(self) -> dict[str, Any]:
        """The values of the statements here."""
        return {
            "operation": str(self.operation),
            "reason": self.reason,
            "to_queue": self.queue,
            "to_priority": self.priority,
        }


class Page(NamedTuple):
    """The jobs of a page that match, of how many; the following page begins after `next`, None at
    the end. `ids` is the text form of a `uuid[]`: Python's own ids took a third of the time.
    """

    ids: str
    looked: int
    next: UUID | None


class Applied(BaseModel):
    """With how many jobs it was done, with how many not and why, and those that others hold."""

    model_config = ConfigDict(frozen=True)

    applied: int
    refused: dict[str, int]
    held: list[UUID]


class Preview(BaseModel):
    """For how many jobs it would be done, for how many not and why, and the first examples."""

    model_config = ConfigDict(frozen=True)

    jobs: int
    refused: dict[str, int]
    examples: list[Job]


PAGE_COLUMNS: LiteralString = (
    """
select coalesce(array_agg(p.id) filter (where p.matches), '{}')::text as ids, count(*) as looked,
  (array_agg(p.id))[count(*)::int] as last
from (
  select j.id, j.created_at <= %(up_to)s and ("""
    + MATCHES
    + """) as matches
  from jobsworth.reactive_jobs j
  where """
)
FORWARD: LiteralString = "j.id > %(after)s::uuid order by j.id limit %(most)s) p"
BACKWARD: LiteralString = "j.id < %(after)s::uuid order by j.id desc limit %(most)s) p"
FIRST, LAST = UUID(int=0), UUID(int=2**128 - 1)


async def page(
    conn: Connection, change: Change, which: JobFilter, after: UUID | None, up_to: Any, most: int
) -> Page:
    """Look at the next `most` jobs that were created by `up_to`.

    A cancel goes from the newest to the oldest, so that it never frees a lane, or the jobs that
    need a job, for what it is about to cancel; all else goes from the oldest to the newest.
    """
    backward = change.operation is Operation.CANCEL
    values = {
        **which.values(),
        "after": after or (LAST if backward else FIRST),
        "up_to": up_to,
        "most": most,
    }
    row = await fetch_one(conn, PAGE_COLUMNS + (BACKWARD if backward else FORWARD), values)
    assert row is not None
    return Page(row["ids"], row["looked"], row["last"] if row["looked"] == most else None)


LOCK: LiteralString = """
select coalesce(array_agg(l.id), '{}')::text as ids
from (
  select j.id from jobsworth.reactive_jobs j
  where j.id = any(%(ids)s::uuid[])
  order by j.id
  for no key update skip locked) l
"""

APPLY: LiteralString = (
    """
with still as materialized (
  select j.id from jobsworth.reactive_jobs j where j.id = any(%(locked)s::uuid[]) and """
    + MATCHES
    + """)
select a.applied, a.refused, array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(array(
      select u.id from unnest(%(ids)s::uuid[]) u (id)
      except select l.id from unnest(%(locked)s::uuid[]) l (id)))) as held
from jobsworth.bulk_apply(%(operation)s::jobsworth.bulk_operation,
  array(select s.id from still s), %(reason)s, %(to_queue)s, %(to_priority)s::int) a
"""
)


async def apply(conn: Connection, change: Change, which: JobFilter, ids: str) -> Applied:
    """Do it with those of these jobs (as `Page.ids`) that nobody holds and that still match."""
    locked = await fetch_val(conn, LOCK, {"ids": ids})
    values = {**which.values(), **change.values(), "ids": ids, "locked": locked}
    done = await fetch_one(conn, APPLY, values, Applied)
    assert done is not None
    return done


APPLY_TO_ONE: LiteralString = """
with locked as materialized (
  select j.id from jobsworth.reactive_jobs j where j.id = %(id)s for no key update
)
select a.applied, a.refused, '{}'::uuid[] as held
from jobsworth.bulk_apply(%(operation)s::jobsworth.bulk_operation,
  array(select l.id from locked l), %(reason)s, %(to_queue)s, %(to_priority)s::int) a
"""


async def apply_to_one(conn: Connection, change: Change, job_id: UUID) -> Applied:
    """Do it with one job, as soon as nobody holds it."""
    done = await fetch_one(conn, APPLY_TO_ONE, {**change.values(), "id": job_id}, Applied)
    assert done is not None
    return done


REFUSAL: LiteralString = """
  jobsworth.bulk_refusal(%(operation)s::jobsworth.bulk_operation, j.status, j.waiting_for,
    j.cancel_requested, j.queue, j.priority, %(to_queue)s::text, %(to_priority)s::int)
"""

COUNT: LiteralString = (
    "select r.refusal, count(*) as jobs from (select"
    + REFUSAL
    + "as refusal from jobsworth.reactive_jobs j where"
    + MATCHES
    + ") r group by r.refusal order by r.refusal"
)

SHOW: LiteralString = (
    "select"
    + JOB_COLUMNS
    + "from jobsworth.reactive_jobs j where"
    + MATCHES
    + "and"
    + REFUSAL
    + "is null order by j.id limit %(examples)s"
)


async def preview(conn: Connection, change: Change, which: JobFilter) -> Preview:
    """What it would do now; changes nothing. Reads all jobs."""
    values = {**which.values(), **change.values(), "examples": EXAMPLES}
    counts = {row["refusal"]: row["jobs"] for row in await fetch_all(conn, COUNT, values)}
    jobs = counts.pop(None, 0)
    examples = await fetch_all(conn, SHOW, values, Job) if jobs else []
    return Preview(jobs=jobs, refused=counts, examples=examples)


async def start(
    conn: Connection,
    change: Change,
    which: JobFilter,
    expected: int,
    *,
    team_id: UUID | None = None,
    request_id: str | None = None,
    delay_seconds: float = 0.0,
) -> UUID:
    """Enqueue the job that does it, urgently; `expected`: with how many, as `preview` counted.

    Until `delay_seconds` have passed a cancel of that job undoes all of it.
    """
    payload = {
        "operation": str(change.operation),
        "filter": which.model_dump(mode="json", exclude_none=True),
        "reason": change.reason,
        "queue": change.queue,
        "priority": change.priority,
        "expected": expected,
    }
    given = {name: value for name, value in payload.items() if value is not None}
    made = await enqueue(
        conn,
        MODE,
        given,
        priority=URGENT,
        team_id=team_id,
        request_id=request_id,
        delay=delay_seconds or None,
    )
    return made.job_id
