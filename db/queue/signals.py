"""Signals: named messages to a job.

In: a job, a name and a document. Out: a signal in the job's mailbox. A job that waits for that name
goes on in the same transaction; one that waits for it later finds it there.
"""

from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection

from db.arguments import check_text
from db.documents import to_document
from db.errors import InvalidInput, shown
from db.ids import uuidv7
from db.pool import Database, fetch_val
from db.safe_write import write_safely

SEND: LiteralString = """
select jobsworth.send_signal(%(job_id)s, %(name)s, %(payload)s::jsonb, %(id)s::uuid)
"""


async def send(
    conn: AsyncConnection[Any] | Database,
    job_id: UUID,
    name: str,
    payload: object = None,
    *,
    id: UUID | None = None,
) -> UUID:
    """Send a signal; returns its id. `payload` is any JSON value. `id`: your own, so that a
    repeated call sends nothing more.

    With a `Database` in place of the connection it is committed on return; a connection that is
    lost meanwhile is replaced, and the signal sent once. Waits while another transaction holds the
    job. Raises `NotFound`; `Conflict` if it has ended.
    """
    if not check_text("name", name).strip() or "\0" in name:
        raise InvalidInput(
            f"{shown(name)} is not the name of a signal", "use the name the job waits for"
        )
    document = None if payload is None else to_document(payload, f"the payload of signal {name}")
    values = {"job_id": job_id, "name": name, "payload": document, "id": id or uuidv7()}
    return await write_safely(conn, lambda connection: fetch_val(connection, SEND, values))
