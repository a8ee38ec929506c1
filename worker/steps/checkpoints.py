"""Checkpoints of a job: a state saved under a name, to go on from and to fork at.

In: a name and a state. Out: the state that stands under that name: the first that was saved. They
are steps, and share their names.
"""

from typing import TYPE_CHECKING, Any

from db.documents import to_document
from db.errors import InvalidInput
from db.steps import checkpoints
from db.steps.checkpoints import Checkpoint
from worker.steps import steps

if TYPE_CHECKING:
    from worker.job import Job


async def save(job: "Job", name: str, state: Any) -> Any:
    """Save a state, unless it is there; returns the one that stands.

    A pruned one is not saved again: the state given is returned.
    """
    document = to_document(state, f"the state of checkpoint {name!r}")
    found, output = await steps.read(job, name)
    if not found:
        return await steps.record(job, name, document, 0.0, kind="checkpoint")
    kind = job.known.get(name, steps.Known()).kind
    if kind not in ("checkpoint", "pruned"):
        raise InvalidInput(
            f"{name!r} is a {kind} of job {job.id} already, so no checkpoint can have that name",
            "a name stands for one thing in all attempts: give the checkpoint another",
        )
    return state if kind == "pruned" else output


async def latest(job: "Job") -> Checkpoint | None:
    """The one that was saved last."""
    async with job.tools.database.connection() as connection:
        return await checkpoints.latest_checkpoint(connection, job_id=job.id)


async def at(job: "Job", name: str) -> Checkpoint | None:
    """The one of that name."""
    async with job.tools.database.connection() as connection:
        return await checkpoints.checkpoint_at(connection, name, job_id=job.id)


async def prune(job: "Job", keep: int) -> int:
    """Drop the states of all but the newest; returns how many went."""
    async with job.tools.database.transaction() as connection:
        pruned = await checkpoints.prune(connection, job.lease, keep=keep)
    if pruned:
        job.recorded = None
    return pruned
