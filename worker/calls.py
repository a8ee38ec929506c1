"""Paid calls: booked before a byte is sent, settled once, and never paid for again.

In: what to send, and an upper estimate of what it will take. Out: the answer, which is a recorded
step. Invariant: the call is in the books, committed, before `send` begins; whatever becomes of the
job, it is settled once, in one commit with its answer.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from db.documents import to_document
from db.errors import InvalidInput
from db.steps import PaidAnswer
from db.tokens import Answer, CallStatus, Settlement, Starting, Usage, UsageSource
from worker import crash_points, steps
from worker.group_commit import START, Paid

if TYPE_CHECKING:
    from worker.context import Job


class CallRefused(Exception):
    """Raise it in a call's `send` when the provider refused and billed nothing."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What a call's `send` gets.

    The id to put into the request, and `sent()` to say it went out.
    """

    request_id: str

    def sent(self) -> None:
        """Say that the request is on its way."""
        crash_points.reach("call.sent")


class CallsOpen:
    """An attempt's calls that were sent and have not ended.

    An attempt that has to stop because its worker has lost the database may wait for them: nobody
    else would ever see the answers that are on their way.
    """

    __slots__ = ("_count", "_then")

    def __init__(self) -> None:
        self._count = 0
        self._then: Callable[[], None] | None = None

    def began(self) -> None:
        self._count += 1

    def ended(self) -> None:
        self._count -= 1
        if not self._count and self._then is not None:
            self._then()

    def then(self, do: Callable[[], None]) -> bool:
        """Have this done when the last one has ended; False if none is open."""
        self._then = do if self._count else None
        return self._count > 0


class PaidCall:
    """A call that is in the books and may be sent: from its reservation to its one settlement.

    Made by `begin`. Exactly one of `answered`, `cut`, `refused`, `unsent` and `lost` ends it; a
    second one changes nothing.
    """

    def __init__(
        self, job: "Job", name: str, call_id: UUID, request_id: str, estimate: Usage
    ) -> None:
        self.id = call_id
        self.request_id = request_id
        self._job = job
        self._name = name
        self._estimate = estimate
        self._began = time.monotonic()
        self._open = True
        job.calls_open.began()

    async def answered(self, answer: Answer) -> Any:
        """Settle it with its answer, which becomes the step; returns the answer that stands.

        Raises `InvalidInput` if the answer is no JSON; it is settled all the same.
        """
        took_seconds = time.monotonic() - self._began
        kept, unusable = None, None
        try:
            output = to_document(answer.content, f"the answer of call {self._name!r}")
            job = self._job
            kept = PaidAnswer(job.id, self._name, output, job.attempt, took_seconds)
        except InvalidInput as error:
            unusable = error
        # One commit for the settlement and the answer, lease or no lease: what was paid is booked,
        # and is never paid for again. An answer that cannot be kept was paid for all the same.
        stands = await self._settle(
            CallStatus.OK,
            answer.usage or self._estimate,
            answer.cost,
            answer.price_version,
            error=str(unusable) if unusable else None,
            kept=kept,
        )
        if unusable is not None:
            raise unusable
        crash_points.reach("step.committed")
        return steps.keep(self._job, self._name, stands)

    async def cut(self, error: object, usage: Usage | None = None) -> None:
        """Its answer ended early: settled at `usage`, or at the estimate if nobody said."""
        await self._settle(CallStatus.CUT, usage or self._estimate, error=error)

    async def refused(self, error: object) -> None:
        """The provider refused, and billed nothing."""
        await self._settle(CallStatus.ERROR, Usage(0, 0), error=error)

    async def unsent(self, error: object) -> None:
        """Provably not a byte of it was sent."""
        await self._settle(CallStatus.ERROR, Usage(0, 0), error=error)

    async def lost(self, error: object) -> None:
        """Nobody knows what it took: it is held at its estimate."""
        await self._settle(CallStatus.UNKNOWN, self._estimate, error=error)

    async def _settle(
        self,
        status: CallStatus,
        usage: Usage,
        cost: Decimal | None = None,
        price_version: str | None = None,
        *,
        error: object = None,
        kept: PaidAnswer | None = None,
    ) -> Any:
        said = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
        settlement = Settlement(
            self.id,
            status,
            usage,
            cost,
            price_version,
            round((time.monotonic() - self._began) * 1000),
            None if said is None else str(said)[:1000],
        )
        self._end()
        tools = self._job.tools
        return await tools.spool.settle(tools.books, self._job.id, Paid(settlement, kept))

    # Before the settlement is tried: an attempt that waited for this answer stops now.
    def _end(self) -> None:
        if self._open:
            self._open = False
            self._job.calls_open.ended()


async def make(
    job: "Job",
    name: str,
    send: Callable[[Sending], Awaitable[Answer]],
    *,
    provider: str,
    model: str,
    estimate: tuple[int, int],
) -> Any:
    """The recorded answer of call `name`, else what `send` brings, booked and recorded."""
    found, output = await steps.read(job, name, fresh=job.attempt > 1)
    if found:
        return output
    call = await begin(job, name, provider=provider, model=model, estimate=estimate)
    try:
        answer = await send(Sending(call.request_id))
    except CallRefused as error:
        await call.refused(error)
        raise
    except BaseException as error:
        await call.lost(error)
        raise
    crash_points.reach("call.answered")
    return await call.answered(answer)


async def begin(
    job: "Job", name: str, *, provider: str, model: str, estimate: tuple[int, int]
) -> PaidCall:
    """Book a call that is about to be sent, at its upper estimate (input, output tokens).

    Committed on return, under the fence. Raises `LeaseLost`.
    """
    crash_points.reach("call.before_row")
    request_id = uuid4().hex
    upper = Usage(*estimate, source=UsageSource.ESTIMATED)
    call = Starting(
        job.lease,
        provider,
        model,
        request_id,
        upper,
        mode=job.mode,
        step_name=name,
        attempt=job.attempt,
        team_id=job.team_id,
        thread_id=job.thread_id,
    )
    call_id = await job.write(START, call)
    crash_points.reach("call.after_row")
    return PaidCall(job, name, call_id, request_id, upper)
