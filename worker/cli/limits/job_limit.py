"""`jobsworth job-limit`: how many jobs run at once, or start in a time, in all or for each key.

In: a limit's name, whose jobs it is for, and its number. Out: limits, who holds their slots, and
how many jobs wait. A limit holds for the claims that begin after it was set; jobs that wait go on
when it is raised or removed.
"""

import click

from db.errors import NotFound
from db.limits import gates, job_limits
from db.limits.job_limits import JobLimit, KeyUse, LimitUse, Per
from db.pool import Connection
from worker.cli.terminal import names, options, times
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit_json, emit_table, say

COLUMNS = [
    Column("NAME"),
    Column("QUEUE", flexible=True),
    Column("MODE", flexible=True),
    Column("PER"),
    Column("LIMIT"),
    Column("TAKEN", right=True),
    Column("WAITING", right=True),
]
KEYS = [
    Column("KEY", flexible=True),
    Column("TAKEN", right=True),
    Column("WAITING", right=True),
    Column("ROOM", right=True),
]
KEYS_COUNTED_MAX = 1000
# So that a worker need not come first: the others that wait are left to the sweep of the workers.
GATES_AT_ONCE = 1000
NONE = "no limits yet\n  → jobsworth job-limit set research --mode research --slots 5"

job_limit = Noun("job-limit", "Limits of jobs: how many run at once, or start in a time.")
limit_name = click.argument(
    "name", metavar="NAME", shell_complete=names.job_limits, help="The limit's name."
)


@job_limit.verb("list", "jobsworth job-limit")
@options.as_json
def list_limits(as_json: bool) -> None:
    """List limits, with what they let run and hold up now."""

    async def work(conn: Connection) -> list[LimitUse]:
        return await job_limits.list_all(conn)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        emit_table(COLUMNS, [_row(each) for each in found], NONE)


@job_limit.verb(
    "set",
    "jobsworth job-limit set research --mode research --slots 5",
    "jobsworth job-limit set fair-share --per team --slots 2 --burst 10",
    "jobsworth job-limit set openai --per key --rate 100 --in 1m --burst 20",
)
@limit_name
@click.option(
    "--queue", metavar="QUEUE", shell_complete=names.queues, help="Only for jobs of this queue."
)
@click.option(
    "--mode", metavar="MODE", shell_complete=names.modes, help="Only for jobs of this mode."
)
@options.choice(
    "--per",
    words=Per,
    help="For each value by itself; `key` is the --limit-key of a job. A job without one is free",
)
@click.option("--slots", type=click.INT, metavar="N", help="How many jobs run at once.")
@click.option("--rate", type=click.INT, metavar="N", help="How many jobs start in a time.")
@click.option("--in", "span", metavar="SPAN", help="The time of --rate, like 1m.  [default: 1m]")
@click.option(
    "--burst",
    type=click.INT,
    metavar="N",
    help="With --slots: how many a key may have while all keys together have fewer. "
    "With --rate: how many start at once after a rest.  [default: the rate]",
)
@options.as_json
def set_limit(
    name: str,
    queue: str | None,
    mode: str | None,
    per: str | None,
    slots: int | None,
    rate: int | None,
    span: str | None,
    burst: int | None,
    as_json: bool,
) -> None:
    """Set a limit, or change the given parts of one. Jobs that run already count."""
    seconds = None if span is None else times.parse_duration(span, "--in")

    async def work(conn: Connection) -> JobLimit:
        found = await job_limits.set_limit(
            conn,
            name,
            queue=queue,
            mode=mode,
            per=per,
            slots=slots,
            rate=rate,
            per_seconds=seconds,
            burst=burst,
        )
        await gates.sweep(conn, gates.FIRST_GATE, GATES_AT_ONCE)
        return found

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        say(f"limit {found.name}: {_words(found)}")


@job_limit.verb("show", "jobsworth job-limit show fair-share")
@limit_name
@options.limit(20, "the busiest first")
@options.as_json
def show(name: str, limit: int, as_json: bool) -> None:
    """Show a limit's keys: slots taken, jobs that wait, and room."""

    async def work(conn: Connection) -> tuple[LimitUse, list[KeyUse]]:
        keys = await job_limits.keys(conn, name, limit)
        return await _get(conn, name), keys

    found, keys = run_in_database(work)
    if as_json:
        emit_json({**found.model_dump(mode="json"), "keys": [each.model_dump() for each in keys]})
        return
    say(f"limit {found.name}: {_words(found)}")
    rows = [[k.key or "(all)", f"{k.taken:,}", _count(k.waiting), _room(k)] for k in keys]
    emit_table(KEYS, rows, "nothing runs or waits under it now")


@job_limit.verb("remove", "jobsworth job-limit remove research")
@limit_name
@options.as_json
def remove(name: str, as_json: bool) -> None:
    """Remove a limit; the jobs that wait for it go on."""

    async def work(conn: Connection) -> None:
        await job_limits.remove(conn, name)
        await gates.sweep(conn, gates.FIRST_GATE, GATES_AT_ONCE)

    run_in_database(work)
    if as_json:
        emit_json({"name": name})
    else:
        say(f"limit {name} is removed")


async def _get(conn: Connection, name: str) -> LimitUse:
    for each in await job_limits.list_all(conn):
        if each.name == name:
            return each
    raise NotFound(f"there is no limit {name}", "list limits: jobsworth job-limit list")


def _row(found: LimitUse) -> list[str]:
    return [
        found.name,
        found.queue or "",
        found.mode or "",
        found.per or "",
        _number(found),
        f"{found.taken:,}" if found.slots else "",
        f"{found.waiting:,}",
    ]


def _number(found: JobLimit) -> str:
    if found.slots is not None:
        burst = "" if found.burst is None else f", burst {found.burst:,}"
        return f"{found.slots:,} at once{burst}"
    burst = "" if found.burst == found.rate else f", burst {found.burst:,}"
    return f"{found.rate:,} in {found.per_seconds:g} s{burst}"


def _words(found: JobLimit) -> str:
    whose = [
        f"of queue {found.queue}" if found.queue else "",
        f"of mode {found.mode}" if found.mode else "",
        f"per {found.per}" if found.per else "",
    ]
    return " ".join([_number(found), *filter(None, whose)])


def _count(number: int) -> str:
    return f"{number:,}{'+' if number >= KEYS_COUNTED_MAX else ''}"


def _room(found: KeyUse) -> str:
    return f"{max(found.room, 0):,.0f}"
