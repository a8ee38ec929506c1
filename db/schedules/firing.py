"""Firing: what a daemon writes when the time of a schedule has come.

In: a transaction, and what was decided. Out: jobs, runs, and rows of `schedule_firings`. Invariant:
`take` locks the schedule's row, and nothing is fired without that lock; `handle` moves `handled_to`
on in the same transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from pydantic import AwareDatetime

from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val
from db.schedules.schedules import Missed, Overlap, Timed

KEPT = 1_000


class Due(Timed):
    """A schedule that this transaction has locked, and the database's time.

    What it enqueues stays in the database: a payload that Python cannot read is its job's trouble.
    """

    id: UUID
    name: str
    is_run: bool
    missed: Missed
    missed_max: int
    overlap: Overlap
    jitter_seconds: float | None
    handled_to: AwareDatetime
    now: AwareDatetime


NEXT_IN: LiteralString = "select jobsworth.next_schedule_in(%(without)s) as next_in"


async def next_in_seconds(conn: Connection, without: Sequence[UUID] = ()) -> float | None:
    """How long until a schedule, not one of `without`, fires or has to be planned, if one does."""
    return await fetch_val(conn, NEXT_IN, {"without": list(without)})


# Which of the due ones comes first does not matter. A row that somebody has locked is being fired.
TAKE: LiteralString = """
select s.id, s.name, s.cron, s.every_seconds, s.at, s.time_zone, s.nodes is not null as is_run,
  s.missed, s.missed_max, s.overlap, s.jitter_seconds, s.handled_to, s.created_at, now() as now
from jobsworth.schedules s
where not s.paused and s.ended_at is null and s.problem is null
  and (s.next_at is null or s.next_at <= now()) and s.id <> all(%(without)s)
order by s.next_at nulls first
limit 1
for no key update skip locked
"""


async def take(conn: Connection, without: Sequence[UUID]) -> Due | None:
    """Lock a schedule that is due or has to be planned, and is not one of `without`."""
    return await fetch_one(conn, TAKE, {"without": list(without)}, Due)


@dataclass(frozen=True, slots=True)
class Unended:
    """A job or a run of an earlier time that has not ended; one of the two is None."""

    job_id: UUID | None
    run_id: UUID | None


# More than the last thousand times are not kept, and the newest end last.
UNENDED: LiteralString = """
select j.id as job_id, r.id as run_id
from jobsworth.schedule_firings f
left join jobsworth.reactive_jobs j on j.id = f.job_id and j.finished_at is null
left join jobsworth.runs r on r.id = f.run_id and r.finished_at is null
where f.schedule_id = %(id)s and f.outcome = 'fired' and (j.id is not null or r.id is not null)
order by f.at desc
"""


async def unended(conn: Connection, id: UUID) -> list[Unended]:
    """What the schedule has enqueued and has not ended, newest first."""
    return [Unended(**row) for row in await fetch_all(conn, UNENDED, {"id": id})]


CANCEL_JOB: LiteralString = "select jobsworth.cancel(%(id)s, %(reason)s)"
CANCEL_RUN: LiteralString = "select jobsworth.cancel_run(%(id)s, %(reason)s)"


async def cancel(conn: Connection, one: Unended, reason: str) -> None:
    """Cancel it: at once if it is not running, else when its attempts end."""
    statement = CANCEL_JOB if one.job_id else CANCEL_RUN
    await execute(conn, statement, {"id": one.job_id or one.run_id, "reason": reason})


# A thread has a lane of its own.
ENQUEUE: LiteralString = """
select jobsworth.enqueue(
  mode => s.mode,
  payload => jobsworth.payload_at(s, %(at)s),
  queue => s.queue,
  priority => s.priority,
  delay => make_interval(secs => %(delay_seconds)s::float8),
  thread_id => s.thread_id,
  lane => case when s.thread_id is null then 'schedule:' || s.id end,
  failures_max => s.failures_max,
  timeout_seconds => s.timeout_seconds,
  team_id => s.team_id,
  agent_id => s.agent_id,
  id => %(job_id)s)
from jobsworth.schedules s
where s.id = %(id)s
"""


async def enqueue(
    conn: Connection, id: UUID, at: datetime, job_id: UUID, delay_seconds: float | None
) -> None:
    """Enqueue the schedule's job for this time, as `job_id`."""
    values = {"id": id, "at": at.isoformat(), "job_id": job_id, "delay_seconds": delay_seconds}
    await execute(conn, ENQUEUE, values)


START_RUN: LiteralString = """
select jobsworth.start_run(
  nodes => s.nodes,
  request => jobsworth.payload_at(s, %(at)s),
  thread_id => s.thread_id,
  agent_id => s.agent_id,
  team_id => s.team_id,
  id => %(run_id)s)
from jobsworth.schedules s
where s.id = %(id)s
"""


async def start_run(conn: Connection, id: UUID, at: datetime, run_id: UUID) -> None:
    """Start the schedule's run for this time, as `run_id`."""
    await execute(conn, START_RUN, {"id": id, "at": at.isoformat(), "run_id": run_id})


RECORD: LiteralString = """
insert into jobsworth.schedule_firings as f (
  schedule_id, team_id, at, outcome, job_id, run_id, missed, reason)
select s.id, s.team_id, %(at)s::timestamptz, %(outcome)s::jobsworth.firing_outcome,
  %(job_id)s::uuid, %(run_id)s::uuid, %(missed)s::int, %(reason)s::text
from jobsworth.schedules s
where s.id = %(id)s
on conflict (schedule_id, at) do nothing
"""


async def record(
    conn: Connection,
    id: UUID,
    at: datetime,
    outcome: str,
    *,
    job_id: UUID | None = None,
    run_id: UUID | None = None,
    missed: int = 0,
    reason: str | None = None,
) -> bool:
    """Note what became of a time; False if that was noted before (the server's clock went back).

    `missed` times before it are not made up for.
    """
    values = {
        "id": id,
        "at": at,
        "outcome": outcome,
        "job_id": job_id,
        "run_id": run_id,
        "missed": missed,
        "reason": reason,
    }
    return await execute(conn, RECORD, values) > 0


HANDLE: LiteralString = """
update jobsworth.schedules s
set handled_to = %(handled_to)s, next_at = %(next_at)s::timestamptz,
  problem = %(problem)s::text,
  ended_at = case
    when %(next_at)s::timestamptz is null and %(problem)s::text is null then clock_timestamp() end
where s.id = %(id)s
"""


async def handle(
    conn: Connection,
    id: UUID,
    handled_to: datetime,
    next_at: datetime | None,
    problem: str | None = None,
) -> None:
    """All times until `handled_to` are dealt with. Without a next time, and a problem, it ends."""
    values = {"id": id, "handled_to": handled_to, "next_at": next_at, "problem": problem}
    await execute(conn, HANDLE, values)


IS_HANDLED: LiteralString = """
select s.handled_to <> %(handled_to)s
from jobsworth.schedules s
where s.id = %(id)s
for no key update
"""


async def is_handled(conn: Connection, id: UUID, handled_to: datetime) -> bool:
    """Lock the schedule again; whether somebody changed or fired it meanwhile, or removed it."""
    handled = await fetch_val(conn, IS_HANDLED, {"id": id, "handled_to": handled_to})
    return handled is None or handled


FORGET: LiteralString = """
delete from jobsworth.schedule_firings f
where f.schedule_id = %(id)s and f.at < (
  select x.at from jobsworth.schedule_firings x
  where x.schedule_id = %(id)s order by x.at desc offset %(kept)s limit 1)
"""


async def forget_old(conn: Connection, id: UUID) -> None:
    """Keep the last thousand times of the history."""
    await execute(conn, FORGET, {"id": id, "kept": KEPT - 1})


PATIENCE: LiteralString = "select set_config('lock_timeout', %(lock_timeout)s, true)"


async def wait_at_most(conn: Connection, seconds: float) -> None:
    """Wait so long for each lock of this transaction."""
    await fetch_val(conn, PATIENCE, {"lock_timeout": f"{seconds * 1000:.0f}ms"})
