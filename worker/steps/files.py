"""The files of a job, read back.

In: a name. Out: the content that stands: what a former attempt has committed, else what this one
saves when it ends well. For a branch's job that includes files from before the cut.
"""

from db.errors import InvalidInput, NotFound
from db.queue.effects import ArtifactEffect
from db.steps import artifacts
from worker.attempt_state import AttemptState


async def load(state: AttemptState, name: str) -> bytes:
    """The content of a file. Raises `NotFound`, and `InvalidInput` for one that is elsewhere."""
    async with state.tools.database.connection() as connection:
        found = await artifacts.named(connection, state.job.id, name)
    if found is None:
        for one in state.effects:
            if isinstance(one, ArtifactEffect) and one.name == name:
                found = one.content, one.uri
    if found is None:
        raise NotFound(
            f"job {state.job.id} has no file {name!r}",
            "an attempt that failed saves nothing: look for it in a try, or save it again",
        )
    content, uri = found
    if content is None:
        raise InvalidInput(f"file {name!r} is elsewhere: {uri}", "fetch it from there")
    return content
