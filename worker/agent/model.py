"""The seam to a language model: one request in, one answer out, one row in the books.

In: what is to be done, and the turns and memories that may be used for it. Out: a `Reply` with the
model's own words and what they cost. Invariant: no handler of this package reaches a model but
through `ask`, so every use is a call of its job: written before it is sent, settled after, and
never paid for twice.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from db.tokens import Answer, Usage
from worker.agent import offline
from worker.agent.plans import Plan
from worker.calls import Sending
from worker.context import Job
from worker.outcomes import Fail

Task = Literal["classify", "answer", "plan"]
T = TypeVar("T", bound=BaseModel)

PRICE_VERSION = f"{offline.PROVIDER}:{offline.MODEL}"


@dataclass(frozen=True, slots=True)
class Request:
    """`turns` are (role, text), oldest first; the last one is what is to be dealt with."""

    task: Task
    turns: tuple[tuple[str, str], ...]
    memories: tuple[str, ...] = ()

    @property
    def texts(self) -> Sequence[str]:
        """Everything the model reads."""
        return (self.task, *(text for _, text in self.turns), *self.memories)


class Classified(BaseModel):
    """Which mode a message is for, and what speaks for it."""

    mode: Literal["answer", "plan"]
    reason: str


class Answered(BaseModel):
    text: Annotated[str, Field(min_length=1)]


class Planned(BaseModel):
    plan: Plan


class Reply(BaseModel):
    """What a call recorded: the model's content, which model it was, and what it took."""

    model_config = ConfigDict(frozen=True)

    content: dict[str, Any]
    model: str
    input_tokens: int
    output_tokens: int
    latency_ms: int

    def read_as(self, kind: type[T]) -> T:
        """The content as `kind`. Raises `Fail`: a retry would read the same recorded answer."""
        try:
            return kind.model_validate(self.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Fail(
                f"the answer of {self.model} cannot be used as {kind.__name__.lower()}: "
                f"{place}: {first['msg']}"
            ) from error


async def ask(job: Job, name: str, request: Request) -> Reply:
    """Put `request` to the model as the call `name` of this job; a replay reads what it said."""

    async def send(sending: Sending) -> Answer:
        return await reply(sending, request)

    recorded = await job.call(
        name,
        send,
        provider=offline.PROVIDER,
        model=offline.MODEL,
        estimate=(offline.count_tokens(*request.texts), offline.OUTPUT_TOKENS_MAX),
    )
    return Reply.model_validate(recorded)


def say(job: Job, text: str, made_by: Reply | None = None, *, name: str) -> None:
    """Say `text` in the job's thread, if it has one, with the reply it was made of."""
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


async def reply(sending: Sending, request: Request) -> Answer:
    """Send one request to the configured model. The offline one is the only one there is."""
    began = time.monotonic()
    sending.sent()
    content = offline.respond(request.task, request.turns, request.memories)
    usage = Usage(
        input_tokens=offline.count_tokens(*request.texts),
        output_tokens=offline.count_tokens(*offline.words_of(content)),
    )
    recorded = Reply(
        content=content,
        model=PRICE_VERSION,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        latency_ms=round((time.monotonic() - began) * 1000),
    )
    return Answer(recorded.model_dump(), usage, cost=Decimal(0), price_version=PRICE_VERSION)
