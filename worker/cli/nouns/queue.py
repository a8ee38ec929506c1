"""`jobsworth queue`: named streams of jobs, with their counts, pauses and fairness.

In: a queue's name. Out: whether workers may claim from it, and whose turn it is. Running jobs go on
when it is paused. A name that nothing uses is refused, because it is most often misspelt: the pause
of another queue would stop nothing.
"""

import difflib

import click

from db.diagnosis import checkup
from db.diagnosis.checkup import QueueCounts
from db.errors import NotFound
from db.limits import fairness
from db.pool import Connection
from db.queue import queues
from db.queue.queues import Queue
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import emit_json, say
from worker.cli.views.tables import emit_queues

DEFAULT = "default"

queue = Noun("queue", "Queues: named streams of jobs.")


@queue.verb("list", "jobsworth queue")
@options.as_json
def list_queues(as_json: bool) -> None:
    """List the queues that have open jobs, a worker or a pause, or are fair."""

    async def work(conn: Connection) -> list[QueueCounts]:
        return await checkup.queues(conn)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        emit_queues(found)


@queue.verb("pause", "jobsworth queue pause default", "jobsworth queue pause nightly --new")
@options.queue_name
@click.option("--new", is_flag=True, help="Pause it although no job and no worker uses it yet.")
@options.as_json
def pause(queue: str, new: bool, as_json: bool) -> None:
    """Pause a queue: no job of it is claimed; running jobs go on."""

    async def work(conn: Connection) -> Queue:
        if not new:
            await _require_known(conn, queue, f"jobsworth queue pause {queue} --new")
        return await queues.pause(conn, queue)

    paused = run_in_database(work)
    if as_json:
        emit_json(paused)
    else:
        say(f"queue {queue} is paused; to resume it: jobsworth queue resume {queue}")


@queue.verb("resume", "jobsworth queue resume default")
@options.queue_name
@options.as_json
def resume(queue: str, as_json: bool) -> None:
    """Resume a paused queue."""

    async def work(conn: Connection) -> Queue:
        await _require_known(conn, queue, "jobsworth queue")
        return await queues.resume(conn, queue)

    resumed = run_in_database(work)
    if as_json:
        emit_json(resumed)
    else:
        say(f"queue {queue} is open again")


@queue.verb("fair", "jobsworth queue fair research", "jobsworth queue fair research --off")
@options.queue_name
@click.option("--off", is_flag=True, help="Start its jobs in their order again.")
@click.option("--new", is_flag=True, help="Although no job and no worker uses it yet.")
@options.as_json
def fair(queue: str, off: bool, new: bool, as_json: bool) -> None:
    """Start a queue's jobs in turns of their keys: a flood of one delays no other."""

    async def work(conn: Connection) -> None:
        if not new:
            await _require_known(conn, queue, f"jobsworth queue fair {queue} --new")
        await fairness.set_fair(conn, queue, not off)

    run_in_database(work)
    if as_json:
        emit_json({"queue": queue, "fair": not off})
    elif off:
        say(f"queue {queue} is not fair: its jobs start in their order")
    else:
        say(
            f"queue {queue} is fair: its jobs start in turns of their fair_key, by default their "
            f"team; to change a share: jobsworth queue weight {queue} KEY 3"
        )


@queue.verb("weight", "jobsworth queue weight research team-a 3")
@options.queue_name
@click.argument("key")
@click.argument("weight", type=float)
@options.as_json
def weight(queue: str, key: str, weight: float, as_json: bool) -> None:
    """Serve a key of a fair queue so many times as often as others; 1 is the usual weight."""

    async def work(conn: Connection) -> None:
        await _require_known(conn, queue, f"jobsworth queue fair {queue} --new")
        await fairness.set_weight(conn, queue, key, weight)

    run_in_database(work)
    if as_json:
        emit_json({"queue": queue, "key": key, "weight": weight})
    else:
        say(f"key {key} of queue {queue} has weight {weight:g} from its next job on")


async def _require_known(conn: Connection, name: str, otherwise: str) -> None:
    known = [each.name for each in await checkup.queues(conn)]
    if name in (DEFAULT, *known) or not name.strip():
        return
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? Or: " if near else ""
    raise NotFound(
        f"there is no queue {name!r}: no job and no worker uses it, and it is not paused",
        f"{meant}{otherwise}",
    )
