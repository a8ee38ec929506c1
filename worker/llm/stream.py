"""A streamed answer: passed on as it comes, and settled when it is complete.

In: the provider's stream. Out: the same events; after the last, the response that is recorded.
Invariant: an answer is complete only when its stream has said why the model stopped: a proxy may
close a connection properly in the middle of an answer. An error after that changes nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime

from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelResponse, ModelResponseStreamEvent
from pydantic_ai.models import StreamedResponse
from pydantic_ai.usage import RequestUsage


class MeteredStream(StreamedResponse):
    """A stream that settles its call after the last event, before the agent uses the answer."""

    def __init__(
        self, live: StreamedResponse, answer: Callable[[ModelResponse], Awaitable[ModelResponse]]
    ) -> None:
        super().__init__(live.model_request_parameters)
        self._live = live
        self._answer = answer
        self._stands: ModelResponse | None = None

    @property
    def answered(self) -> bool:
        return self._stands is not None

    def __aiter__(self) -> AsyncIterator[ModelResponseStreamEvent]:
        if self._event_iterator is None:
            if self._request_deadline is not None:
                self._live._enforce_request_deadline(self._request_deadline)
            self._event_iterator = self._events()
        return self._event_iterator

    async def _events(self) -> AsyncIterator[ModelResponseStreamEvent]:
        try:
            async for event in self._live:
                self.final_result_event = self._live.final_result_event
                self._first_chunk_monotonic = self._live._first_chunk_monotonic
                yield event
            response = self._live.get()
        except ModelAPIError:
            response = replace(self._live.get(), state="complete")
            if response.finish_reason is None:
                raise
        if self._cancelled:
            return
        if response.state in ("incomplete", "interrupted") or _broke_off(response):
            raise ModelAPIError(self.model_name, "the stream ended before the answer was complete")
        self._stands = await self._answer(response)
        self._finished = True

    def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        return self._events()

    def get(self) -> ModelResponse:
        return self._stands or self._live.get()

    async def cancel(self) -> None:
        self._cancelled = True
        await self._live.cancel()

    async def close_stream(self) -> None:
        await self._live.close_stream()

    @property
    def usage(self) -> RequestUsage:
        return self._live.usage

    @property
    def model_name(self) -> str:
        return self._live.model_name

    @property
    def provider_name(self) -> str | None:
        return self._live.provider_name

    @property
    def provider_url(self) -> str | None:
        return self._live.provider_url

    @property
    def timestamp(self) -> datetime:
        return self._live.timestamp


def _broke_off(response: ModelResponse) -> bool:
    """True if the stream ended without saying why the model stopped, or what the answer took.

    Every provider says why. Some servers of OpenAI's protocol do not, and the adapter fills it in;
    then the stream is complete if it says what the answer took. A model that is not reached over a
    network (it has no URL) need not say either.
    """
    if response.state != "complete" or response.provider_url is None:
        return False
    said_why = "finish_reason" in (response.provider_details or {})
    untold = response.usage.unmeasured_requests > 0 and not said_why
    return response.finish_reason is None or untold
