"""`/bulk`: one operation on every job that a filter matches.

In: an operation and a filter. Out: what it would do, or the job that does it. Invariant: the filter
of a caller of one team matches that team's jobs alone.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from db.bulk import batches
from db.bulk.batches import Change, Operation, Preview
from db.bulk.filters import JobFilter
from worker.api.access import Access, may
from worker.api.problems import Forbidden, documented

router = APIRouter(prefix="/bulk", tags=["jobs"])
Write = Annotated[Access, may("jobs:write")]


class NewBulk(BaseModel):
    """What to do, with which jobs. An empty filter is refused. `queue`: to move to; `priority`: to
    give. With `dry_run`, nothing is done.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    operation: Operation
    which: JobFilter = Field(alias="filter")
    reason: str = Field("canceled by a bulk operation", max_length=1_000)
    queue: str | None = None
    priority: int | None = None
    dry_run: bool = True


class Bulk(BaseModel):
    """What it does; `id` is the job that does it, null for a dry run and where no job matches."""

    id: UUID | None
    preview: Preview


@router.post(
    "", summary="Cancel, retry, run now, move or reprioritize many", responses=documented()
)
async def operate(access: Write, new: NewBulk, response: Response) -> Bulk:
    """Counts and examples; unless it is a dry run (the default), 202 and a job that does it."""
    team_id = access.caller.team_id
    which = new.which
    if team_id is not None:
        if which.team_id not in (None, team_id):
            raise Forbidden("the filter is for another team", "leave team_id out")
        which = which.model_copy(update={"team_id": team_id})
    change = Change(new.operation, new.reason, new.queue, new.priority)
    change.check()
    async with access.reading() as conn:
        preview = await batches.preview(conn, change, which)
    if new.dry_run or preview.jobs == 0:
        return Bulk(id=None, preview=preview)
    async with access.acting() as conn:
        job_id = await batches.start(
            conn, change, which, preview.jobs, team_id=team_id, request_id=access.request_id
        )
    response.status_code = 202
    return Bulk(id=job_id, preview=preview)
