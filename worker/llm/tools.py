"""Tool calls of an agent: each is a recorded step, and waits for its approval if it needs one.

In: a tool call that pydantic-ai has validated. Out: its result, from the record if an earlier
attempt has it. Invariant: a tool call whose result is recorded is not run again, and one that
requires approval is not run before somebody has approved exactly this tool and these arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.exceptions import ModelRetry, ToolFailed, ToolFailedError, ToolRetryError
from pydantic_ai.messages import ToolCallPart, ToolReturn, tool_return_content_ta
from pydantic_ai.models import Model
from pydantic_ai.tools import (
    DeferredToolRequests,
    DeferredToolResults,
    RunContext,
    ToolApproved,
    ToolDefinition,
    ToolDenied,
)
from pydantic_core import PydanticSerializationError, to_json

from db.approvals.questions import canonical
from worker.approvals import ask
from worker.llm.wrapper import Conversation, metered
from worker.outcomes import Fail, ParkSignal
from worker.steps import steps
from worker.steps.declaration import StepEffect
from worker.tracing import conventions
from worker.tracing.spans import within

ARGUMENTS_SHOWN_CHARACTERS_MAX = 500

_tool_return: TypeAdapter[Any] = TypeAdapter(ToolReturn)


@dataclass
class Durable(AbstractCapability[Any]):
    """Makes one run of an agent durable: it meters the model, records tools, and asks people."""

    conversation: Conversation
    effects: Mapping[str, StepEffect | None]
    approval_seconds: float | None

    def get_ordering(self) -> CapabilityOrdering:
        # Innermost, next to the model and the tools: the agent's own hooks run in every replay.
        return CapabilityOrdering(position="innermost")

    def get_wrapper_model(self, model: Model) -> Model:
        return metered(model, self.conversation)

    async def prepare_tools(
        self, ctx: RunContext[Any], tool_defs: list[ToolDefinition]
    ) -> list[ToolDefinition]:
        unknown = self.effects.keys() - {tool.name for tool in tool_defs}
        if unknown and self.conversation.answered == 0:
            known = ", ".join(sorted(tool.name for tool in tool_defs)) or "none"
            raise Fail(
                f"effects of {self.conversation.name!r} names {', '.join(sorted(unknown))}, which "
                f"the agent does not have; its tools are: {known}"
            )
        return tool_defs

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Any,
    ) -> Any:
        effect = self.effects.get(tool_def.name, "idempotent")
        # A tool with a kind is pydantic-ai's own: it changes the run and nothing else.
        if effect is None or tool_def.tool_kind is not None:
            return await handler(args)

        async def run(given: dict[str, Any]) -> dict[str, Any]:
            with within(state.tools.tracing, conventions.tool(tool_def.name, call.tool_call_id)):
                return _document(tool_def.name, await _outcome(handler, given))

        state = self.conversation.state
        step = steps.run(
            state,
            self._step(call),
            run,
            [args],
            {},
            effect=effect,
            any_input=self.conversation.if_changed == "reuse",
        )
        # The agent cancels its other tool calls when one of them ends by an exception.
        return _result(await state.beside.held(step))

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults:
        if requests.calls:
            tools = ", ".join(sorted({call.tool_name for call in requests.calls}))
            raise Fail(
                f"the agent of {self.conversation.name!r} defers calls of {tools} to be answered "
                "from outside, which job.agent does not support; let the tool itself wait "
                "(job.wait, job.gather), and declare effects={tool: None}"
            )
        decided = dict[str, bool | ToolApproved | ToolDenied]()
        parked: ParkSignal | None = None
        places = {call_id: n for n, call_id in enumerate(self.conversation.tool_steps)}
        for call in sorted(requests.approvals, key=lambda call: places.get(call.tool_call_id, -1)):
            try:
                decided[call.tool_call_id] = await self._decision(call)
            except ParkSignal as signal:
                parked = signal
        if parked is not None:
            # One wait for all questions: each signal carries only those asked before it.
            state = self.conversation.state
            raise state.park("approval", detail=parked.parked.detail) from parked
        return DeferredToolResults(approvals=decided)

    async def _decision(self, call: ToolCallPart) -> ToolApproved | ToolDenied:
        arguments = call.args_as_dict()
        shown = to_json(arguments, fallback=str).decode()[:ARGUMENTS_SHOWN_CHARACTERS_MAX]
        step = self._step(call)
        is_step = self.effects.get(call.tool_name, "idempotent") is not None
        decision = await ask.ask(
            self.conversation.state,
            f"Let {self.conversation.name} call {call.tool_name}({shown})?",
            shows={"tool": call.tool_name, "arguments": arguments},
            deadline_seconds=self.approval_seconds,
            name=step,
            editable=True,
            for_step=step if is_step else None,
        )
        if decision.approved:
            return ToolApproved(override_args=_edited(call.tool_name, decision.shown, arguments))
        return ToolDenied(decision.comment or "The tool call was denied.")

    def _step(self, call: ToolCallPart) -> str:
        """The step of a tool call: named by request, tool and number, as ids may repeat."""
        name = self.conversation.tool_steps.get(call.tool_call_id)
        # None for a call out of `message_history`, from before this conversation.
        return name or f"{self.conversation.name}/history/tool {call.tool_name} {call.tool_call_id}"


def _edited(tool: str, shown: Any, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments that a person approved, if they are not those of the call; else None."""
    match shown:
        case {"tool": named, "arguments": dict(arguments), **rest} if named == tool and not rest:  # pyright: ignore[reportUnknownVariableType]
            approved = cast("dict[str, Any]", arguments)
            # As JSON: to Python, 1 is True.
            return None if canonical(approved) == canonical(asked) else approved
        case _:
            raise Fail(
                f"the document that was approved is not a call of tool {tool!r}; "
                f'approve a document like {{"tool": "{tool}", "arguments": {{…}}}}'
            )


async def _outcome(handler: Any, args: dict[str, Any]) -> Any:
    """What the tool returns. What it raises to tell the model something is a result, too."""
    try:
        return await handler(args)
    except (ModelRetry, ToolFailed) as told:
        return told
    except (ToolRetryError, ValidationError) as error:
        return ModelRetry(_told(error))
    except ToolFailedError as error:
        return ToolFailed(str(error))


def _told(error: ToolRetryError | ValidationError) -> str:
    content = error.tool_retry.content if isinstance(error, ToolRetryError) else None
    return content if isinstance(content, str) else str(error)


def _document(tool: str, outcome: Any) -> dict[str, Any]:
    match outcome:
        case ModelRetry():
            return {"retry": outcome.message}
        case ToolFailed():
            return {"failed": outcome.message}
        case _:
            pass
    try:
        if type(outcome) is ToolReturn:
            return {"tool_return": _tool_return.dump_python(outcome, mode="json")}
        return {"result": tool_return_content_ta.dump_python(outcome, mode="json")}
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise Fail(
            f"tool {tool!r} returned a {type(outcome).__name__} that cannot be recorded ({error}); "
            "return plain data (dicts, lists, strings, numbers, dataclasses or pydantic models), "
            f"or pass effects={{{tool!r}: None}} to job.agent to have it run in every replay"
        ) from error


def _result(document: Any) -> Any:
    match document:
        case {"retry": message}:
            raise ModelRetry(message)
        case {"failed": message}:
            raise ToolFailed(message)
        case {"tool_return": value}:
            return _tool_return.validate_python(value)
        case _:
            return tool_return_content_ta.validate_python(document["result"])
