"""`jobsworth queue`: named streams of jobs, with their counts and pauses.

In: a queue's name. Out: whether workers may claim from it. Running jobs go on when it is paused.
"""

from db.diagnosis import checkup
from db.diagnosis.checkup import QueueCounts
from db.pool import Connection
from db.queue import queues
from db.queue.queues import Queue
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import emit_json, say
from worker.cli.views.tables import emit_queues

queue = Noun("queue", "Queues: named streams of jobs.")


@queue.verb("list", "jobsworth queue")
@options.as_json
def list_queues(as_json: bool) -> None:
    """List the queues that have open jobs, a worker or a pause."""

    async def work(conn: Connection) -> list[QueueCounts]:
        return await checkup.queues(conn)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        emit_queues(found)


@queue.verb("pause", "jobsworth queue pause default")
@options.queue_name
@options.as_json
def pause(queue: str, as_json: bool) -> None:
    """Pause a queue: no job of it is claimed; running jobs go on."""

    async def work(conn: Connection) -> Queue:
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
        return await queues.resume(conn, queue)

    resumed = run_in_database(work)
    if as_json:
        emit_json(resumed)
    else:
        say(f"queue {queue} is open again")
