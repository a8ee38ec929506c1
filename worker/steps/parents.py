"""Parents: what the jobs that this one comes after have come to.

In: a job of a run, or one that was enqueued after others. Out: their results by node. Invariant:
only committed ends are seen, and there is one of each: a job starts when all it needs has ended.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from db.runs import view

if TYPE_CHECKING:
    from worker.job import Job


class Ended(NamedTuple):
    """How a parent ended that did not end well."""

    status: str
    error: str | None


class Parents(dict[str, Any]):
    """Results by node (by id, for a job without one). `failed` names those that have none."""

    __slots__ = ("failed",)

    def __init__(self, results: dict[str, Any], failed: dict[str, Ended]) -> None:
        super().__init__(results)
        self.failed = failed


async def read(job: "Job") -> Parents:
    """The results of the jobs that `job` comes after."""
    async with job.tools.database.connection() as connection:
        found = await view.parents(connection, job.id)
    return Parents(
        {one.name: one.result for one in found},
        {one.name: Ended(one.status, one.error) for one in found if one.status != "done"},
    )
