"""How long jobs that have ended are kept: rules by status, mode and queue.

In: a rule. Out: rows of `retention`. Invariant: without a rule nothing leaves. Of the rules that
fit a job, that which names its mode counts, then its queue, then its status.
"""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, LiteralString

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput, NotFound, shown
from db.pool import Connection, execute, fetch_all
from db.queue.jobs import JobStatus
from db.queue.new_job import NewJob

KEEP_SECONDS_MAX = 36_500 * 86_400.0
ENDS = (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class Jobs:
    """The jobs of a rule; None: whichever. Raises `InvalidInput`."""

    status: JobStatus | str | None = None
    mode: str | None = None
    queue: str | None = None

    def __post_init__(self) -> None:
        if self.status is not None and self.status not in ENDS:
            raise InvalidInput(
                f"jobs that are {shown(self.status)} do not leave",
                f"give one of {', '.join(ENDS)}, or leave it out for all three",
            )
        NewJob("any" if self.mode is None else self.mode, queue=self.queue_or("default"))

    def queue_or(self, other: str) -> str:
        """The queue, else the other one."""
        return other if self.queue is None else self.queue

    def values(self) -> dict[str, Any]:
        """The values of the statements here."""
        return {**asdict(self), "status": self.status and str(self.status)}


class Rule(BaseModel):
    """A row of `retention`; `keep_seconds` None: for ever."""

    model_config = ConfigDict(frozen=True)

    status: JobStatus | None
    mode: str | None
    queue: str | None
    keep_seconds: float | None
    created_at: AwareDatetime


SET: LiteralString = """
insert into jobsworth.retention (status, mode, queue, keep_seconds)
values (%(status)s::jobsworth.job_status, %(mode)s, %(queue)s, %(keep_seconds)s)
on conflict (status, mode, queue) do update set keep_seconds = excluded.keep_seconds
"""


async def set_rule(conn: Connection, jobs: Jobs, keep_seconds: float | None) -> None:
    """Keep these jobs for so long after their end; None: for ever. Raises `InvalidInput`."""
    if keep_seconds is not None and not (
        isfinite(keep_seconds) and 0 <= keep_seconds <= KEEP_SECONDS_MAX
    ):
        raise InvalidInput(
            f"{shown(keep_seconds)} seconds are not from 0 to 100 years",
            "give a time like 30d, or forever",
        )
    await execute(conn, SET, {**jobs.values(), "keep_seconds": keep_seconds})


REMOVE: LiteralString = """
delete from jobsworth.retention r
where r.status is not distinct from %(status)s::jobsworth.job_status
  and r.mode is not distinct from %(mode)s::text
  and r.queue is not distinct from %(queue)s::text
"""


async def remove_rule(conn: Connection, jobs: Jobs) -> None:
    """Remove the rule of exactly these jobs. Raises `NotFound`."""
    if not await execute(conn, REMOVE, jobs.values()):
        raise NotFound("there is no such rule", "list them: jobsworth retention")


LIST: LiteralString = """
select r.status, r.mode, r.queue, r.keep_seconds, r.created_at
from jobsworth.retention r
order by r.mode nulls last, r.queue nulls last, r.status nulls last
"""


async def list_rules(conn: Connection) -> list[Rule]:
    """All rules, those that count first."""
    return await fetch_all(conn, LIST, None, Rule)
