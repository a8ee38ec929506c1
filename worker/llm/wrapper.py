"""A request to a model: booked before it is sent, settled once, and recorded.

In: what an agent asks its model. Out: the response, from the record if an earlier attempt has it.
Invariant: the call's row is committed before a byte is sent; its settlement and the recorded
response are one commit; whatever goes wrong, the call is settled.
"""

import copy
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, NoReturn, Self, cast

import anyio
from pydantic_ai.exceptions import ModelRateLimitError
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models import (
    CompletedStreamedResponse,
    Model,
    ModelRequestContext,
    ModelRequestParameters,
    StreamedResponse,
)
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings, merge_model_settings
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage

from db.money.calls import CUT_SHORT, Answer, UsageSource
from worker import crash_points, events
from worker.attempt_state import AttemptState
from worker.llm import failures, recorded, unmetered
from worker.llm.connections import connection_of
from worker.llm.failures import Unanswered
from worker.llm.plain_answers import PlainAnswer
from worker.llm.stream import MeteredStream
from worker.llm.usage import Estimate, Told, price_of, upper_estimate, usage_of
from worker.log import get_logger
from worker.money import calls
from worker.money.paid_call import PaidCall
from worker.money.sending import Sending
from worker.outcomes import Fail, ParkSignal

log = get_logger()


@dataclass
class Conversation:
    """One `job.agent`: the names of its steps, and the request that failed last."""

    state: AttemptState
    name: str
    if_changed: str
    max_tokens: int
    # Tools that are not recorded: they run in every replay.
    unrecorded_tools: frozenset[str] = frozenset()
    answered: int = 0
    # The step of each tool call, by its id.
    tool_steps: dict[str, str] = field(default_factory=dict[str, str])
    unanswered: Unanswered | None = None

    @property
    def next_request(self) -> str:
        """The step of the next request; one that failed is not recorded, and leaves its name."""
        return f"{self.name}/request {self.answered + 1}"

    def take(self, response: ModelResponse) -> ModelResponse:
        """Go on with this response: number its tool calls."""
        request, numbers = self.next_request, dict[str, int]()
        for part in response.parts:
            if isinstance(part, ToolCallPart):
                tool = part.tool_name
                numbers[tool] = numbers.get(tool, 0) + 1
                self.tool_steps[part.tool_call_id] = f"{request}/tool {tool} {numbers[tool]}"
        self.answered += 1
        return response


class PendingRequest(NamedTuple):
    """A request that is to be answered: its step, what it asks, its estimate."""

    step: str
    asked: recorded.Asked
    settings: ModelSettings
    estimate: Estimate


def metered(model: Model, conversation: Conversation, *, others: bool = False) -> Model:
    """The model, with each of its requests in the books.

    A fallback's models are metered one by one, and so is the model in a wrapper, which may send
    several requests to it. `others`: there are other models to fall back on.
    """
    if isinstance(model, FallbackModel):
        fallback = copy.copy(model)
        *firsts, last = model.models
        fallback.models = [
            *(metered(one, conversation, others=True) for one in firsts),
            metered(last, conversation, others=others),
        ]
        return fallback
    if isinstance(model, WrapperModel):
        wrapper = copy.copy(model)
        wrapper.wrapped = metered(model.wrapped, conversation, others=others)
        return wrapper
    unmetered.check_sent_once(model)
    return MeteredModel(model, conversation, others=others)


class MeteredModel(WrapperModel):
    """A model whose requests are calls in the books and recorded steps."""

    def __init__(self, wrapped: Model, conversation: Conversation, *, others: bool = False) -> None:
        super().__init__(wrapped)
        self._conversation = conversation
        self._others = others

    async def __aenter__(self) -> Self:
        # The agent owns the model and may serve other jobs, so it stays open after this request.
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        pending = self._pending(messages, model_settings, model_request_parameters)
        connection = AsyncExitStack()
        call = await self._begin(pending, connection)
        if not isinstance(call, PaidCall):
            return call
        told = self._told()
        try:
            async with connection:
                Sending(call.request_id).sent()
                with unmetered.sending():
                    response = await told.in_requests_of(self.wrapped).request(
                        messages, self._with_request_id(pending, call), model_request_parameters
                    )
        except BaseException as error:
            await self._fail(pending, call, error, messages, told)
        return await self._answer(pending, call, response, messages, told)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        pending = self._pending(messages, model_settings, model_request_parameters)
        connection = AsyncExitStack()
        call = await self._begin(pending, connection)
        if not isinstance(call, PaidCall):
            yield CompletedStreamedResponse(
                call, model_request_parameters=model_request_parameters, replay_events=True
            )
            return
        told, plain = self._told(), PlainAnswer()
        stream: MeteredStream | None = None

        async def answered(response: ModelResponse) -> ModelResponse:
            return await self._answer(pending, call, response, messages, told)

        try:
            Sending(call.request_id).sent()
            settings = self._with_request_id(pending, call)
            async with connection as stack:
                with unmetered.sending(), plain.heeded(self.wrapped):
                    live = await stack.enter_async_context(
                        self.wrapped.request_stream(
                            messages, settings, model_request_parameters, run_context
                        )
                    )
                told.in_stream(live)
                stream = MeteredStream(live, answered)
                yield stream
        except BaseException as error:
            if stream is not None and stream.answered:
                raise
            if stream is None and isinstance(error, Exception):
                error = failures.error_instead_of_stream(self.model_name, plain) or error
            await self._fail(pending, call, error, messages, told, stream)
        if not stream.answered:
            await call.cut("the stream was left before its end")

    async def count_tokens(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> RequestUsage:
        # Providers that count tokens do it for free.
        with unmetered.sending():
            return await self.wrapped.count_tokens(
                messages, model_settings, model_request_parameters
            )

    async def compact_messages(
        self, request_context: ModelRequestContext, *, instructions: str | None = None
    ) -> ModelResponse:
        raise Fail(unmetered.unmetered("compaction of messages by the provider"))

    async def batch_create(self, requests: Any) -> Any:
        raise Fail(unmetered.unmetered("the provider's batch API"))

    def _pending(
        self,
        messages: list[ModelMessage],
        given: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> PendingRequest:
        settings = cast(ModelSettings, {**(merge_model_settings(self.settings, given) or {})})
        limit = settings.setdefault("max_tokens", self._conversation.max_tokens)
        unmetered.check_asked_once(settings)
        settings.pop("max_retries", None)
        if unmetered.sends_again(self.wrapped):
            settings["max_retries"] = 0
        return PendingRequest(
            self._conversation.next_request,
            # Without the model's own settings: another model of a fallback may read the record.
            recorded.asked_of(
                messages, given or {}, parameters, self._conversation.unrecorded_tools
            ),
            settings,
            upper_estimate(
                messages,
                recorded.tools_text(parameters),
                limit,
                self.wrapped,
                native_tools=bool(parameters.native_tools),
                settings=settings,
            ),
        )

    def _with_request_id(self, pending: PendingRequest, call: PaidCall) -> ModelSettings:
        """The settings, with our id of the call in the headers that OpenAI and gateways read."""
        if "extra_headers" in unmetered.ignored(self.wrapped):
            return pending.settings
        headers = {
            **(pending.settings.get("extra_headers") or {}),
            "X-Request-Id": call.request_id,
            "X-Client-Request-Id": call.request_id,
        }
        return {**pending.settings, "extra_headers": headers}

    async def _begin(
        self, pending: PendingRequest, connection: AsyncExitStack
    ) -> PaidCall | ModelResponse:
        """A call that may be sent; or the response, if an earlier attempt was answered.

        A call that may be sent has a connection, which `connection` gives back when it is closed.
        """
        model = self.wrapped
        try:
            async with AsyncExitStack() as held:
                call = await calls.begin(
                    self._conversation.state,
                    pending.step,
                    provider=model.system,
                    model=model.model_name,
                    estimate=pending.estimate[:2],
                    terms=pending.estimate.terms,
                    before_booking=lambda: held.enter_async_context(connection_of(model)),
                )
                if isinstance(call, PaidCall):
                    connection.push_async_exit(held.pop_all())
        except ParkSignal as signal:
            if not self._others or signal.parked.reason != "limit":
                await self._conversation.state.beside.hold(signal)
                raise
            # The model is paused or has reached its limit: a fallback goes on with the next model.
            detail = signal.parked.detail or "limit"
            error = ModelRateLimitError(self.model_name, detail)
            self._conversation.unanswered = Unanswered(error, detail, signal)
            raise error from signal
        if not isinstance(call, PaidCall):
            return self._replayed(pending, call.output)
        # One commit books hundreds of calls; to build and send a request takes milliseconds.
        try:
            with anyio.CancelScope(shield=True):
                await self._conversation.state.tools.turns.take()
        except BaseException as error:  # `asyncio.timeout` ignores shields
            await connection.aclose()
            await call.unsent(error)
            raise
        state = self._conversation.state
        state.tools.recorder.note(call.id, state.job.team_id, pending.asked.texts)
        return call

    def _replayed(self, pending: PendingRequest, document: Any) -> ModelResponse:
        """The recorded response. Raises `Fail` if it was recorded for another request."""
        response = _response_of(pending.step, document)
        changed = recorded.changed(document, pending.asked.hashes)
        if changed and self._conversation.if_changed == "fail":
            raise Fail(_changed(pending.step, changed))
        return self._conversation.take(response)

    async def _answer(
        self,
        pending: PendingRequest,
        call: PaidCall,
        response: ModelResponse,
        messages: list[ModelMessage],
        told: Told,
    ) -> ModelResponse:
        """Settle the call with its response; returns the response that a replay will read."""
        crash_points.reach("call.answered")
        usage = usage_of(response, pending.estimate, told)
        if usage is None or usage.source is not UsageSource.PROVIDER:
            log.warning(
                events.CALL_USAGE_DOUBTED, model=self.model_id, call_request_id=call.request_id
            )
        unique = recorded.with_unique_ids(response, messages)
        document = recorded.document_of(pending.asked.hashes, _timed(unique, call))
        if response.finish_reason in CUT_SHORT:
            log.warning(
                events.ANSWER_CUT_SHORT,
                model=self.model_id,
                call_request_id=call.request_id,
                finish_reason=response.finish_reason,
            )
        cost, price_version = price_of(self.wrapped)
        answer = Answer(document, usage, cost, price_version, model=response.model_name)
        stands = await call.answered(answer, response.finish_reason)
        await self._conversation.state.tools.turns.take()
        return self._conversation.take(_response_of(pending.step, stands))

    async def _fail(
        self,
        pending: PendingRequest,
        call: PaidCall,
        error: BaseException,
        messages: list[ModelMessage],
        told: Told,
        stream: MeteredStream | None = None,
    ) -> NoReturn:
        """Settle the call, and raise pydantic-ai's own error: a fallback goes on from there."""
        says = failures.described(error, f"{self.wrapped.system}:{self.model_name}", messages)
        self._conversation.unanswered = await failures.settle(
            call,
            error,
            says,
            pending.estimate,
            told,
            stream and stream.get(),
            thinks=self.wrapped.profile.get("supports_thinking", False),
        )
        raise error

    def _told(self) -> Told:
        return Told(partial(failures.error_within, self.model_name))


def _response_of(step: str, document: Any) -> ModelResponse:
    """The recorded response. Raises `Fail` for a record that is not one of an agent's request."""
    try:
        return recorded.response_of(document)
    except recorded.UnknownShape as error:
        raise Fail(
            f"the record of step {step!r} cannot be read as an answer of a model ({error}): "
            "another version of Jobsworth or of pydantic-ai wrote it, or it was changed by hand. "
            "Run the job with the version that wrote it, or enqueue a new job"
        ) from error


def _changed(step: str, changed: Sequence[str]) -> str:
    """The message for a request that is not the recorded one; it explains replays."""
    return (
        f"step {step!r} was recorded for another request than this one: its {', '.join(changed)} "
        "have changed. A job runs from its start after each wait, so what the agent is told has to "
        "be the same in every attempt: take a date, a time or a random number from job.step. Or "
        "pass if_changed='reuse' to job.agent to go on with the recorded answer, and retry the job"
    )


def _timed(response: ModelResponse, call: PaidCall) -> ModelResponse:
    """The response, with its time as `metadata["latency_ms"]`, which a replay reads as well."""
    latency_ms = round(call.open_seconds * 1000)
    return replace(response, metadata={**(response.metadata or {}), "latency_ms": latency_ms})
