"""The seam to a language model: what the shipped modes ask for, and what they get.

In: what is to be done, and the turns and memories that may be used for it. Out: a `Made`: the typed
output, and what making it took. Invariant: no handler of this package reaches a model but through
`ask`, which is `job.agent`: every request is a call in the books and a recorded step, whichever
model answers, and a replay reads what was recorded.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from worker.job import Job
from worker.modes import offline

if TYPE_CHECKING:
    from pydantic_ai.models import Model

    from worker.modes.agents import Agents

Task = Literal["classify", "answer", "plan", "execute"]
T = TypeVar("T")

PRICE_VERSION = f"{offline.PROVIDER}:{offline.MODEL}"
REMARKS_CHARACTERS_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Request:
    """`turns` are (role, text), oldest first; the last one is what is to be dealt with."""

    task: Task
    turns: tuple[tuple[str, str], ...]
    memories: tuple[str, ...] = ()


class Classified(BaseModel):
    """Which mode the message is for: "plan" if it asks for something to be done, else "answer"."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["answer", "plan"]
    reason: str = Field(max_length=1_000, description="what speaks for it, in one short sentence")


class CarriedOut(BaseModel):
    """The end of a plan."""

    model_config = ConfigDict(frozen=True)

    remarks: str = Field(
        "",
        max_length=REMARKS_CHARACTERS_MAX,
        description="what people should know beside the list of what was done; may be empty",
    )


@dataclass(frozen=True, slots=True)
class Made(Generic[T]):
    """What a model made, and what it took: the sums over the answers that it was made of."""

    output: T
    model: str
    input_tokens: int
    output_tokens: int
    latency_ms: int


async def ask(job: Job, request: Request, kind: type[T], *, deps: Any = None) -> Made[T]:
    """Have the model do `request.task`; a replay reads what it said.

    Raises `Fail` if the model does not come to a usable `kind`.
    """
    agents = await job.tools.model.once(_agents)
    return await agents.ask(job, request, kind, deps)


def say(job: Job, text: str, made_by: Made[Any] | None = None, *, name: str) -> None:
    """Say `text` in the job's thread, if it has one, with what making it took."""
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
