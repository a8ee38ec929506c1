"""`jobsworth queue pause | resume | list`.

In: a queue's name. Out: whether workers may claim from it. Jobs that run already go on.
"""

from db.diagnosis import checkup
from db.diagnosis.checkup import QueueCounts
from db.pool import Connection
from db.queue import queues
from db.queue.queues import Queue
from worker.cli.database import run_in_database
from worker.cli.output import Column, emit_json, emit_table, say, styled
from worker.settings import load_settings

COLUMNS = [
    Column("QUEUE", flexible=True),
    Column("STATE"),
    Column("QUEUED", right=True),
    Column("WAITING", right=True),
    Column("RUNNING", right=True),
]


def pause(name: str, *, as_json: bool) -> None:
    async def work(conn: Connection) -> Queue:
        return await queues.pause(conn, name)

    queue = run_in_database(load_settings(), work)
    if as_json:
        emit_json(queue)
    else:
        say(f"queue {name} is paused; go on with: jobsworth queue resume {name}")


def resume(name: str, *, as_json: bool) -> None:
    async def work(conn: Connection) -> Queue:
        return await queues.resume(conn, name)

    queue = run_in_database(load_settings(), work)
    if as_json:
        emit_json(queue)
    else:
        say(f"queue {name} goes on")


def list_queues(*, as_json: bool) -> None:
    async def work(conn: Connection) -> list[QueueCounts]:
        return await checkup.queues(conn)

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json(found)
    else:
        emit_queues(found)


def emit_queues(found: list[QueueCounts]) -> None:
    """A table of queues."""
    rows = [
        [
            queue.name,
            styled("paused" if queue.paused else "open"),
            f"{queue.queued:,}",
            f"{queue.waiting:,}",
            f"{queue.running:,}",
        ]
        for queue in found
    ]
    emit_table(COLUMNS, rows, "no queue has open jobs, a worker or a pause")
