"""Checkpoints of a job: a state saved under a name, to go on from and to fork at.

In: a name and a state. Out: the state that stands under that name: in a replay the one that is
saved, until the attempt goes on from it and saves another. Checkpoints are steps: no other step of
the job can have the name.
"""

from typing import Any

from orjson import loads

from db.documents import readable, to_document
from db.errors import InvalidInput
from db.queue.effects import ARTIFACT_BYTES_MAX
from db.steps import checkpoints
from db.steps.checkpoints import Checkpoint
from worker.attempt_state import AttemptState, RecordedStep
from worker.steps import steps


async def save(
    state: AttemptState, name: str, value: Any, blob: bytes | None, keep: int | None
) -> Any:
    """Save `value`, unless an earlier attempt has saved this checkpoint; returns what stands.

    `blob` is saved beside it. With `keep`, older checkpoints are pruned in the same commit. Once
    this attempt has saved or read the checkpoint, `value` replaces it. A checkpoint that was pruned
    is not saved again by a replay: then the value that was given is returned.
    """
    document = to_document(value, f"the state of checkpoint {name!r}")
    _check(name, blob, keep)
    recorded = await steps.find(state, name)
    if recorded is not None and recorded.kind not in ("checkpoint", "pruned"):
        raise InvalidInput(
            f"{name!r} is a {recorded.kind} of job {state.job.id} already, so no checkpoint can"
            " have that name",
            "a name stands for one thing in all attempts: give the checkpoint another",
        )
    again = name in state.checkpoints and (recorded is None or recorded.kind == "checkpoint")
    state.checkpoints.add(name)
    if recorded is not None and not again:
        return value if recorded.kind == "pruned" else recorded.output
    new = recorded is None or recorded.inherited
    if new and blob is None and keep is None:
        return await steps.record(state, name, document, 0.0, kind="checkpoint")
    write = checkpoints.save if new else checkpoints.replace
    async with state.tools.database.transaction() as connection:
        await write(connection, state.lease, name, document, state.job.attempt, blob)
        if keep is not None and await checkpoints.prune(connection, state.lease, keep=keep):
            state.recorded = None
    return steps.keep(state, name, RecordedStep(loads(document), "checkpoint"))


def _check(name: str, blob: object, keep: object) -> None:
    if blob is not None and not isinstance(blob, bytes):
        raise InvalidInput(
            f"the blob of checkpoint {name!r} is {type(blob).__name__}, not bytes",
            "pass bytes, like pickle.dumps(…), or leave it out",
        )
    if isinstance(blob, bytes) and len(blob) > ARTIFACT_BYTES_MAX:
        raise InvalidInput(
            f"the blob of checkpoint {name!r} has {len(blob):,} bytes, more than"
            f" {ARTIFACT_BYTES_MAX:,}",
            "keep it elsewhere, and its address in the state",
        )
    if keep is not None and (not isinstance(keep, int) or keep < 1):
        raise InvalidInput(f"{keep} checkpoints cannot be kept", "keep at least the latest one")


async def latest(state: AttemptState) -> Checkpoint | None:
    """The checkpoint that was saved last."""
    async with state.tools.database.connection() as connection:
        return _read(state, await checkpoints.latest_checkpoint(connection, job_id=state.job.id))


async def at(state: AttemptState, at: str | int) -> Checkpoint | None:
    """The checkpoint of that name or number."""
    async with state.tools.database.connection() as connection:
        return _read(state, await checkpoints.checkpoint_at(connection, at, job_id=state.job.id))


def _read(state: AttemptState, found: Checkpoint | None) -> Checkpoint | None:
    if found is not None:
        state.checkpoints.add(found.name)
        readable(found.state, f"the state of checkpoint {found.name!r}")
    return found


async def prune(state: AttemptState, keep: int) -> int:
    """Delete the states of all but the newest `keep` checkpoints; returns how many went."""
    async with state.tools.database.transaction() as connection:
        pruned = await checkpoints.prune(connection, state.lease, keep=keep)
    if pruned:
        state.recorded = None
    return pruned
