"""Schedules: when a job or a run is enqueued again and again, by name.

In: a `NewSchedule`. Out: a row of `schedules`, and what became of its times. It is added in the
caller's own transaction. Workers fire it (`worker.schedules`); a worker that learns of it computes
its first time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString, cast
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit
from db.errors import InvalidInput, NotFound, shown
from db.pool import execute, fetch_all, fetch_one, fetch_val
from db.queue.new_job import NewJob
from db.runs.new_run import Node, nodes_json
from db.schedules.timetable import Timetable

JITTER_SECONDS_MAX = 86_400.0
MISSED_MAX = 1_000


class Missed(StrEnum):
    """What becomes of times at which nobody could fire: see `NewSchedule`."""

    ONCE = "once"
    SKIP = "skip"
    ALL = "all"


class Overlap(StrEnum):
    """What happens at a time when the job of an earlier one has not ended: see `NewSchedule`."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to add; raises `InvalidInput` when it could never fire, or its work is wrong.

    Exactly one of cron (five fields in `time_zone`, or @daily and the like), every (a period,
    counted from now) and at (one instant) says when. Exactly one of mode (a job of it, with
    `payload`) and nodes (a run of them, with `payload` as its request) says what. time_key: the
    field of the payload that gets the time it fires for, as ISO 8601 text.

    missed: times that passed while no worker lived are made up for "once", for the last of them;
    "skip" makes up for none, "all" for the last `missed_max`. overlap: while the job of an earlier
    time has not ended, "skip" fires nothing, "queue" lets the new one wait for it, "replace"
    cancels it. The jobs of a schedule never run beside each other. jitter_seconds: each job starts
    up to so much later, by chance. The other options are those of `NewJob`.
    """

    name: str
    mode: str | None = None
    payload: Mapping[str, Any] | None = None
    cron: str | None = None
    every: timedelta | float | None = None
    at: datetime | None = None
    time_zone: str = "UTC"
    nodes: Sequence[Node] | str | None = None
    time_key: str | None = None
    queue: str = "default"
    priority: int = 3
    thread_id: UUID | None = None
    agent_id: UUID | None = None
    failures_max: int | None = None
    timeout_seconds: float | None = None
    missed: Missed | str = Missed.ONCE
    missed_max: int = 100
    overlap: Overlap | str = Overlap.SKIP
    jitter_seconds: float | None = None
    team_id: UUID | None = None

    def __post_init__(self) -> None:
        _check(self)

    def every_seconds(self) -> float | None:
        """The period in seconds, if one was given."""
        return self.every.total_seconds() if isinstance(self.every, timedelta) else self.every


class Timed(BaseModel):
    """What of a row of `schedules` says when it fires."""

    model_config = ConfigDict(frozen=True)

    cron: str | None
    every_seconds: float | None
    at: AwareDatetime | None
    time_zone: str
    created_at: AwareDatetime

    def timetable(self) -> Timetable:
        """Its times. Raises `InvalidInput` if it can never fire."""
        return Timetable(
            self.cron, self.every_seconds, self.at, self.time_zone, begins_at=self.created_at
        )


class Schedule(Timed):
    """A row of `schedules`, and its last firing.

    `next_at` is None until a worker has computed it, while it is paused, and when it has ended.
    """

    id: UUID
    team_id: UUID | None
    name: str
    mode: str | None
    nodes: list[Any] | None
    payload: dict[str, Any]
    time_key: str | None
    queue: str
    priority: int
    thread_id: UUID | None
    agent_id: UUID | None
    failures_max: int | None
    timeout_seconds: float | None
    missed: Missed
    missed_max: int
    overlap: Overlap
    jitter_seconds: float | None
    paused: bool
    declared: bool
    problem: str | None
    handled_to: AwareDatetime
    next_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    changed_at: AwareDatetime
    last_at: AwareDatetime | None
    last_outcome: str | None


class Firing(BaseModel):
    """What became of a time of a schedule: a row of `schedule_firings`."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    outcome: str
    job_id: UUID | None
    run_id: UUID | None
    missed: int
    reason: str | None
    fired_at: AwareDatetime


class ScheduleFiring(Firing):
    """A firing, and whose it is."""

    schedule_id: UUID


ADD: LiteralString = """
select jobsworth.schedule(
  name => %(name)s,
  mode => %(mode)s,
  payload => %(payload)s::jsonb,
  cron => %(cron)s,
  every => make_interval(secs => %(every_seconds)s::float8),
  at => %(at)s::timestamptz,
  time_zone => %(time_zone)s,
  nodes => %(nodes)s::jsonb,
  time_key => %(time_key)s,
  queue => %(queue)s,
  priority => %(priority)s::int,
  thread_id => %(thread_id)s::uuid,
  agent_id => %(agent_id)s::uuid,
  failures_max => %(failures_max)s::int,
  timeout_seconds => %(timeout_seconds)s::float8,
  missed => %(missed)s,
  missed_max => %(missed_max)s::int,
  overlap => %(overlap)s,
  jitter_seconds => %(jitter_seconds)s::float8,
  team_id => %(team_id)s::uuid,
  replace => %(replace)s::boolean,
  declared => %(declared)s::boolean)
"""


async def add(
    conn: AsyncConnection[Any], new: NewSchedule, *, replace: bool = False, declared: bool = False
) -> UUID:
    """Add a schedule in the transaction of `conn`, and return its id.

    One of that name that says the same is left as it is, so a call may be repeated. One that says
    something else raises `Conflict`, or is changed if `replace`. `declared` marks one that workers
    keep as the code has it.
    """
    values = {
        "name": new.name,
        "mode": new.mode,
        "payload": NewJob(new.mode or "run", new.payload).payload_json(),
        "cron": new.cron,
        "every_seconds": new.every_seconds(),
        "at": new.at,
        "time_zone": new.time_zone,
        "nodes": None if new.nodes is None else nodes_json(new.nodes),
        "time_key": new.time_key,
        "queue": new.queue,
        "priority": new.priority,
        "thread_id": new.thread_id,
        "agent_id": new.agent_id,
        "failures_max": new.failures_max,
        "timeout_seconds": new.timeout_seconds,
        "missed": str(new.missed),
        "missed_max": new.missed_max,
        "overlap": str(new.overlap),
        "jitter_seconds": new.jitter_seconds,
        "team_id": new.team_id,
        "replace": replace,
        "declared": declared,
    }
    return await fetch_val(conn, ADD, values)


REMOVE: LiteralString = "select jobsworth.remove_schedule(%(name)s, %(team_id)s::uuid)"


async def remove(conn: AsyncConnection[Any], name: str, team_id: UUID | None = None) -> None:
    """Remove a schedule and its history; what it has enqueued goes on. Raises `NotFound`."""
    await execute(conn, REMOVE, {"name": name, "team_id": team_id})


PAUSE: LiteralString = "select jobsworth.pause_schedule(%(name)s, %(team_id)s::uuid)"


async def pause(conn: AsyncConnection[Any], name: str, team_id: UUID | None = None) -> None:
    """Fire nothing until it is resumed; what it has enqueued goes on. Raises `NotFound`."""
    await execute(conn, PAUSE, {"name": name, "team_id": team_id})


RESUME: LiteralString = "select jobsworth.resume_schedule(%(name)s, %(team_id)s::uuid)"


async def resume(conn: AsyncConnection[Any], name: str, team_id: UUID | None = None) -> None:
    """Fire again from now on; nothing is made up for. Raises `NotFound`."""
    await execute(conn, RESUME, {"name": name, "team_id": team_id})


# `next_at` of a paused one is a time at which it will not fire.
COLUMNS: LiteralString = """
  s.id, s.team_id, s.name, s.cron, s.every_seconds, s.at, s.time_zone, s.mode, s.nodes, s.payload,
  s.time_key, s.queue, s.priority, s.thread_id, s.agent_id, s.failures_max, s.timeout_seconds,
  s.missed, s.missed_max, s.overlap, s.jitter_seconds, s.paused, s.declared, s.problem,
  s.handled_to, case when not s.paused then s.next_at end as next_at, s.ended_at, s.created_at,
  s.changed_at, f.at as last_at, f.outcome as last_outcome
from jobsworth.schedules s
left join lateral (
  select x.at, x.outcome from jobsworth.schedule_firings x
  where x.schedule_id = s.id order by x.at desc limit 1) f on true
"""

LIST: LiteralString = f"""
select {COLUMNS}
order by s.name, s.team_id
"""


async def list_all(conn: AsyncConnection[Any]) -> list[Schedule]:
    """All schedules, by name."""
    return await fetch_all(conn, LIST, None, Schedule)


GET: LiteralString = f"""
select {COLUMNS}
where s.name = %(name)s and s.team_id is not distinct from %(team_id)s::uuid
"""


async def get(conn: AsyncConnection[Any], name: str, team_id: UUID | None = None) -> Schedule:
    """The schedule of that name. Raises `NotFound`."""
    found = await fetch_one(conn, GET, {"name": name, "team_id": team_id}, Schedule)
    if found is None:
        raise NotFound(f"there is no schedule named {shown(name)}", "list them: jobsworth schedule")
    return found


FIRINGS: LiteralString = """
select f.at, f.outcome, f.job_id, f.run_id, f.missed, f.reason, f.fired_at
from jobsworth.schedule_firings f
where f.schedule_id = %(id)s
order by f.at desc
limit %(limit)s
"""


async def firings(conn: AsyncConnection[Any], id: UUID, limit: int = 20) -> list[Firing]:
    """What became of the last times of a schedule, newest first. At most 1,000 are kept."""
    check_limit(limit, 1_000, "older ones are not kept")
    return await fetch_all(conn, FIRINGS, {"id": id, "limit": limit}, Firing)


LATEST: LiteralString = """
select s.id as schedule_id, f.at, f.outcome, f.job_id, f.run_id, f.missed, f.reason, f.fired_at
from jobsworth.schedules s
cross join lateral (
  select l.at, l.outcome, l.job_id, l.run_id, l.missed, l.reason, l.fired_at
  from jobsworth.schedule_firings l
  where l.schedule_id = s.id
  order by l.at desc
  limit %(each)s) f
order by s.id, f.at desc
"""


async def latest_firings(
    conn: AsyncConnection[Any], each: int = 5
) -> dict[UUID, list[ScheduleFiring]]:
    """What became of the last times of all schedules, by schedule, newest first."""
    found: dict[UUID, list[ScheduleFiring]] = {}
    for one in await fetch_all(conn, LATEST, {"each": each}, ScheduleFiring):
        found.setdefault(one.schedule_id, []).append(one)
    return found


UNDECLARED: LiteralString = """
update jobsworth.schedules s set paused = true
where s.declared and not s.paused and s.mode = any(%(modes)s) and s.name <> all(%(names)s)
returning s.name
"""


async def pause_undeclared(
    conn: AsyncConnection[Any], modes: Sequence[str], names: Sequence[str]
) -> list[str]:
    """Pause the declared schedules of these modes that are not among `names`; returns theirs."""
    values = {"modes": list(modes), "names": list(names)}
    return [row["name"] for row in await fetch_all(conn, UNDECLARED, values)]


def _check(new: NewSchedule) -> None:
    if not isinstance(cast(object, new.name), str) or not new.name.strip() or "\0" in new.name:
        raise InvalidInput(
            f"{shown(new.name)} is not the name of a schedule", "give a name, like 'daily report'"
        )
    if (new.mode is None) == (new.nodes is None):
        raise InvalidInput(
            f"schedule {shown(new.name)} needs exactly one of mode and nodes",
            "a mode enqueues a job, nodes start a run",
        )
    Timetable(new.cron, new.every_seconds(), new.at, new.time_zone)
    NewJob(
        new.mode or "run",
        new.payload,
        queue=new.queue,
        priority=new.priority,
        thread_id=new.thread_id,
        agent_id=new.agent_id,
        team_id=new.team_id,
        failures_max=new.failures_max,
        timeout_seconds=new.timeout_seconds,
    )
    for thing, value, words in (("missed", new.missed, Missed), ("overlap", new.overlap, Overlap)):
        if value not in list(words):
            raise InvalidInput(
                f"{thing} {shown(value)} of schedule {shown(new.name)} is unknown",
                f"give one of {', '.join(words)}",
            )
    if new.missed == Missed.ALL and new.overlap != Overlap.QUEUE:
        raise InvalidInput(
            "missed='all' makes up for every time, so its jobs must queue",
            "give overlap='queue' too, or missed='once'",
        )
    if new.nodes is not None and new.overlap == Overlap.QUEUE:
        raise InvalidInput(
            "the nodes of runs run side by side, so runs do not queue",
            "give overlap='skip' or 'replace'",
        )
    if type(new.missed_max) is not int or not 1 <= new.missed_max <= MISSED_MAX:
        raise InvalidInput(
            f"missed_max {shown(new.missed_max)} is not 1 to {MISSED_MAX:,}", "leave it out"
        )
    if new.jitter_seconds is not None and not 0 <= new.jitter_seconds <= JITTER_SECONDS_MAX:
        raise InvalidInput(
            f"jitter_seconds {shown(new.jitter_seconds)} is not from 0 to 86,400", "leave it out"
        )
    if new.time_key is not None and not (
        isinstance(cast(object, new.time_key), str) and new.time_key
    ):
        raise InvalidInput(
            f"time_key {shown(new.time_key)} is not a name",
            "give a name, or leave it out",
        )
