"""`jobsworth schedule`: jobs and runs that are enqueued again and again.

In: a name, when and what. Out: schedules, their next times, and what became of the last ones.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID
from zoneinfo import ZoneInfo

import click

from db.errors import InvalidInput
from db.pool import Connection
from db.schedules import schedules
from db.schedules.schedules import Firing, Missed, NewSchedule, Overlap, Schedule
from worker.cli.terminal import names, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.ids import optional_id
from worker.cli.terminal.output import Column, emit_json, emit_table, say
from worker.cli.terminal.payload import read_document, read_payload
from worker.cli.terminal.times import ago, duration, parse_duration, parse_instant

COLUMNS = [
    Column("SCHEDULE", flexible=True),
    Column("WHEN"),
    Column("WHAT"),
    Column("NEXT"),
    Column("LAST"),
    Column("STATE", flexible=True),
]
TIMES = [Column("UTC"), Column("LOCAL"), Column("")]
FIRINGS = [Column("TIME"), Column("OUTCOME"), Column("ENQUEUED"), Column("WHY", flexible=True)]

schedule = Noun("schedule", "Schedules: jobs and runs that are enqueued again and again.")

schedule_name = click.argument(
    "name", metavar="NAME", shell_complete=names.schedules, help="The schedule's name."
)


@schedule.verb("list", "jobsworth schedule")
@options.as_json
def list_schedules(as_json: bool) -> None:
    """List schedules with their next and last times."""

    async def work(conn: Connection) -> list[Schedule]:
        return await schedules.list_all(conn)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        none = (
            "no schedules yet\n"
            "  → jobsworth schedule add morning --mode report --cron '0 8 * * mon-fri'"
        )
        emit_table(COLUMNS, [_row(each, datetime.now(UTC)) for each in found], none)


@schedule.verb(
    "add",
    "jobsworth schedule add morning --mode report --cron '0 8 * * mon-fri' --zone Europe/Berlin",
    "jobsworth schedule add poll --mode fetch --every 10m --overlap replace",
    'jobsworth schedule add launch --mode post \'{"text": "now"}\' --at 2027-01-01T09:00+01:00',
)
@click.argument("name", metavar="NAME", help="The schedule's name.")
@click.argument("payload", metavar="[PAYLOAD]", required=False, help="JSON, @FILE, or - for stdin.")
@click.option("--mode", metavar="MODE", shell_complete=names.modes, help="Enqueue such a job.")
@click.option("--nodes", metavar="JSON", help="Start a run of these nodes instead.")
@click.option("--cron", metavar="FIELDS", help="Minute, hour, day, month, day of week; or @daily.")
@click.option("--every", metavar="SPAN", help="A period: 90s, 10m, 1h30m, 2d.")
@click.option("--at", metavar="TIME", help="Once, at this time.")
@click.option("--zone", metavar="NAME", default="UTC", help="The time zone of --cron.")
@options.choice(
    "--missed",
    metavar="POLICY",
    words=Missed,
    default="once",
    help="Make up for times at which no worker lived",
)
@options.choice(
    "--overlap",
    metavar="POLICY",
    words=Overlap,
    default="skip",
    help="While an earlier job has not ended",
)
@click.option(
    "--missed-max",
    type=options.WholeNumber(1, 1000),
    default=100,
    help="How many times --missed all makes up for.",
)
@click.option("--jitter", metavar="SPAN", help="Start each job up to so much later.")
@click.option("--time-key", metavar="NAME", help="The payload's field that gets the time.")
@click.option(
    "--queue",
    metavar="QUEUE",
    default="default",
    shell_complete=names.queues,
    help="The queue of the jobs.",
)
@click.option("--priority", type=options.WholeNumber(1, 4), default=3, help="1 is urgent.")
@click.option("--thread", metavar="UUID", help="The chat thread of the jobs.")
@click.option("--agent", metavar="UUID", help="The agent that the jobs are for.")
@options.team_only
@click.option("--replace", is_flag=True, help="Change the schedule of that name, if there is one.")
@options.as_json
def add(
    name: str,
    payload: str | None,
    mode: str | None,
    nodes: str | None,
    cron: str | None,
    every: str | None,
    at: str | None,
    zone: str,
    missed: str,
    overlap: str,
    missed_max: int,
    jitter: str | None,
    time_key: str | None,
    queue: str,
    priority: int,
    thread: str | None,
    agent: str | None,
    team: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Enqueue a job, or start a run, at each time of a schedule."""
    new = NewSchedule(
        name,
        mode,
        read_payload(payload),
        cron=cron,
        every=None if every is None else parse_duration(every, "--every"),
        at=None if at is None else parse_instant(at, "--at"),
        time_zone=zone,
        nodes=None if nodes is None else _nodes(nodes),
        time_key=time_key,
        queue=queue,
        priority=priority,
        thread_id=optional_id("thread", thread),
        agent_id=optional_id("agent", agent),
        missed=missed,
        missed_max=missed_max,
        overlap=overlap,
        jitter_seconds=None if jitter is None else parse_duration(jitter, "--jitter"),
        team_id=optional_id("team", team),
    )

    async def work(conn: Connection) -> Schedule:
        await schedules.add(conn, new, replace=replace)
        return await schedules.get(conn, name, new.team_id)

    added = run_in_database(work)
    if as_json:
        emit_json(added)
        return
    first = added.timetable().next_after(added.handled_to)
    say(
        f"schedule {name} fires {_when(added)}"
        + ("" if first is None else f", next {_local(first, added.time_zone)}")
    )


@schedule.verb("next", "jobsworth schedule next morning --limit 3")
@schedule_name
@options.team_only
@options.limit(5, "soonest first")
@options.as_json
def next_times(name: str, team: str | None, limit: int, as_json: bool) -> None:
    """Show the next times of a schedule, in UTC and in its time zone."""
    found = run_in_database(lambda conn: schedules.get(conn, name, optional_id("team", team)))
    now = datetime.now(UTC)
    begin = max(now, found.handled_to)
    times = [] if found.paused else list(islice(found.timetable().times_after(begin), limit))
    if as_json:
        emit_json([time.isoformat() for time in times])
        return
    rows = [
        [f"{time:%Y-%m-%d %H:%M:%S}", _local(time, found.time_zone), ago(time, now)]
        for time in times
    ]
    paused = f"schedule {name} is paused\n  → jobsworth schedule resume {name}"
    emit_table(TIMES, rows, paused if found.paused else f"schedule {name} fires no more")


@schedule.verb("history", "jobsworth schedule history morning")
@schedule_name
@options.team_only
@options.limit(20)
@options.as_json
def history(name: str, team: str | None, limit: int, as_json: bool) -> None:
    """Show what became of the last times of a schedule."""

    async def work(conn: Connection) -> list[Firing]:
        found = await schedules.get(conn, name, optional_id("team", team))
        return await schedules.firings(conn, found.id, limit)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        emit_table(FIRINGS, [_firing(each) for each in found], f"schedule {name} has not fired yet")


@schedule.verb("pause", "jobsworth schedule pause morning")
@schedule_name
@options.team_only
@options.as_json
def pause(name: str, team: str | None, as_json: bool) -> None:
    """Fire nothing until it is resumed; jobs that it has enqueued go on."""

    paused = _changed(schedules.pause, name, team)
    if as_json:
        emit_json(paused)
    else:
        say(f"schedule {name} is paused; to resume it: jobsworth schedule resume {name}")


@schedule.verb("resume", "jobsworth schedule resume morning")
@schedule_name
@options.team_only
@options.as_json
def resume(name: str, team: str | None, as_json: bool) -> None:
    """Fire again from now on; times that passed meanwhile are not made up for."""

    resumed = _changed(schedules.resume, name, team)
    if as_json:
        emit_json(resumed)
    else:
        say(f"schedule {name} fires again")


@schedule.verb("remove", "jobsworth schedule remove morning")
@schedule_name
@options.team_only
@options.as_json
def remove(name: str, team: str | None, as_json: bool) -> None:
    """Remove a schedule and its history; jobs that it has enqueued go on."""
    run_in_database(lambda conn: schedules.remove(conn, name, optional_id("team", team)))
    if as_json:
        emit_json({"name": name})
    else:
        say(f"schedule {name} is removed")


def _changed(
    change: Callable[[Connection, str, UUID | None], Awaitable[None]], name: str, team: str | None
) -> Schedule:
    team_id = optional_id("team", team)

    async def work(conn: Connection) -> Schedule:
        await change(conn, name, team_id)
        return await schedules.get(conn, name, team_id)

    return run_in_database(work)


def _nodes(text: str) -> str:
    if not isinstance(read_document(text, "--nodes"), list):
        raise InvalidInput("--nodes is not a list", 'write [{"node": "a", "mode": "fetch"}, …]')
    return text


def _row(found: Schedule, now: datetime) -> list[str]:
    last = "" if found.last_at is None else f"{ago(found.last_at, now)}, {found.last_outcome}"
    return [
        found.name,
        _when(found),
        found.mode or f"a run of {len(found.nodes or ())}",
        ago(found.next_at, now),
        last,
        _state(found),
    ]


def _state(found: Schedule) -> str:
    if found.problem is not None:
        return found.problem
    if found.paused:
        return "paused"
    if found.ended_at is not None:
        return "ended"
    return "declared by its handler" if found.declared else ""


def _when(found: Schedule) -> str:
    if found.cron is not None:
        return f"{found.cron} {found.time_zone}"
    if found.every_seconds is not None:
        return f"every {duration(found.every_seconds)}"
    return "" if found.at is None else f"at {found.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _local(time: datetime, zone: str) -> str:
    return f"{time.astimezone(ZoneInfo(zone)):%a %Y-%m-%d %H:%M:%S %Z}"


def _firing(found: Firing) -> list[str]:
    enqueued = "" if found.job_id is None else f"job {found.job_id}"
    if found.run_id is not None:
        enqueued = f"run {found.run_id}"
    before = f"{found.missed:,} before it were missed" if found.missed else ""
    why = "; ".join(part for part in (found.reason, before) if part)
    return [f"{found.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}", found.outcome, enqueued, why]
