"""What a handler's paid calls do at a budget, a rate limit, and with any SDK."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import anyio
import pytest

from db.money import budgets, limits, settlements
from db.money import calls as call_records
from db.money.budgets import Over, Unit
from db.money.calls import Answer, Call, CallStatus, Usage
from db.pool import Database, execute
from db.queue.jobs import JobStatus
from jobsworth import CallLimited, CallRefused, Job, Sending, handler
from tests.support import until
from tests.worker.job_api import JobApi, registered
from worker.money.pricing import STANDARD, Priced, Terms

CALL: dict[str, Any] = {"provider": "acme", "model": "large", "estimate": (60, 40)}
WINDOW: LiteralString = """
select sum(w.reserved) as reserved, sum(w.spent) as spent from jobsworth.budget_windows w
"""
WAITING: LiteralString = """
select count(*) from jobsworth.reactive_jobs j where j.waiting_for::text = %(reason)s
"""
DUE: LiteralString = """
update jobsworth.reactive_jobs set run_at = now() where waiting_for = 'limit'
"""
UNPAUSE: LiteralString = "update jobsworth.rate_limits set paused_until = now(), turn_at = null"


@dataclass(frozen=True)
class PerToken:
    """A cent for each token."""

    known: tuple[str, ...] = ("large",)

    async def ready(self, database: Database, provider: str) -> None:
        """It has them."""

    def price_of(
        self, provider: str, model: str, usage: Usage, *, team_id: UUID | None = None
    ) -> Priced | None:
        cost = self.upper_cost(provider, model, usage.input_tokens, usage.output_tokens)
        return None if cost is None else Priced(cost, "test 1", {"token": "0.01"})

    def upper_cost(
        self,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        team_id: UUID | None = None,
        terms: Terms = STANDARD,
    ) -> Decimal | None:
        return Decimal(input_tokens + output_tokens) / 100 if model in self.known else None


@pytest.fixture
def priced(api: JobApi) -> None:
    """Workers know the prices of `PerToken`."""
    api.pricing = PerToken()


async def budget(
    api: JobApi, amount: int, unit: Unit = "tokens", over: Over = "park", **filters: Any
) -> None:
    async with api.database.connection() as connection:
        await budgets.set_budget(
            connection, "daily", amount, unit=unit, period="day", over=over, **filters
        )


async def calls(api: JobApi, job_id: UUID) -> list[Call]:
    async with api.database.connection() as connection:
        return await call_records.list_calls(connection, job_id)


async def window(api: JobApi) -> tuple[Any, ...]:
    [row] = await api.rows(WINDOW)
    return tuple(row.values())


def asking(sent: list[str], answer: Answer | None = None) -> Any:
    async def send(sending: Sending) -> Answer:
        sent.append(sending.request_id)
        return answer or Answer("hi", Usage(10, 5))

    return send


def working(sent: list[str], answer: Answer | None = None) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        return await job.call("think", asking(sent, answer), **CALL)


async def test_a_call_over_its_budget_parks_and_goes_on_when_it_is_raised(api: JobApi) -> None:
    sent: list[str] = []
    working(sent)
    await budget(api, 50)
    job = await api.run("work")
    assert (job.status, job.waiting_for, job.failures) == (JobStatus.WAITING, "budget", 0)
    assert "0 of 50 tokens reserved or spent, this call needs up to 100" in (
        job.waiting_detail or ""
    )
    assert (sent, await calls(api, job.id)) == ([], [])
    async with api.database.connection() as connection:
        await budgets.raise_to(connection, "daily", 100)
    await api.work()
    assert (await api.job(job.id)).result == "hi"
    assert (len(sent), await window(api)) == (1, (0, 15))


async def test_a_settlement_wakes_who_waits_for_its_room(api: JobApi) -> None:
    """Without the sweep, which comes seconds later."""
    release = anyio.Event()
    sent: list[str] = []

    @handler("slow")
    async def slow(job: Job) -> Any:
        async def send(_: Sending) -> Answer:
            await release.wait()
            return Answer("slow", Usage(1, 1))

        return await job.call("think", send, **CALL)

    working(sent)
    await budget(api, 150)
    async with api.working():
        await api.enqueue("slow")

        async def reserved() -> bool:
            return (await window(api))[0] == 100

        await until(reserved)
        job_id = await api.enqueue("work")

        async def waits() -> bool:
            return bool(await api.value(WAITING, reason="budget"))

        await until(waits)
        release.set()
        await api.idle()
    assert (await api.job(job_id)).result == "hi"
    assert await window(api) == (0, 17)


async def test_a_budget_may_fail_what_does_not_fit(api: JobApi) -> None:
    sent: list[str] = []
    working(sent)
    await budget(api, 50, over="fail")
    job = await api.run("work")
    assert (job.status, sent) == (JobStatus.FAILED, [])
    assert "budget daily: 0 of 50 tokens" in (job.error or "")


@pytest.mark.parametrize("option", ["approve", "reject"])
async def test_a_budget_may_ask_whether_a_call_goes_beyond_it(api: JobApi, option: str) -> None:
    sent: list[str] = []
    working(sent)
    await budget(api, 50, over="ask")
    job = await api.run("work")
    assert (job.waiting_for, sent) == ("approval", [])
    approval = await api.approval(job.id)
    assert "Let call 'think' to acme large (up to 100 tokens) go beyond budget daily?" in (
        approval.proposal_text
    )
    await api.decide(job.id, option)
    await api.work()
    job = await api.job(job.id)
    if option == "approve":
        assert (job.result, len(sent), await window(api)) == ("hi", 1, (0, 15))
    else:
        assert (job.status, sent) == (JobStatus.FAILED, [])
        assert "a person was asked, and said no" in (job.error or "")


@pytest.mark.usefixtures("priced")
async def test_a_call_is_estimated_and_charged_by_its_price(api: JobApi) -> None:
    working([])
    await budget(api, 5, "money")
    job = await api.run("work")
    [call] = await calls(api, job.id)
    assert (call.estimated_cost, call.cost) == (Decimal("1.00"), Decimal("0.15"))
    assert (call.price_version, call.price) == ("test 1", {"token": "0.01"})
    assert await window(api) == (0, Decimal("0.15"))


@pytest.mark.parametrize("policy", ["allow", "refuse_if_budgeted", "refuse"])
async def test_an_unknown_price_goes_out_by_policy(database_url: str, policy: str) -> None:
    with registered():
        async with JobApi.open(database_url, unknown_price=policy) as api:
            sent: list[str] = []
            working(sent)
            free = await api.run("work")
            await budget(api, 5, "money")
            bound = await api.run("work")
    went = [job.status is JobStatus.DONE for job in (free, bound)]
    assert (
        went
        == {
            "allow": [True, True],
            "refuse_if_budgeted": [True, False],
            "refuse": [False, False],
        }[policy]
    )
    assert len(sent) == sum(went)
    if not went[1]:
        assert "the price of acme large is not known" in (bound.error or "")


async def test_a_call_that_is_refused_for_asking_too_much_pauses_its_model_and_burns_no_failure(
    api: JobApi,
) -> None:
    sent: list[int] = []

    @handler("work")
    async def work(job: Job) -> Any:
        async def send(_: Sending) -> Answer:
            sent.append(job.attempt)
            if len(sent) == 1:
                raise CallLimited("429", retry_after_seconds=60)
            return Answer("hi", Usage(1, 1))

        return await job.call("think", send, **CALL)

    job = await api.run("work")
    assert (job.status, job.waiting_for, job.failures) == (JobStatus.WAITING, "limit", 0)
    assert "acme large refused for its rate limit: 429" in (job.waiting_detail or "")
    # Everybody's: another job parks before it sends.
    other = await api.run("work")
    assert (other.waiting_for, len(sent)) == ("limit", 1)
    # One at a time: the model has a pace since it refused.
    for _ in range(2):
        await api.database.execute(UNPAUSE)
        await api.database.execute(DUE)
        await api.work()
    for one in (job, other):
        assert (await api.job(one.id)).result == "hi"
    refused, answered = await calls(api, job.id)
    assert (refused.status, refused.cost, answered.status) == (
        CallStatus.ERROR,
        Decimal(0),
        CallStatus.OK,
    )


async def test_a_short_wait_for_a_limit_is_slept_through(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        return [await job.call(str(n), asking([]), **CALL) for n in range(3)]

    async with api.database.connection() as connection:
        await limits.set_limit(connection, "acme", "large", requests=1200)
        await execute(
            connection,
            "update jobsworth.rate_limits set requests_at = now() + interval '60.1 seconds'",
        )
    job = await api.run("work")
    assert (job.result, job.attempt) == (["hi"] * 3, 1)


# With any SDK.


async def test_a_block_around_another_sdk_is_a_paid_call(api: JobApi) -> None:
    seen: list[Any] = []

    @handler("work")
    async def work(job: Job) -> Any:
        async with job.call("think", provider="acme", model="large", estimate=(60, 40)) as call:
            if not call.recorded:
                seen.append((call.headers, call.request_id))
                await call.answered({"text": "hi"}, 10, 5, total_tokens=15)
        if job.attempt == 1:
            raise ConnectionError("later")
        return call.output

    job = await api.run("work")
    assert (job.result, job.attempt) == ({"text": "hi"}, 2)
    [call] = await calls(api, job.id)
    assert seen == [({"X-Request-Id": call.request_id}, call.request_id)]
    assert (call.status, call.input_tokens, call.total_tokens) == (CallStatus.OK, 10, 15)


@pytest.mark.parametrize(
    ("error", "status", "used"),
    [
        (CallRefused("400"), CallStatus.ERROR, 0),
        (ConnectionError("cut"), CallStatus.UNKNOWN, 100),
        (None, CallStatus.UNKNOWN, 100),
    ],
    ids=str,
)
async def test_however_a_block_is_left_its_call_is_settled(
    api: JobApi, error: Exception | None, status: CallStatus, used: int
) -> None:
    await budget(api, 1000)

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        async with job.call("think", provider="acme", model="large", estimate=(60, 40)):
            if error is not None:
                raise error

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    [call] = await calls(api, job.id)
    assert call.status is status
    assert await window(api) == (0, used)
    if error is None:
        assert "left without an answer" in (job.error or "")


# Dying.


async def test_a_worker_that_dies_with_a_reservation_leaves_it_at_its_estimate(
    api: JobApi,
) -> None:
    sent: list[int] = []

    @handler("work")
    async def work(job: Job) -> Any:
        async def send(_: Sending) -> Answer:
            sent.append(job.attempt)
            if job.attempt == 1:
                worker.kill()
                await anyio.sleep_forever()
            return Answer("hi", Usage(10, 5))

        return await job.call("think", send, **CALL)

    await budget(api, 1000)
    job_id = await api.enqueue("work")
    async with api.dying() as worker:
        await until(lambda: _is(sent == [1]))
    await api.work()
    assert (await api.job(job_id)).result == "hi"

    async def settled() -> bool:
        async with api.database.connection() as connection:
            await settlements.settle_abandoned(connection, 10)
        return [one.status for one in await calls(api, job_id)] == ["unknown", "ok"]

    await until(settled)
    assert await window(api) == (0, 115)


async def _is(fact: bool) -> bool:
    return fact
