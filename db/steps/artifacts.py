"""Artifacts: files and addresses that jobs produced, or that were saved for a run.

In: ids. Out: the rows of artifacts, and separately their content, which may be large. A job's
artifacts are written with its transition (`db.queue.effects`), those of a run by `db.runs.saved`.
Only logs are written here, because they are needed most when their job fails.
"""

import hashlib
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import NotFound
from db.fence import FENCED, Lease, LeaseLost
from db.pool import Connection, fetch_all, fetch_one


class Artifact(BaseModel):
    """A row of `artifacts` without its content; `sha256` is that of the content, in hex.

    It is of a job, or was saved for a run. `step_name` is the step that made it, if that is known.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    job_id: UUID | None
    run_id: UUID | None
    step_name: str | None
    name: str
    media_type: str
    bytes: int | None
    sha256: str | None
    uri: str | None
    metadata: dict[str, Any]
    created_at: AwareDatetime


ARTIFACT_COLUMNS: LiteralString = """
  a.id, a.team_id, a.job_id, a.run_id, a.step_name, a.name, a.media_type, a.bytes, a.sha256, a.uri,
  coalesce(a.metadata, '{}') as metadata, a.created_at
"""

GET: LiteralString = (
    "select "
    + ARTIFACT_COLUMNS
    + """
from jobsworth.artifacts a
where a.id = %(id)s
"""
)


async def get(conn: AsyncConnection[Any], artifact_id: UUID) -> Artifact:
    """One artifact. Raises `NotFound`."""
    artifact = await fetch_one(conn, GET, {"id": artifact_id}, Artifact)
    if artifact is None:
        raise _not_found(artifact_id)
    return artifact


LIST_FOR_JOB: LiteralString = (
    "select "
    + ARTIFACT_COLUMNS
    + """
from jobsworth.artifacts a
where a.job_id = %(job_id)s
order by a.id
"""
)


async def list_for_job(conn: AsyncConnection[Any], job_id: UUID) -> list[Artifact]:
    """A job's artifacts, oldest first."""
    return await fetch_all(conn, LIST_FOR_JOB, {"job_id": job_id}, Artifact)


CONTENT: LiteralString = "select a.content from jobsworth.artifacts a where a.id = %(id)s"


async def content(conn: AsyncConnection[Any], artifact_id: UUID) -> bytes | None:
    """The content of an artifact; None for one that is only an address. Raises `NotFound`."""
    row = await fetch_one(conn, CONTENT, {"id": artifact_id})
    if row is None:
        raise _not_found(artifact_id)
    return row["content"]


# A branch's job also reads what the jobs that it goes on from had saved before the cut.
NAMED: LiteralString = """
select f.content, f.uri
from (
  select a.id, a.content, a.uri, 0 as depth
  from jobsworth.artifacts a
  where a.job_id = %(job_id)s and a.name = %(name)s
  union all
  select a.id, a.content, a.uri, c.depth
  from jobsworth.sources_of(%(job_id)s) c
  join jobsworth.artifacts a on a.job_id = c.from_job_id
  where a.name = %(name)s and a.created_at < c.cut_at
) f
order by f.depth, f.id desc
limit 1
"""


async def named(
    conn: AsyncConnection[Any], job_id: UUID, name: str
) -> tuple[bytes | None, str | None] | None:
    """The content, or else the address, of a job's file of this name; None if it has none."""
    row = await fetch_one(conn, NAMED, {"job_id": job_id, "name": name})
    return None if row is None else (row["content"], row["uri"])


KEEP_LOG: LiteralString = (
    FENCED
    + """
insert into jobsworth.artifacts (
  team_id, job_id, effect_key, name, media_type, bytes, sha256, content)
select f.team_id, f.id, %(key)s, %(name)s, 'text/plain', %(bytes)s, %(sha256)s, %(content)s
from fence f
on conflict (job_id, effect_key) do update
set bytes = excluded.bytes, sha256 = excluded.sha256, content = excluded.content,
  created_at = excluded.created_at
returning id
"""
)


async def keep_log(conn: Connection, lease: Lease, key: str, name: str, text: str) -> None:
    """Store the log of a deployment's phase as an artifact of its job; committed on return.

    It is not an effect: a deployment that fails also fails its job, whose effects are dropped, and
    the log is needed most then. A phase that runs again after its worker died replaces its log.
    Raises `LeaseLost`.
    """
    content = text.encode()
    values = {
        **lease._asdict(),
        "key": key,
        "name": name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "content": content,
    }
    if await fetch_one(conn, KEEP_LOG, values) is None:
        raise LeaseLost(lease)


def _not_found(artifact_id: UUID) -> NotFound:
    return NotFound(
        f"there is no artifact {artifact_id}", "list the artifacts of a job: list_for_job"
    )
