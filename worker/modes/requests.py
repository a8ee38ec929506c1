"""What the shipped modes ask of a model, and what they get back."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from worker.outcomes import Fail

Task = Literal["classify", "answer", "plan", "execute", "remember"]
T = TypeVar("T")

REMARKS_CHARACTERS_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the model of `task`.

    `turns` are (role, text), oldest first; the last one is the message to be dealt with.
    `memories` are texts that were recalled for it. `name`: one of several of a task in a job.
    """

    task: Task
    turns: tuple[tuple[str, str], ...]
    memories: tuple[str, ...] = ()
    name: str | None = None


class Unusable(Fail):
    """The model has answered and was paid, but nothing that it gave can be used."""


class Classified(BaseModel):
    """Which mode the message is for: "plan" if it asks for something to be done, else "answer"."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["answer", "plan"]
    reason: str = Field(max_length=1_000, description="what speaks for it, in one short sentence")


class CarriedOut(BaseModel):
    """The model's end of carrying out a plan."""

    model_config = ConfigDict(frozen=True)

    remarks: str = Field(
        "",
        max_length=REMARKS_CHARACTERS_MAX,
        description="what people should know beside the list of what was done; may be empty",
    )


@dataclass(frozen=True, slots=True)
class Made(Generic[T]):
    """What a model made; tokens and latency are sums over the answers that it took."""

    output: T
    model: str
    input_tokens: int
    output_tokens: int
    latency_ms: int
