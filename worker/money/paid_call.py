"""A paid call that is in the books: from its reservation to its one settlement.

In: a booked call, and how its sending ended. Out: the settlement, committed together with the
answer, which becomes a recorded step. Invariant: a call is settled once, whatever becomes of its
job; what may have been billed is never settled at nothing.

What a call took is what the provider says, if that is consistent; otherwise its upper estimate
counts. It is priced by the model that answered and by the tier in which it was served; one that has
no price of its own makes the cost unknown. A call that failed in any other way than by a refusal is
held at its estimate, as `unknown`; a call that provably was not sent is released. "Too many
requests" and "overloaded" (429, 529) are refusals and slow the model down for every worker; within
a stream they also cut the call, which is booked by what is known of it. A truth that comes later
corrects the row once, with an `adjust` entry of the difference.

A request that is refused again and again waits longer each time, and fails its job in the end: a
limit that it can never meet looks like any other.

An attempt after the first looks for an answer twice, before and after it books, because a worker
that has lost the job may still bring one.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from decimal import Decimal
from random import random
from typing import Any
from uuid import UUID

from db.documents import to_document
from db.errors import InvalidInput
from db.money import limits
from db.money.calls import Answer, CallStatus, Usage
from db.money.settlements import Settlement
from db.money.starts import Starting
from db.steps.steps import PaidAnswer
from worker import crash_points
from worker.attempt_state import AttemptState, RecordedStep
from worker.log import get_logger
from worker.masking import mask
from worker.money import unusable
from worker.money.group_commit import Paid, wake_waiting
from worker.money.pricing import another_model
from worker.money.sending import CallLimited, CallRefused
from worker.money.unusable import AnswerUnusable
from worker.outcomes import Fail
from worker.steps import steps
from worker.tracing import conventions

# A request that was refused for a rate limit waits a second longer than its model is paused, and
# twice as long each further time.
REFUSED_SECONDS = 1.0
REFUSED_SECONDS_MAX = 60.0
# However long a provider says, it is asked again after this.
PROVIDER_WAIT_SECONDS_MAX = 3_600.0
ERROR_CHARACTERS_MAX = 1_000

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
        tracing = state.tools.tracing
        described = conventions.call(booked.provider, booked.model, name)
        self._span = None if tracing is None else tracing.begin(described)
        state.calls_open.began()

    @property
    def open_seconds(self) -> float:
        """Seconds since the call was booked."""
        return time.monotonic() - self._began

    async def answered(self, answer: Answer, finish_reason: str | None = None) -> Any:
        """Settle the call with its answer, which becomes the step; returns the answer that stands.

        `finish_reason`: why the model stopped, if that is known.

        Raises `AnswerUnusable` for an answer that cannot be: its content is not JSON, or its cost
        no amount of money. The call is settled all the same. Content that is JSON is recorded, so
        a retry reads it; other content is kept in the call's row, as its text.
        """
        took_seconds = self.open_seconds
        answer, wrong = unusable.sound(answer)
        kept, said = None, None
        try:
            output = to_document(answer.content, f"the answer of call {self._name!r}")
            state = self._state
            kept = PaidAnswer(state.job.id, self._name, output, state.job.attempt, took_seconds)
        except InvalidInput as error:
            wrong.append(str(error))
            said = unusable.text_of(answer.content)
        # The settlement and the answer are one commit, also after the lease is lost: what was paid
        # is booked, and not paid again. An answer that cannot be recorded was paid for, too.
        stands = await self._settle(
            CallStatus.OK,
            answer.usage,
            answer.cost,
            answer.price_version,
            answer.price,
            error=unusable.described(wrong, said) if wrong else None,
            kept=kept,
            finish_reason=finish_reason,
            answered_model=another_model(self._provider, self._model, answer.model),
        )
        if wrong:
            raise AnswerUnusable(self._name, wrong, self._state.job.id)
        crash_points.reach("step.committed")
        return steps.keep(self._state, self._name, RecordedStep(stands, "call"))

    async def cut(self, error: object, usage: Usage | None = None) -> None:
        """The answer ended early: settle the call at `usage`, or at the estimate without it."""
        await self._settle(CallStatus.CUT, usage, error=error)

    async def refused(self, error: object) -> None:
        """The provider refused and billed nothing: settle the call at nothing."""
        await self._settle(CallStatus.ERROR, Usage(0, 0), Decimal(0), error=error)

    async def limited(
        self, wait_seconds: float | None, error: object, usage: Usage | None = None
    ) -> BaseException:
        """The provider refused for its rate limit, and asked for a pause of `wait_seconds`.

        `usage` is what the call took if a part of the answer had come; it is settled at nothing
        without it. The model is asked more seldom from now on, by all workers. Returns what to
        raise: the signal by which the job parks, and no failure is counted; or `Fail`, once this
        request was refused as often, or for as long, as the settings allow.
        """
        wait = None if wait_seconds is None else min(wait_seconds, PROVIDER_WAIT_SECONDS_MAX)
        status, cost = (CallStatus.ERROR, Decimal(0)) if usage is None else (CallStatus.CUT, None)
        await self._settle(
            status, usage or Usage(0, 0), cost, error=error, limited=True, wait_seconds=wait
        )
        tools, job_id = self._state.tools, self._state.job.id
        async with tools.database.connection() as connection:
            refused = await limits.refusals(
                connection, job_id, self._name, self._provider, self._model
            )
        detail = f"{self._provider} {self._model} refused for its rate limit: {error}"
        past = refused.since_seconds >= tools.refused_seconds_max
        if past or refused.times >= tools.refusals_max:
            return Fail(
                f"{detail}; refused {refused.times} times in {refused.since_seconds:.0f} s "
                "(JOBSWORTH_REFUSALS_MAX, JOBSWORTH_REFUSED_SECONDS_MAX); retry the job when the "
                "provider takes it"
            )
        # It comes back after those that were not refused themselves: their key may be another.
        own = min(REFUSED_SECONDS_MAX, REFUSED_SECONDS * 2.0 ** min(refused.times - 1, 32))
        if wait and refused.times == 1:
            own = min(own, wait)
        after = (max(wait or 0.0, refused.paused_seconds) + own) * _jitter()
        return self._state.park("limit", detail=detail[:200], after_seconds=after)

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
        limited: bool = False,
        wait_seconds: float | None = None,
        finish_reason: str | None = None,
        answered_model: str | None = None,
    ) -> Any:
        if cost is None:
            cost, price_version, price = self._price(usage, answered_model or self._model)
        said = None if error is None else mask(_said(error))
        settlement = Settlement(
            self.id,
            status,
            usage or self._estimate,
            cost,
            price_version,
            round(self.open_seconds * 1000),
            None if said is None else said[: unusable.TEXT_CHARACTERS_MAX],
            price,
            unsent,
            limited,
            wait_seconds,
            finish_reason,
            answered_model,
        )
        self._end()
        self._trace(settlement)
        tools = self._state.tools
        with self._under_way:
            booked = await tools.spool.settle(
                tools.books, self._state.job.id, Paid(settlement, kept)
            )
        took = settlement.usage
        tools.called(
            f"{self._provider}:{self._model}",
            status.value,
            took.input_tokens if took else 0,
            took.output_tokens if took else 0,
            None if cost is None else float(cost),
        )
        if booked.freed:
            await wake_waiting(tools.database, booked.freed)
        return booked.stands

    # Before the settlement is tried: an attempt that waited for this answer stops now.
    def _end(self) -> None:
        if self._open:
            self._open = False
            self._state.calls_open.ended()

    def _trace(self, settled: Settlement) -> None:
        span, self._span = self._span, None
        if span is not None:
            status, cost = settled.status.value, settled.cost
            known = conventions.settled(
                status,
                settled.usage,
                None if cost is None else float(cost),
                settled.answered_model,
                settled.finish_reason,
            )
            span.end(known, None if settled.status is CallStatus.OK else status)

    def _price(
        self, usage: Usage | None, model: str
    ) -> tuple[Decimal | None, str | None, Mapping[str, Any] | None]:
        """(cost, price version, rates) of this usage; unknown usage costs what was estimated."""
        if usage is None:
            return self._estimated_cost, None, None
        pricing = self._state.tools.pricing
        if pricing is None:
            return None, None, None
        team_id = self._state.job.team_id
        priced = pricing.price_of(self._provider, model, usage, team_id=team_id)
        return (priced.cost, priced.version, priced.rates) if priced else (None, None, None)


async def failed(call: PaidCall, error: BaseException) -> None:
    """Settle a call by what its sending raised; for `CallLimited`, raise how the job goes on."""
    match error:
        case CallLimited():
            raise await call.limited(error.retry_after_seconds, error) from error
        case CallRefused():
            await call.refused(error)
        case _:
            await call.lost(error)


def _said(error: object) -> str:
    if isinstance(error, BaseException):
        return f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]
    return str(error)


def _jitter() -> float:
    """A factor that spreads jobs that were refused together, so they do not return together."""
    return 1 + 0.1 * random()
