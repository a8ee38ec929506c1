"""Asking the model: the one way from the shipped modes to a language model.

In: a request, and the type of the output. Out: a `Made`: the output, and what making it took.
Invariant: every request goes by way of `job.agent`'s engine, whichever model answers, so each is a
call in the books and a recorded step, and a replay reads what was recorded.
"""

from typing import TYPE_CHECKING, Any, TypeVar

from worker.job import Job
from worker.modes.requests import Made, Request
from worker.plain_job import state_of

if TYPE_CHECKING:
    from pydantic_ai.models import Model

    from worker.modes.agents import Agents

T = TypeVar("T")


async def ask(job: Job, request: Request, kind: type[T], *, deps: Any = None) -> Made[T]:
    """What the model makes of the request; a replay reads the recorded answers.

    `deps` are those of the agent's tools. Raises `Unusable`, a `Fail`, if the model does not come
    to a usable `kind`.
    """
    agents = await state_of(job).tools.model.once(_agents)
    return await agents.ask(job, request, kind, deps)


def say(job: Job, text: str, made_by: Made[Any] | None = None, *, name: str) -> None:
    """Say `text` in the job's thread, if it has one, with the tokens and time that it took."""
    if job.thread_id is None:
        return
    if made_by is None:
        job.say(text, name=name)
        return
    job.say(
        text,
        name=name,
        model=made_by.model,
        input_tokens=made_by.input_tokens,
        output_tokens=made_by.output_tokens,
        latency_ms=made_by.latency_ms,
    )


def _agents(chosen: "Model | None") -> "Agents":
    # Loaded in a thread with the first job: pydantic-ai takes a second.
    from worker.modes.agents import Agents

    return Agents(chosen)
