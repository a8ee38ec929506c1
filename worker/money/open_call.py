"""A paid call around any SDK: `async with job.call(…) as call`.

In: a name, a provider, a model and an upper estimate. Out: the same call that
`worker.money.calls.make` makes, but the block sends it. Invariant: however the block is left, the
call is settled once; a replay of an answered call books nothing.

    async with job.call("think", provider="acme", model="large", estimate=(4000, 1000)) as call:
        if not call.recorded:
            reply = await client.create(prompt, extra_headers=call.headers)
            await call.answered(reply.text, reply.usage.input, reply.usage.output)
    return call.output
"""

from collections.abc import Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, cast

from db.errors import InvalidInput
from db.money.calls import Answer, Usage
from worker import crash_points
from worker.attempt_state import AttemptState, RecordedStep
from worker.money import calls
from worker.money.calls import REQUEST_ID_HEADER
from worker.money.paid_call import PaidCall, failed
from worker.money.pricing import Terms
from worker.outcomes import Fail


class OpenCall:
    """One paid call around any SDK; `job.call` without `send` makes it, for `async with`.

        async with job.call("think", provider="acme", model="m", estimate=(4000, 1000)) as call:
            if not call.recorded:
                reply = await client.create(prompt, extra_headers=call.headers)
                await call.answered(reply.text, reply.usage.input, reply.usage.output)
        return call.output

    Entering books the call, at its estimate (input tokens, output tokens). If `recorded` is true an
    earlier attempt was answered: the answer is in `output`, and nothing may be sent. The block ends
    with `answered`, or raises `CallRefused` or `CallLimited`; after any other exception the call
    stays in the books at its estimate. A block that ends without any fails the job for good.
    """

    def __init__(
        self,
        state: AttemptState,
        name: str,
        *,
        provider: str,
        model: str,
        estimate: tuple[int, int] = (0, 0),
        tier: str | None = None,
    ) -> None:
        self._state = state
        self._name = name
        self._provider = provider
        self._model = model
        self._estimate = estimate
        self._tier = tier
        self._paid: PaidCall | None = None
        self.recorded = False
        self.output: Any = None

    @property
    def request_id(self) -> str:
        """The id to put into the request; empty if the answer is recorded."""
        return self._paid.request_id if self._paid else ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers to send along, so that the provider's bill can be matched with the books."""
        return {REQUEST_ID_HEADER: self.request_id} if self._paid else {}

    async def answered(
        self,
        content: Any,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        *,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        total_tokens: int | None = None,
        others: Mapping[str, int] | None = None,
        tier: str | None = None,
        model: str | None = None,
        cost: Decimal | None = None,
        price_version: str | None = None,
    ) -> Any:
        """Settle the call with its answer (any JSON), which becomes a step of the call's name.

        `others` counts further classes, like `{"web_searches": 2}`, `tier` is the one in which the
        provider served the call, and `model` the one that answered: see `Usage` and `Answer`.
        Settlement and answer are one commit. Without token counts the estimate is booked. Returns
        the answer that stands, which is then in `output` as well. Raises `AnswerUnusable` for
        counts that cannot be (below 0, say) and for content that is not JSON, after it has settled
        the call and kept the answer; `InvalidInput` when the call has its answer already.
        """
        if self._paid is None:
            raise InvalidInput(
                f"call {self._name!r} has its answer already", "send nothing if call.recorded"
            )
        usage: object = None
        if input_tokens is not None and output_tokens is not None:
            try:
                usage = Usage(
                    input_tokens,
                    output_tokens,
                    cache_read_tokens,
                    cache_write_tokens,
                    reasoning_tokens=reasoning_tokens,
                    total_tokens=total_tokens,
                    others=others or {},
                    tier=tier,
                )
            except InvalidInput as error:
                usage = error
        crash_points.reach("call.answered")
        # A count that cannot be is settled like any other mistake in an answer.
        answer = Answer(content, cast(Usage | None, usage), cost, price_version, model=model)
        self.output = await self._paid.answered(answer)
        self.recorded = True
        return self.output

    async def __aenter__(self) -> "OpenCall":
        begun = calls.begin(
            self._state,
            self._name,
            provider=self._provider,
            model=self._model,
            estimate=self._estimate,
            terms=Terms(self._tier),
        )
        call = await self._state.beside.held(begun)
        if isinstance(call, RecordedStep):
            self.recorded, self.output = True, call.output
        else:
            self._paid = call
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._paid is None or self.recorded:
            return
        if error is not None:
            await self._state.beside.held(failed(self._paid, error))
            return
        await self._paid.lost("the block was left without an answer")
        # The next attempt would leave it the same way, and pay again.
        raise Fail(
            f"call {self._name!r} was left without an answer; it stays in the books at its"
            " estimate (end the block with call.answered(…), or raise CallRefused)"
        )
