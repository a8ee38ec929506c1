"""Paid calls: booked before a byte is sent, settled once, and never paid for again.

In: what to send, and an upper estimate of what it will take. Out: the answer, which is a recorded
step. Invariant: before `send` begins the call is in the books, committed, and within every budget
and rate limit that applies to it. How it is settled: `worker.money.paid_call`.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import anyio

from db.money.calls import Answer, Usage, UsageSource
from db.money.starts import CallStarted, Limited, Short, Starting, Unpriced
from worker import crash_points, events
from worker.approvals import ask
from worker.attempt_state import AttemptState, RecordedStep
from worker.log import get_logger
from worker.money.group_commit import START
from worker.money.paid_call import PaidCall, failed
from worker.money.pricing import STANDARD, Terms
from worker.money.sending import Sending
from worker.outcomes import Fail
from worker.steps import steps
from worker.steps.changed import check_kind

REQUEST_ID_HEADER = "X-Request-Id"
# A shorter wait is slept through in the slot, this many times; then the job parks.
SLEEP_SECONDS_MAX = 0.5
SLEEPS_MAX = 4
_PRICE_REMEDY = ": give it a price, or set JOBSWORTH_UNKNOWN_PRICE=allow"

log = get_logger()


class BudgetExceeded(Fail):
    """A call does not fit into a budget; the job fails for good.

    The budget fails such calls, or asked a person who said no.
    """


class PriceUnknown(Fail):
    """A call may not go out because its price is not known; the job fails for good.

    `jobsworth price set` gives the model a price.
    """


async def make(
    state: AttemptState,
    name: str,
    send: Callable[[Sending], Awaitable[Answer]],
    *,
    provider: str,
    model: str,
    estimate: tuple[int, int] = (0, 0),
    tier: str | None = None,
) -> Any:
    """The recorded answer of call `name`; else what `send` returns, settled and recorded."""
    terms = Terms(tier)
    call = await begin(state, name, provider=provider, model=model, estimate=estimate, terms=terms)
    if not isinstance(call, PaidCall):
        return call.output
    try:
        answer = await send(Sending(call.request_id))
    except BaseException as error:
        await failed(call, error)
        raise
    crash_points.reach("call.answered")
    return await call.answered(answer)


async def begin(
    state: AttemptState,
    name: str,
    *,
    provider: str,
    model: str,
    estimate: tuple[int, int],
    terms: Terms = STANDARD,
    before_booking: Callable[[], Awaitable[None]] | None = None,
) -> PaidCall | RecordedStep:
    """Book a call that is about to be sent, at its upper estimate (input, output tokens).

    `before_booking` waits until it can be sent; it is not called where an answer is recorded.
    Committed on return, under the fence, within its rate limits and budgets. If an earlier attempt
    was answered, before or while this one books, returns the recorded step instead. Parks the job
    (raises `ParkSignal`) where a limit or a budget says wait, or a person must be asked. Raises
    `LeaseLost`, `BudgetExceeded`, `PriceUnknown`, and `InvalidInput` while another call or step of
    that name is under way.
    """
    # An earlier attempt may be answered at any moment, so a later one reads the database.
    recorded = await steps.find(state, name, fresh=state.job.attempt > 1)
    if recorded is not None:
        check_kind(name, recorded, "call")
        return recorded
    with ExitStack() as under_way:
        under_way.enter_context(steps.alone(state, name))
        if before_booking is not None:
            await before_booking()
        call_id, booked = await _book(state, name, provider, model, estimate, terms)
        call = PaidCall(state, name, call_id, booked, under_way.pop_all())
    return await _unless_answered(state, name, call)


async def _book(
    state: AttemptState,
    name: str,
    provider: str,
    model: str,
    estimate: tuple[int, int],
    terms: Terms,
) -> tuple[UUID, Starting]:
    crash_points.reach("call.before_row")
    tools = state.tools
    upper = Usage(*estimate, source=UsageSource.ESTIMATED)
    cost = await _upper_cost(state, provider, model, estimate, terms)
    if cost is None and tools.unknown_price == "refuse":
        served = f" in the tier {terms.tier!r}" if terms.tier else ""
        raise PriceUnknown(f"the price of {provider} {model}{served} is not known{_PRICE_REMEDY}")
    call = Starting(
        state.lease,
        provider,
        model,
        uuid4().hex,
        upper,
        cost,
        mode=state.job.mode,
        step_name=name,
        attempt=state.job.attempt,
        team_id=state.job.team_id,
        thread_id=state.job.thread_id,
        allow_unpriced=tools.unknown_price == "allow",
    )
    sleeps = 0
    while True:
        match await state.write(START, call):
            case CallStarted(call_id, warned):
                for budget in warned:
                    log.warning(events.BUDGET_WARNED, budget=budget)
                crash_points.reach("call.after_row")
                return call_id, call
            case Limited(detail, wait_seconds):
                sleeps += 1
                if wait_seconds > SLEEP_SECONDS_MAX or sleeps > SLEEPS_MAX:
                    raise state.park("limit", detail=detail, after_seconds=wait_seconds)
                await anyio.sleep(wait_seconds)
            case Short() as short:
                await _go_beyond(state, call, short)
                call = call._replace(exceeds=call.exceeds | {short.budget_id})
            case Unpriced(_, detail):
                raise PriceUnknown(f"{detail}{_PRICE_REMEDY}")


async def _unless_answered(
    state: AttemptState, name: str, call: PaidCall
) -> PaidCall | RecordedStep:
    """The call; or its recorded step, if the answer to an earlier attempt came meanwhile.

    A worker that has lost the job may still record an answer. One that was committed before this
    booking is not paid for again.
    """
    if state.job.attempt == 1:
        return call
    try:
        recorded = await steps.find(state, name, fresh=True)
    except BaseException as error:
        await call.unsent(error)
        raise
    if recorded is None:
        return call
    await call.unsent("an earlier attempt was answered meanwhile")
    return recorded


async def _upper_cost(
    state: AttemptState, provider: str, model: str, estimate: tuple[int, int], terms: Terms
) -> Decimal | None:
    pricing = state.tools.pricing
    if pricing is None:
        return None
    await pricing.ready(state.tools.database, provider)
    return pricing.upper_cost(provider, model, *estimate, team_id=state.job.team_id, terms=terms)


async def _go_beyond(state: AttemptState, call: Starting, short: Short) -> None:
    """Return if a person allows this one call to go beyond the budget."""
    if short.over == "park":
        raise state.park("budget", detail=short.detail)
    if short.over == "fail":
        raise BudgetExceeded(short.detail)
    if (call.step_name or "", short.budget_id) in state.budgets_exceeded:
        return
    tokens = call.estimate.input_tokens + call.estimate.output_tokens
    money = "" if call.estimated_cost is None else f", {call.estimated_cost:f} USD"
    # The question must be the same in each attempt, so it has no figures of the budget.
    decision = await ask.ask(
        state,
        f"Let call {call.step_name!r} to {call.provider} {call.model} (up to {tokens} tokens"
        f"{money}) go beyond budget {short.budget}?",
        name=f"beyond {short.budget}: {call.step_name}",
    )
    if not decision.approved:
        raise BudgetExceeded(f"{short.detail}; a person was asked, and said no")
    state.budgets_exceeded.add((call.step_name or "", short.budget_id))
