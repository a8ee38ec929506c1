"""Parents: the jobs that this one comes after, and how they ended.

In: a job of a run, or one that was enqueued after others. Out: the results of those jobs, by node.
Invariant: every attempt reads the same, because a job starts when all its parents have ended, and
only committed ends are read.
"""

from typing import Any, NamedTuple

from db.documents import readable
from db.runs import view
from worker.attempt_state import AttemptState


class Ended(NamedTuple):
    """How a parent ended that is not done: its status, and its error."""

    status: str
    error: str | None


class Parents(dict[str, Any]):
    """The results of a job's parents, by node; by id for a parent that is of no run.

    The result of a parent that is not done is None, and `failed` says how that parent ended.
    """

    __slots__ = ("failed",)

    def __init__(self, results: dict[str, Any], failed: dict[str, Ended]) -> None:
        super().__init__(results)
        self.failed = failed


async def read(state: AttemptState) -> Parents:
    """The results of the jobs that the job comes after."""
    async with state.tools.database.connection() as connection:
        found = await view.parents(connection, state.job.id)
    return Parents(
        {one.name: readable(one.result, f"the result of {one.name!r}") for one in found},
        {one.name: Ended(one.status, one.error) for one in found if one.status != "done"},
    )
