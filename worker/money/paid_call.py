"""A paid call that is in the books: from its reservation to its one settlement.

In: a booked call, and how its sending ended. Out: the settlement, committed together with the
answer, which becomes a recorded step. Invariant: a call is settled once, whatever becomes of its
job; what may have been billed is never settled at nothing.

What a call took is what the provider says, if that is consistent; otherwise its upper estimate
counts. A call that failed in any other way than by a refusal is held at its estimate, as `unknown`;
a call that provably was not sent is released. "Too many requests" and "overloaded" (429, 529) are
refusals and pause the model for every worker; within a stream they also cut the call. A truth that
comes later corrects the row once, with an `adjust` entry of the difference.

An attempt after the first looks for an answer twice, before and after it books, because a worker
that has lost the job may still bring one.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from random import random
from typing import Any
from uuid import UUID

from db.documents import to_document
from db.errors import InvalidInput, JobsworthError
from db.money import budgets, limits
from db.money.amount import checked_amount
from db.money.calls import Answer, CallStatus, Usage
from db.money.settlements import Settlement
from db.money.starts import Starting
from db.steps.steps import PaidAnswer
from worker import crash_points, events
from worker.attempt_state import AttemptState, RecordedStep
from worker.log import get_logger
from worker.masking import mask
from worker.money.group_commit import Paid
from worker.money.sending import CallLimited, CallRefused
from worker.outcomes import ParkSignal
from worker.steps import steps

# How long a model is paused whose provider refused for its rate limit without saying for how long.
PAUSE_SECONDS = 10.0

log = get_logger()


class PaidCall:
    """A call that is in the books and may be sent; `worker.money.calls.begin` makes it.

    The first of `answered`, `cut`, `refused`, `limited`, `unsent` and `lost` settles it; a second
    one changes nothing.
    """

    def __init__(
        self, state: AttemptState, name: str, call_id: UUID, booked: Starting, under_way: ExitStack
    ) -> None:
        """`under_way` keeps the call's name taken; it is closed when the call is settled."""
        self.id = call_id
        self.request_id = booked.request_id
        self._state = state
        self._name = name
        self._provider = booked.provider
        self._model = booked.model
        self._estimate = booked.estimate
        self._estimated_cost = booked.estimated_cost
        self._under_way = under_way
        self._began = time.monotonic()
        self._open = True
        state.calls_open.began()

    @property
    def open_seconds(self) -> float:
        """Seconds since the call was booked."""
        return time.monotonic() - self._began

    async def answered(self, answer: Answer) -> Any:
        """Settle the call with its answer, which becomes the step; returns the answer that stands.

        Raises `InvalidInput` if the content is not JSON, or the cost is not an amount of money. The
        call is settled all the same; content that is JSON is recorded, so that the next attempt
        does not pay again.
        """
        took_seconds = self.open_seconds
        kept, unusable = None, None
        try:
            checked_amount(answer.cost)
        except InvalidInput as error:
            answer, unusable = replace(answer, cost=None), error
        try:
            output = to_document(answer.content, f"the answer of call {self._name!r}")
            state = self._state
            kept = PaidAnswer(state.job.id, self._name, output, state.job.attempt, took_seconds)
        except InvalidInput as error:
            unusable = error
        # The settlement and the answer are one commit, also after the lease is lost: what was paid
        # is booked, and not paid again. An answer that cannot be recorded was paid for, too.
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
        return steps.keep(self._state, self._name, RecordedStep(stands, "call"))

    async def cut(self, error: object, usage: Usage | None = None) -> None:
        """The answer ended early: settle the call at `usage`, or at the estimate without it."""
        await self._settle(CallStatus.CUT, usage, error=error)

    async def refused(self, error: object) -> None:
        """The provider refused and billed nothing: settle the call at nothing."""
        await self._settle(CallStatus.ERROR, Usage(0, 0), Decimal(0), error=error)

    async def limited(self, retry_after_seconds: float | None, error: object) -> ParkSignal:
        """The provider refused for its rate limit: settle the call at nothing, pause the model.

        Returns the signal to raise: the job parks, and no failure is counted.
        """
        await self.refused(error)
        return await self.pause_model(retry_after_seconds, error)

    async def pause_model(self, retry_after_seconds: float | None, error: object) -> ParkSignal:
        """Pause the model for all workers; the call is settled already. Returns the park signal."""
        pause = PAUSE_SECONDS if retry_after_seconds is None else max(0.0, retry_after_seconds)
        async with self._state.tools.database.connection() as connection:
            await limits.pause(connection, self._provider, self._model, pause)
        detail = f"{self._provider} {self._model} refused for its rate limit: {error}"
        return self._state.park("limit", detail=detail[:200], after_seconds=pause * _jitter())

    async def unsent(self, error: object) -> None:
        """Certainly not a byte was sent: release the call's reservation."""
        await self._settle(CallStatus.ERROR, Usage(0, 0), Decimal(0), error=error, unsent=True)

    async def lost(self, error: object) -> None:
        """What the call cost is unknown: keep it in the books at its estimate."""
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
            round(self.open_seconds * 1000),
            None if said is None else mask(str(said))[:1000],
            price,
            unsent,
        )
        self._end()
        tools = self._state.tools
        with self._under_way:
            booked = await tools.spool.settle(
                tools.books, self._state.job.id, Paid(settlement, kept)
            )
        if booked.freed:
            await self._wake_others(booked.freed)
        return booked.stands

    # Before the settlement is tried: an attempt that waited for this answer stops now.
    def _end(self) -> None:
        if self._open:
            self._open = False
            self._state.calls_open.ended()

    def _price(
        self, usage: Usage | None
    ) -> tuple[Decimal | None, str | None, Mapping[str, Any] | None]:
        """(cost, price version, rates) of this usage; unknown usage costs what was estimated."""
        if usage is None:
            return self._estimated_cost, None, None
        pricing = self._state.tools.pricing
        if pricing is None:
            return None, None, None
        team_id = self._state.job.team_id
        priced = pricing.price_of(self._provider, self._model, usage, team_id=team_id)
        return (priced.cost, priced.version, priced.rates) if priced else (None, None, None)

    async def _wake_others(self, budget_ids: Sequence[UUID]) -> None:
        """Wake jobs that wait for these budgets, in which there is room again."""
        # The sweep wakes them too, so an error here must not fail the call that is settled.
        try:
            async with self._state.tools.database.connection() as connection:
                await budgets.wake(connection, budget_ids)
        except JobsworthError as error:
            log.warning(events.UPKEEP_FAILED, part="budgets", error=str(error))


async def failed(call: PaidCall, error: BaseException) -> None:
    """Settle a call by what its sending raised; for `CallLimited`, raise the signal to park."""
    match error:
        case CallLimited():
            raise await call.limited(error.retry_after_seconds, error) from error
        case CallRefused():
            await call.refused(error)
        case _:
            await call.lost(error)


def _jitter() -> float:
    """A factor that spreads jobs that were refused together, so they do not return together."""
    return 1 + 0.1 * random()
