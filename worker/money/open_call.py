"""A paid call around any SDK: `async with job.call(…) as call`.

In: a name, a provider, a model and an upper estimate. Out: the same call that
`worker.money.calls.make` makes, with the sending left to the block. Invariant: however the block is
left, the call is settled once; a replay of an answered one books nothing.

    async with job.call("think", provider="acme", model="large", estimate=(4000, 1000)) as call:
        if not call.recorded:
            reply = await client.create(prompt, extra_headers=call.headers)
            await call.answered(reply.text, reply.usage.input, reply.usage.output)
    return call.output
"""

from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any

from db.errors import InvalidInput
from db.money.calls import Answer, Usage
from worker import crash_points
from worker.money import calls
from worker.money.calls import REQUEST_ID_HEADER, PaidCall
from worker.steps import steps

if TYPE_CHECKING:
    from worker.job import Job


class OpenCall:
    """One paid call. `recorded`: an earlier attempt has its answer, in `output`; send nothing."""

    def __init__(
        self, job: "Job", name: str, provider: str, model: str, estimate: tuple[int, int]
    ) -> None:
        self._job = job
        self._name = name
        self._provider = provider
        self._model = model
        self._estimate = estimate
        self._paid: PaidCall | None = None
        self.recorded = False
        self.output: Any = None

    @property
    def request_id(self) -> str:
        """The id to put into the request; a recorded call has none."""
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
        cost: Decimal | None = None,
        price_version: str | None = None,
    ) -> Any:
        """Settle the call with its answer (any JSON), which becomes the step `name`.

        Without the counts the provider said nothing: the estimate counts. Returns the answer that
        stands, as `output` does from now on. Raises `InvalidInput` for counts that are none (below
        0, say), after it has settled the call at its estimate and kept the answer.
        """
        if self._paid is None:
            raise InvalidInput(
                f"call {self._name!r} has its answer already", "send nothing if call.recorded"
            )
        usage, wrong = None, None
        if input_tokens is not None and output_tokens is not None:
            try:
                usage = Usage(
                    input_tokens,
                    output_tokens,
                    cache_read_tokens,
                    cache_write_tokens,
                    reasoning_tokens=reasoning_tokens,
                    total_tokens=total_tokens,
                )
            except InvalidInput as error:
                wrong = error
        crash_points.reach("call.answered")
        answer = Answer(content, usage, cost, price_version)
        self.output = await self._paid.answered(answer)
        self.recorded = True
        if wrong is not None:
            raise wrong
        return self.output

    async def __aenter__(self) -> "OpenCall":
        job = self._job
        found, output = await steps.read(job, self._name, fresh=job.attempt > 1)
        if found:
            self.recorded, self.output = True, output
        else:
            self._paid = await calls.begin(
                job,
                self._name,
                provider=self._provider,
                model=self._model,
                estimate=self._estimate,
            )
            if self._paid is None:
                self.recorded, self.output = await steps.read(job, self._name)
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
            await calls.failed(self._paid, error)
            return
        await self._paid.lost("the block was left without an answer")
        raise InvalidInput(
            f"call {self._name!r} was left without an answer; it is held at its estimate",
            "end the block with call.answered(…), or raise CallRefused",
        )
