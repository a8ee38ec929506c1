"""The offline rules as a pydantic-ai model, used as any other but without a provider.

In: the requests of the shipped modes' agents. Out: responses by `worker.modes.offline`. Invariant:
it costs nothing and says so, counts its own tokens, and its output always has the type asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from worker.memory.quoting import quoted
from worker.modes import offline
from worker.modes.conversation import NO_TEXT, NOT_FIRST, Turn
from worker.modes.extraction import quoted_messages
from worker.modes.plans import Deploy, Note, Plan, Save, Search, Step

# Names of the tools by which the agents of the shipped modes return their output.
CLASSIFIED = "classified"
PLANNED = "planned"
CARRIED_OUT = "carried_out"
EXTRACTED = "extracted"


@dataclass(slots=True)
class Heard:
    """What a request holds: turns, memories, and what the tools have returned so far."""

    turns: list[Turn] = field(default_factory=list[Turn])
    memories: list[str] = field(default_factory=list[str])
    returned: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def texts(self) -> Iterable[str]:
        yield from (text for _, text in self.turns)
        yield from self.memories
        yield from offline.words_of(self.returned)


class OfflineModel(Model):
    """Answers by rules; only for the agents of the shipped modes."""

    price = (Decimal(0), offline.PRICE_VERSION)

    def __init__(self) -> None:
        super().__init__(settings=ModelSettings(max_tokens=offline.OUTPUT_TOKENS_MAX))

    @property
    def model_name(self) -> str:
        return offline.MODEL

    @property
    def system(self) -> str:
        return offline.PROVIDER

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        heard = _heard(messages)
        part = _part(heard, [tool.name for tool in model_request_parameters.output_tools])
        said = part.content if isinstance(part, TextPart) else part.args_as_dict()
        usage = RequestUsage(
            input_tokens=offline.count_tokens(*heard.texts),
            output_tokens=offline.count_tokens(*offline.words_of(said)),
        )
        return ModelResponse([part], usage=usage, model_name=offline.MODEL)


def _part(heard: Heard, outputs: Sequence[str]) -> TextPart | ToolCallPart:
    match outputs:
        case []:
            return TextPart(offline.respond("answer", heard.turns, heard.memories)["text"])
        case [name] if name == CLASSIFIED:
            return ToolCallPart(name, offline.respond("classify", heard.turns, ()))
        case [name] if name == PLANNED:
            return ToolCallPart(name, offline.respond("plan", heard.turns, heard.memories))
        case [name] if name == CARRIED_OUT:
            return _next_call(heard)
        case [name] if name == EXTRACTED:
            return ToolCallPart(name, offline.extract(quoted_messages(heard.turns[-1][1])))
        case _:
            raise UserError("the offline model serves only the shipped modes; set JOBSWORTH_MODEL")


def _next_call(heard: Heard) -> ToolCallPart:
    """The plan's next step, until one has failed or all are done."""
    plan = Plan.model_validate_json(heard.turns[-1][1])
    done = len(heard.returned)
    if done == len(plan.steps) or not all(result["passed"] for result in heard.returned):
        return ToolCallPart(CARRIED_OUT, {"remarks": ""})
    return _call(plan.steps[done], heard.returned)


def _call(step: Step, before: Sequence[dict[str, Any]]) -> ToolCallPart:
    match step:
        case Search():
            return ToolCallPart("search_memory", {"query": step.query})
        case Note():
            return ToolCallPart("note", {"text": step.text})
        case Save():
            details = [result["detail"] for result in before]
            found = [one for result in before for one in result["found"]]
            content = offline.compose(step.text, details, found)
            return ToolCallPart("save_artifact", {"name": step.name, "content": content})
        case Deploy():
            return ToolCallPart("deploy", {"environment": step.environment, "sha": step.sha})


def _heard(messages: Iterable[ModelMessage]) -> Heard:
    heard = Heard()
    for message in messages:
        for part in message.parts:
            match part:
                case UserPromptPart(content=str() as text):
                    heard.turns.append(("user", _said(text)))
                case UserPromptPart(content=[str() as quotes, str() as text]):
                    heard.memories = quoted("memories", quotes)
                    heard.turns.append(("user", _said(text)))
                case TextPart():
                    heard.turns.append(("assistant", part.content))
                case ToolReturnPart():
                    heard.returned.append(cast(dict[str, Any], part.content))
                case _:
                    pass
    return heard


def _said(text: str) -> str:
    """The text, or "" for what stands in place of an empty one."""
    return "" if text in (NO_TEXT, NOT_FIRST) else text
