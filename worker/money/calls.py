"""Paid calls: booked before a byte is sent, settled once, and never paid for again.

In: what to send, and an upper estimate of what it will take. Out: the answer, which is a recorded
step. Invariant: the call is in the books, committed, before `send` begins, and within every budget
and rate limit it falls under; whatever becomes of the job, it is settled once, in one commit with
its answer.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from random import random
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

import anyio

from db.documents import to_document
from db.errors import InvalidInput, JobsworthError
from db.money import budgets, limits
from db.money.amount import checked_amount
from db.money.calls import Answer, CallStatus, Usage, UsageSource
from db.money.settlements import Settlement
from db.money.starts import CallStarted, Limited, Short, Starting, Unpriced
from db.pool import Database
from db.steps.steps import PaidAnswer
from worker import crash_points, events
from worker.log import get_logger
from worker.money.group_commit import START, Paid
from worker.outcomes import Fail, ParkSignal
from worker.steps import steps

if TYPE_CHECKING:
    from worker.job import Job
    from worker.money.pricing import Priced

REQUEST_ID_HEADER = "X-Request-Id"
# A wait that is shorter is slept through in the slot; a few times, then the job parks.
SLEEP_SECONDS_MAX = 0.5
SLEEPS_MAX = 4
# How long a model is paused that said it was asked too much, and not when to come again.
PAUSE_SECONDS = 10.0
_PRICE_REMEDY = ": give it a price, or set JOBSWORTH_UNKNOWN_PRICE=allow"

log = get_logger()


class CallRefused(Exception):
    """Raise it in a call's `send` when the provider refused and billed nothing."""


class CallLimited(CallRefused):
    """Raise it when the provider refused because it is asked too much (429).

    Everybody's calls to that model wait for `retry_after_seconds`, and no failure is counted.
    """

    def __init__(self, reason: object, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class BudgetExceeded(Fail):
    """A call does not fit into a budget that fails such calls, or a person said no."""


class PriceUnknown(Fail):
    """The price of a model is not known, and such calls may not go out."""


class Pricing(Protocol):
    """Knows prices; None: it does not know this one."""

    async def ready(self, database: Database, provider: str) -> None: ...

    def price_of(
        self, provider: str, model: str, usage: Usage, *, team_id: UUID | None = None
    ) -> "Priced | None": ...

    def upper_cost(
        self,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        team_id: UUID | None = None,
    ) -> Decimal | None: ...


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

    Made by `begin`. Exactly one of `answered`, `cut`, `refused`, `limited`, `unsent` and `lost`
    ends it; a second one changes nothing.
    """

    def __init__(
        self, job: "Job", name: str, call_id: UUID, booked: Starting, under_way: ExitStack
    ) -> None:
        """`under_way` is left when it is settled."""
        self.id = call_id
        self.request_id = booked.request_id
        self._job = job
        self._name = name
        self._provider = booked.provider
        self._model = booked.model
        self._estimate = booked.estimate
        self._estimated_cost = booked.estimated_cost
        self._under_way = under_way
        self._began = time.monotonic()
        self._open = True
        job.calls_open.began()

    async def answered(self, answer: Answer) -> Any:
        """Settle it with its answer, which becomes the step; returns the answer that stands.

        Raises `InvalidInput` if the answer is no JSON, or its cost no amount; it is settled all the
        same, and one that can be kept is: who tries again does not pay again.
        """
        took_seconds = time.monotonic() - self._began
        kept, unusable = None, None
        try:
            checked_amount(answer.cost)
        except InvalidInput as error:
            answer, unusable = replace(answer, cost=None), error
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
            answer.usage,
            answer.cost,
            answer.price_version,
            answer.price,
            error=str(unusable) if unusable else None,
            kept=kept,
        )
        if unusable is not None:
            raise unusable
        crash_points.reach("step.committed")
        return steps.keep(self._job, self._name, stands)

    async def cut(self, error: object, usage: Usage | None = None) -> None:
        """Its answer ended early: settled at `usage`, or at the estimate if nobody said."""
        await self._settle(CallStatus.CUT, usage, error=error)

    async def refused(self, error: object) -> None:
        """The provider refused, and billed nothing."""
        await self._settle(CallStatus.ERROR, Usage(0, 0), Decimal(0), error=error)

    async def limited(self, retry_after_seconds: float | None, error: object) -> ParkSignal:
        """The provider refused because it is asked too much: nobody sends to this model until then.

        Returns what to raise: the job parks, and no failure is counted.
        """
        await self.refused(error)
        return await self.hold_off(retry_after_seconds, error)

    async def hold_off(self, retry_after_seconds: float | None, error: object) -> ParkSignal:
        """Nobody sends to this model until then; as `limited`, but the call is settled already."""
        pause = PAUSE_SECONDS if retry_after_seconds is None else max(0.0, retry_after_seconds)
        async with self._job.tools.database.connection() as connection:
            await limits.pause(connection, self._provider, self._model, pause)
        detail = f"{self._provider} {self._model} is asked too much: {error}"
        return self._job.park("limit", detail=detail[:200], after_seconds=pause * _jitter())

    async def unsent(self, error: object) -> None:
        """Provably not a byte of it was sent: its reservation is released."""
        await self._settle(CallStatus.ERROR, Usage(0, 0), Decimal(0), error=error, unsent=True)

    async def lost(self, error: object) -> None:
        """Nobody knows what it took: it is held at its estimate."""
        await self._settle(CallStatus.UNKNOWN, None, error=error)

    async def _settle(
        self,
        status: CallStatus,
        usage: Usage | None,
        cost: Decimal | None = None,
        price_version: str | None = None,
        price: Mapping[str, Any] | None = None,
        *,
        error: object = None,
        kept: PaidAnswer | None = None,
        unsent: bool = False,
    ) -> Any:
        if cost is None:
            cost, price_version, price = self._price(usage)
        said = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
        settlement = Settlement(
            self.id,
            status,
            usage or self._estimate,
            cost,
            price_version,
            round((time.monotonic() - self._began) * 1000),
            None if said is None else str(said)[:1000],
            price,
            unsent,
        )
        self._end()
        tools = self._job.tools
        with self._under_way:
            booked = await tools.spool.settle(tools.books, self._job.id, Paid(settlement, kept))
        if booked.rooms:
            await self._wake(booked.rooms)
        return booked.stands

    # Before the settlement is tried: an attempt that waited for this answer stops now.
    def _end(self) -> None:
        if self._open:
            self._open = False
            self._job.calls_open.ended()

    def _price(
        self, usage: Usage | None
    ) -> tuple[Decimal | None, str | None, Mapping[str, Any] | None]:
        """What this usage costs; what nobody told costs what was estimated."""
        if usage is None:
            return self._estimated_cost, None, None
        pricing = self._job.tools.pricing
        if pricing is None:
            return None, None, None
        team_id = self._job.team_id
        priced = pricing.price_of(self._provider, self._model, usage, team_id=team_id)
        return (priced.cost, priced.version, priced.rates) if priced else (None, None, None)

    async def _wake(self, rooms: Sequence[UUID]) -> None:
        # Of the others' waiting; the sweep does it too, so it must not fail what was settled.
        try:
            async with self._job.tools.database.connection() as connection:
                await budgets.wake(connection, rooms)
        except JobsworthError as error:
            log.warning(events.UPKEEP_FAILED, part="budgets", error=str(error))


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
    if call is None:
        _, output = await steps.read(job, name)
        return output
    try:
        answer = await send(Sending(call.request_id))
    except BaseException as error:
        await failed(call, error)
        raise
    crash_points.reach("call.answered")
    return await call.answered(answer)


async def failed(call: PaidCall, error: BaseException) -> None:
    """Settle a call by what its sending raised. Raises the park signal for `CallLimited`."""
    match error:
        case CallLimited():
            raise await call.limited(error.retry_after_seconds, error) from error
        case CallRefused():
            await call.refused(error)
        case _:
            await call.lost(error)


async def begin(
    job: "Job", name: str, *, provider: str, model: str, estimate: tuple[int, int]
) -> PaidCall | None:
    """Book a call that is about to be sent, at its upper estimate (input, output tokens).

    Committed on return, under the fence, within its rate limits and budgets. Parks the job (raises
    `ParkSignal`) where one of them says wait, or a person must be asked. None: an earlier call was
    answered meanwhile, as `job` knows. Raises `LeaseLost`, `BudgetExceeded`, `PriceUnknown`, and
    `InvalidInput` while another call of that name is under way.
    """
    with ExitStack() as under_way:
        under_way.enter_context(steps.alone(job, name))
        call_id, booked = await _book(job, name, provider, model, estimate)
        call = PaidCall(job, name, call_id, booked, under_way.pop_all())
    return await _unless_answered(job, name, call)


async def _book(
    job: "Job", name: str, provider: str, model: str, estimate: tuple[int, int]
) -> tuple[UUID, Starting]:
    crash_points.reach("call.before_row")
    tools = job.tools
    upper = Usage(*estimate, source=UsageSource.ESTIMATED)
    cost = await _upper_cost(job, provider, model, estimate)
    if cost is None and tools.unknown_price == "refuse":
        raise PriceUnknown(f"the price of {provider} {model} is not known{_PRICE_REMEDY}")
    call = Starting(
        job.lease,
        provider,
        model,
        uuid4().hex,
        upper,
        cost,
        mode=job.mode,
        step_name=name,
        attempt=job.attempt,
        team_id=job.team_id,
        thread_id=job.thread_id,
        allow_unpriced=tools.unknown_price == "allow",
    )
    sleeps = 0
    while True:
        match await job.write(START, call):
            case CallStarted(call_id, warned):
                for budget in warned:
                    log.warning(events.BUDGET_WARNED, budget=budget)
                crash_points.reach("call.after_row")
                return call_id, call
            case Limited(detail, wait_seconds):
                sleeps += 1
                if wait_seconds > SLEEP_SECONDS_MAX or sleeps > SLEEPS_MAX:
                    raise job.park("limit", detail=detail, after_seconds=wait_seconds)
                await anyio.sleep(wait_seconds)
            case Short() as short:
                await _go_beyond(job, call, short)
                call = call._replace(exceeds=call.exceeds | {short.budget_id})
            case Unpriced(_, detail):
                raise PriceUnknown(f"{detail}{_PRICE_REMEDY}")


# Whoever lost the job may still bring an answer. One committed before this booking is not rebought.
async def _unless_answered(job: "Job", name: str, call: PaidCall) -> PaidCall | None:
    if job.attempt == 1:
        return call
    try:
        found, _ = await steps.read(job, name, fresh=True)
    except BaseException as error:
        await call.unsent(error)
        raise
    if found:
        await call.unsent("an earlier attempt was answered meanwhile")
    return None if found else call


async def _upper_cost(
    job: "Job", provider: str, model: str, estimate: tuple[int, int]
) -> Decimal | None:
    pricing = job.tools.pricing
    if pricing is None:
        return None
    await pricing.ready(job.tools.database, provider)
    return pricing.upper_cost(provider, model, *estimate, team_id=job.team_id)


async def _go_beyond(job: "Job", call: Starting, short: Short) -> None:
    """Return if a person allows this one call to go beyond the budget."""
    if short.over == "park":
        raise job.park("budget", detail=short.detail)
    if short.over == "fail":
        raise BudgetExceeded(short.detail)
    if (call.step_name or "", short.budget_id) in job.exceeds:
        return
    tokens = call.estimate.input_tokens + call.estimate.output_tokens
    money = "" if call.estimated_cost is None else f", {call.estimated_cost:f} USD"
    # The figures of the budget change, the question must not.
    decision = await job.ask(
        f"Let call {call.step_name!r} to {call.provider} {call.model} (up to {tokens} tokens"
        f"{money}) go beyond budget {short.budget}?",
        name=f"beyond {short.budget}: {call.step_name}",
    )
    if not decision.approved:
        raise BudgetExceeded(f"{short.detail}; it was asked about, and refused")
    job.exceeds.add((call.step_name or "", short.budget_id))


def _jitter() -> float:
    """Those that were refused together do not come back together."""
    return 1 + 0.1 * random()
