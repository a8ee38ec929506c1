"""Steps and files that another program made, saved for a run, with or without jobs.

In: a run, a name and what was made. Out: a row that stands. Invariant: what is saved again under
the same name is there once, so a caller whose answer was lost may save it again; other content
under that name is refused. The functions are in migrations/schema/runs/saved.sql. `save_llm_call`
is in `worker.money.saved`, because it knows the prices.
"""

import mimetypes
from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection

from db.arguments import check_uri
from db.documents import to_document, to_metadata, to_text
from db.errors import InvalidInput
from db.pool import Database, fetch_val
from db.queue.effects import ARTIFACT_BYTES_MAX
from db.safe_write import write_safely

SAVE_STEP: LiteralString = """
select jobsworth.save_step(
  %(run_id)s, %(name)s, output => %(output)s::jsonb, input => %(input)s::jsonb,
  error => %(error)s, kind => %(kind)s, metadata => %(metadata)s::jsonb,
  started_at => %(started_at)s, finished_at => %(finished_at)s)
"""


async def save_step(
    conn: AsyncConnection[Any] | Database,
    run_id: UUID,
    name: str,
    output: object = None,
    *,
    input: object = None,
    error: str | None = None,
    kind: str = "step",
    metadata: Mapping[str, Any] | None = None,
    started_at: datetime | None = None,
    finished_at: datetime | None = None,
) -> bool:
    """Save a step of a run; with `error`, one that failed. `output` and `input` are JSON values.

    Returns whether it is new, or takes the place of a failed one. With a `Database` in place of the
    connection it is committed on return, and a connection that is lost meanwhile is replaced.
    Raises `NotFound`; `Conflict` if the step is saved with another output.
    """
    values = {
        "run_id": run_id,
        "name": name,
        "output": to_document(output, f"the output of step {name!r}"),
        "input": None if input is None else to_document(input, f"the input of step {name!r}"),
        "error": None if error is None else to_text(error),
        "kind": kind,
        "metadata": to_metadata(metadata, "a step"),
        "started_at": started_at,
        "finished_at": finished_at,
    }

    async def write(conn: AsyncConnection[Any]) -> bool:
        return await fetch_val(conn, SAVE_STEP, values)

    return await write_safely(conn, write)


SAVE_ARTIFACT: LiteralString = """
select jobsworth.save_artifact(
  %(run_id)s, %(name)s, content => %(content)b::bytea, uri => %(uri)s, media_type => %(media_type)s,
  metadata => %(metadata)s::jsonb, step_name => %(step)s)
"""


async def save_artifact(
    conn: AsyncConnection[Any] | Database,
    run_id: UUID,
    name: str,
    content: bytes | None = None,
    *,
    uri: str | None = None,
    media_type: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    step: str | None = None,
) -> UUID:
    """Save a file of a run: its content (at most 100 MiB), or the `uri` where it is stored.

    Returns its id. `step` names the step that made it; without `media_type` the type is guessed
    from the name. With a `Database` in place of the connection it is committed on return, and a
    connection that is lost meanwhile is replaced. Raises `NotFound`, `InvalidInput`; `Conflict` if
    the run has another file of that name.
    """
    check_uri(f"file {name!r}", uri)
    if content is not None and len(content) > ARTIFACT_BYTES_MAX:
        raise InvalidInput(
            f"file {name!r} has {len(content):,} bytes; at most {ARTIFACT_BYTES_MAX:,} are allowed",
            "store the file elsewhere, and save its uri",
        )
    values = {
        "run_id": run_id,
        "name": name,
        "content": content,
        "uri": uri,
        "media_type": media_type or mimetypes.guess_type(name)[0] or "application/octet-stream",
        "metadata": to_metadata(metadata, "a file"),
        "step": step,
    }

    async def write(conn: AsyncConnection[Any]) -> UUID:
        return await fetch_val(conn, SAVE_ARTIFACT, values)

    return await write_safely(conn, write)
