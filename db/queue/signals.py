"""Signals: named messages to a job.

In: a job, a name and a document. Out: a signal in the job's mailbox. A job that waits for that name
goes on in the same transaction; one that waits for it later finds it there.
"""

from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection

from db.documents import to_document
from db.errors import InvalidInput
from db.pool import fetch_val

SEND: LiteralString = "select jobsworth.send_signal(%(job_id)s, %(name)s, %(payload)s::jsonb)"


async def send(conn: AsyncConnection[Any], job_id: UUID, name: str, payload: object = None) -> UUID:
    """Send a signal; returns its id. `payload` is any JSON value.

    Waits while another transaction holds the job. Raises `NotFound`; `Conflict` if it has ended.
    """
    if not name.strip() or "\0" in name:
        raise InvalidInput(
            f"{name!r} is not the name of a signal", "use the name the job waits for"
        )
    document = None if payload is None else to_document(payload, f"the payload of signal {name}")
    return await fetch_val(conn, SEND, {"job_id": job_id, "name": name, "payload": document})
