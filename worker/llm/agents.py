"""`job.agent`: one run of a pydantic-ai agent inside a job.

In: an agent and a prompt. Out: the agent's output. Invariant: the run takes the same way in every
attempt, since every answer of its models and tools is recorded; what is not recorded yet is done
now, and paid for once.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.exceptions import AgentRunError, ModelAPIError, UserError
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model
from pydantic_ai.run import AgentRunResult

from db.errors import InvalidInput
from worker.llm import failures, unmetered
from worker.llm.failures import Unanswered
from worker.llm.tools import Durable
from worker.llm.wrapper import Conversation
from worker.outcomes import Fail
from worker.steps.steps import EFFECTS, Effect

if TYPE_CHECKING:
    from worker.job import Job

IF_CHANGED = ("fail", "reuse")


async def run(
    job: "Job", name: str, agent: AbstractAgent[Any, Any], prompt: Any, **how: Any
) -> Any:
    """The agent's output; `how` as for `run_result`."""
    return (await run_result(job, name, agent, prompt, **how)).output


async def run_result(
    job: "Job",
    name: str,
    agent: AbstractAgent[Any, Any],
    prompt: Any,
    *,
    message_history: Sequence[ModelMessage] | None = None,
    effects: Mapping[str, Effect | None] | None = None,
    approval_seconds: float | None = None,
    if_changed: str = "fail",
    **options: Any,
) -> AgentRunResult[Any]:
    """The agent's output and messages. `options` go to the agent's own `run`."""
    if if_changed not in IF_CHANGED:
        raise InvalidInput(f"if_changed={if_changed!r} means nothing", "say 'fail' or 'reuse'")
    job.key("agent", name)
    declared: dict[str, Effect | None] = dict(effects or {})
    for tool, effect in declared.items():
        if effect not in (*EFFECTS, None):
            raise InvalidInput(
                f"effect {effect!r} of tool {tool!r} means nothing",
                f"say one of {', '.join(EFFECTS)}, or None for no step",
            )
    unrecorded = frozenset(tool for tool, effect in declared.items() if effect is None)
    conversation = Conversation(
        job, name, if_changed, job.tools.output_tokens_max, unrecorded_tools=unrecorded
    )
    durable = Durable(conversation, declared, approval_seconds)
    given = {key: value for key, value in options.items() if value is not None}
    if "model" not in given and agent.model is None:
        given["model"] = await _chosen(job, name)
    try:
        with unmetered.within(name):
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


async def _chosen(job: "Job", name: str) -> Model:
    model = await job.tools.model.loaded()
    if model is None:
        raise Fail(
            f"the agent of {name!r} has no model: give it one, pass model= to job.agent, or set "
            "JOBSWORTH_MODEL"
        )
    return model


def _ending(conversation: Conversation, error: Exception) -> BaseException | None:
    """What the agent's error means for the job; None: what it says itself."""
    failed = conversation.unanswered
    if failed is not None and (error is failed.error or _holds(error, failed.error)):
        return failures.ending_of(failed)
    if isinstance(error, ModelAPIError):
        # Raised around the request, by a deadline of the agent's.
        says = failures.described(error, error.model_name, ())
        return failures.ending_of(Unanswered(error, says))
    if isinstance(error, AgentRunError | UserError):
        # Its answers are recorded: another try would read the same ones, and end the same. Without
        # the error's body, which quotes the model.
        return Fail(
            f"agent {conversation.name!r} gave up: {type(error).__name__}: "
            f"{failures.bounded(error.message)}; change the agent and enqueue a new job"
        )
    return None


def _holds(error: BaseException, inner: BaseException) -> bool:
    """A fallback that has no model left raises a group of what its models raised."""
    return isinstance(error, BaseExceptionGroup) and any(
        one is inner or _holds(one, inner)  # pyright: ignore[reportUnknownArgumentType]
        for one in error.exceptions  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
    )
