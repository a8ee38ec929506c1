"""What jobs produced: files and addresses, kept with the job that made them.

In: ids. Out: what is known of an artifact, and its content apart, which may be large. Artifacts are
written with the transition of their job (`db.effects`), never here.
"""

from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import NotFound
from db.pool import fetch_all, fetch_one


class Artifact(BaseModel):
    """A row of `artifacts` without its content; `sha256` is that of the content, in hex."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    job_id: UUID
    name: str
    media_type: str
    bytes: int | None
    sha256: str | None
    uri: str | None
    created_at: AwareDatetime


GET: LiteralString = """
select a.id, a.team_id, a.job_id, a.name, a.media_type, a.bytes, a.sha256, a.uri, a.created_at
from jobsworth.artifacts a
where a.id = %(id)s
"""


async def get(conn: AsyncConnection[Any], artifact_id: UUID) -> Artifact:
    """Raises `NotFound`."""
    artifact = await fetch_one(conn, GET, {"id": artifact_id}, Artifact)
    if artifact is None:
        raise _not_found(artifact_id)
    return artifact


LIST_FOR_JOB: LiteralString = """
select a.id, a.team_id, a.job_id, a.name, a.media_type, a.bytes, a.sha256, a.uri, a.created_at
from jobsworth.artifacts a
where a.job_id = %(job_id)s
order by a.id
"""


async def list_for_job(conn: AsyncConnection[Any], job_id: UUID) -> list[Artifact]:
    """A job's artifacts in the order of their making."""
    return await fetch_all(conn, LIST_FOR_JOB, {"job_id": job_id}, Artifact)


CONTENT: LiteralString = "select a.content from jobsworth.artifacts a where a.id = %(id)s"


async def content(conn: AsyncConnection[Any], artifact_id: UUID) -> bytes | None:
    """The bytes of an artifact; None for one that is only an address. Raises `NotFound`."""
    row = await fetch_one(conn, CONTENT, {"id": artifact_id})
    if row is None:
        raise _not_found(artifact_id)
    return row["content"]


def _not_found(artifact_id: UUID) -> NotFound:
    return NotFound(f"there is no artifact {artifact_id}", "list those of a job: list_for_job")
