"""`job.agent`: one run of a pydantic-ai agent inside a job.

In: an agent and a prompt. Out: the agent's output. Invariant: the run takes the same way in every
attempt, because each answer of a model and each result of a tool is recorded; what is not recorded
yet is done now, and paid for once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.exceptions import AgentRunError, ModelAPIError, UserError
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model
from pydantic_ai.run import AgentRunResult

from db.errors import InvalidInput
from worker.attempt_state import AttemptState
from worker.llm import failures, unmetered
from worker.llm.failures import Unanswered
from worker.llm.tools import Durable
from worker.llm.wrapper import Conversation
from worker.outcomes import Fail
from worker.steps.declaration import STEP_EFFECTS, StepEffect
from worker.tracing import conventions
from worker.tracing.spans import within

IF_CHANGED = ("fail", "reuse")


async def run(
    state: AttemptState, name: str, agent: AbstractAgent[Any, Any], prompt: Any, **options: Any
) -> Any:
    """The agent's output; `options` are those of `run_result`."""
    return (await run_result(state, name, agent, prompt, **options)).output


async def run_result(
    state: AttemptState,
    name: str,
    agent: AbstractAgent[Any, Any],
    prompt: Any,
    *,
    message_history: Sequence[ModelMessage] | None = None,
    effects: Mapping[str, StepEffect | None] | None = None,
    approval_seconds: float | None = None,
    if_changed: str = "fail",
    **options: Any,
) -> AgentRunResult[Any]:
    """The agent's output and messages. Further `options` go to the agent's own `run`.

    Raises `InvalidInput` for an option that cannot be, `Fail` if the agent gives up or must not
    run, `Retry` if its model did not answer, and the park signal if the job has to wait.
    """
    if if_changed not in IF_CHANGED:
        raise InvalidInput(f"if_changed={if_changed!r} is not known", "use 'fail' or 'reuse'")
    state.key("agent", name)  # refuses a second agent of one name
    declared: dict[str, StepEffect | None] = dict(effects or {})
    for tool, effect in declared.items():
        if effect not in (*STEP_EFFECTS, None):
            raise InvalidInput(
                f"effect {effect!r} of tool {tool!r} is not known",
                f"use one of {', '.join(STEP_EFFECTS)}, or None to record nothing",
            )
    unrecorded = frozenset(tool for tool, effect in declared.items() if effect is None)
    conversation = Conversation(
        state, name, if_changed, state.tools.output_tokens_max, unrecorded_tools=unrecorded
    )
    durable = Durable(conversation, declared, approval_seconds)
    given = {key: value for key, value in options.items() if value is not None}
    if "model" not in given and agent.model is None:
        given["model"] = await _chosen_model(state, name)
    # To begin an agent takes some milliseconds, and a claim brings hundreds at once.
    await state.tools.turns.take()
    try:
        traced = within(state.tools.tracing, conventions.agent(name, agent.name))
        with traced, unmetered.within(name):
            return await agent.run(
                prompt,
                message_history=message_history,
                capabilities=[*given.pop("capabilities", ()), durable],
                **given,
            )
    except Exception as error:
        ending = _ending(conversation, error)
        if ending is None:
            raise
        raise ending from error


async def _chosen_model(state: AttemptState, name: str) -> Model:
    model = await state.tools.model.loaded()
    if model is None:
        raise Fail(
            f"the agent of {name!r} has no model: give it one, pass model= to job.agent, or set "
            "JOBSWORTH_MODEL"
        )
    return model


def _ending(conversation: Conversation, error: Exception) -> BaseException | None:
    """What to raise for an error of the agent; None to raise the error itself."""
    failed = conversation.unanswered
    if failed is not None and (error is failed.error or _holds(error, failed.error)):
        return failures.ending_of(failed)
    if isinstance(error, ModelAPIError):
        # A deadline of the agent's own raises it around the request.
        says = failures.described(error, error.model_name, ())
        return failures.ending_of(Unanswered(error, says))
    if isinstance(error, AgentRunError | UserError):
        # The answers are recorded, so another attempt would read the same ones and end the same
        # way. The message leaves out the error's body, which quotes the model.
        return Fail(
            f"agent {conversation.name!r} gave up: {type(error).__name__}: "
            f"{failures.bounded(error.message)}; change the agent and enqueue a new job"
        )
    return None


def _holds(error: BaseException, inner: BaseException) -> bool:
    """True if `inner` is in the group that a fallback raises when all its models have failed."""
    return isinstance(error, BaseExceptionGroup) and any(
        one is inner or _holds(one, inner)  # pyright: ignore[reportUnknownArgumentType]
        for one in error.exceptions  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
    )
