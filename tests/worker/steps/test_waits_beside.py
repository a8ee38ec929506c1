"""A wait beside other work takes effect when that work has ended and is recorded.

The provider's bill is held against the books: whatever runs together, each answer is paid once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, LiteralString

import anyio
import pytest

from db.money import budgets
from db.money.calls import CallStatus
from db.queue import jobs
from db.queue.jobs import JobStatus, WaitReason
from jobsworth import Job, Snooze, handler
from tests.providers.openai_stub import OpenAIStub, slow
from tests.support import until
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of
from tests.worker.steps.beside import TOGETHER, forgiving, gathered, in_task_group, paid

STATUS: LiteralString = "select status::text from jobsworth.reactive_jobs where id = %(id)s"


@pytest.fixture
def provider() -> Iterator[OpenAIStub]:
    with OpenAIStub() as stub:
        yield stub


async def wait_for(job: Job, kind: str) -> Any:
    match kind:
        case "sleep":
            return await job.sleep(0.3)
        case "ask":
            return (await job.ask("Go on?")).approved
        case "signal":
            return await job.wait("go", timeout_seconds=0.3)
        case _:
            return await job.gather(job.spawn("child"))


@pytest.mark.parametrize("kind", ["sleep", "ask", "signal", "children"])
@pytest.mark.parametrize("form", TOGETHER)
async def test_a_paid_call_beside_a_wait_is_paid_once(
    api: JobApi, provider: OpenAIStub, form: str, kind: str
) -> None:
    provider.script(slow(0.2))

    @handler("child")
    async def child() -> int:
        return 1

    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        results = await TOGETHER[form](lambda: wait_for(job, kind), lambda: paid(job, provider))
        return results[1]

    job = await api.run("work")
    if kind == "ask":
        await api.decide(job.id, "approve")
        await api.work()
        job = await api.job(job.id)
    assert job.status is JobStatus.DONE, job.error
    assert isinstance(job.result, str)
    statuses = [call.status for call in await calls_of(api, job.id)]
    assert (len(provider.bill), statuses) == (1, [CallStatus.OK])


@pytest.mark.parametrize("form", TOGETHER)
@pytest.mark.parametrize("effect", ["idempotent", "unsafe"])
async def test_a_step_that_began_beside_a_wait_is_recorded_and_runs_once(
    api: JobApi, form: str, effect: Any
) -> None:
    ran: list[int] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        async def act() -> str:
            ran.append(job.attempt)
            await anyio.sleep(0.2)
            return "acted"

        _, acted = await TOGETHER[form](
            lambda: job.sleep(0.3), lambda: job.step("act", act, effect=effect)
        )
        return acted

    job = await api.run("work")
    assert (job.status, job.result, len(ran)) == (JobStatus.DONE, "acted", 1), job.error


@pytest.mark.parametrize("form", TOGETHER)
async def test_a_branch_goes_on_beside_one_that_waits(api: JobApi, form: str) -> None:
    """Otherwise a question that nobody answers would hold up all other branches."""
    ran: list[str] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        async def act(name: str) -> None:
            ran.append(name)
            await anyio.sleep(0.1)

        async def acts() -> None:
            await job.step("one", act, "one")
            await anyio.sleep(0.05)
            await job.step("two", act, "two")

        await TOGETHER[form](lambda: job.ask("Go on?"), acts)

    job = await api.run("work")
    assert (job.waiting_for, ran) == (WaitReason.APPROVAL, ["one", "two"])
    await api.decide(job.id, "approve")
    await api.work()
    assert ((await api.job(job.id)).status, ran) == (JobStatus.DONE, ["one", "two"])


async def test_a_step_that_is_at_work_may_use_steps_and_calls_of_its_own_while_the_job_waits(
    api: JobApi, provider: OpenAIStub
) -> None:
    """Refusing them in the middle of an unsafe step would leave it half done."""
    ran: list[int] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        async def act() -> Any:
            ran.append(job.attempt)
            await anyio.sleep(0.2)
            await job.step("inner", lambda: None)
            return await paid(job, provider)

        return (
            await gathered(lambda: job.sleep(0.1), lambda: job.step("act", act, effect="unsafe"))
        )[1]

    job = await api.run("work")
    assert (job.status, len(ran), len(provider.bill)) == (JobStatus.DONE, 1, 1), job.error


async def test_two_waits_are_both_recorded_and_the_first_to_be_over_wakes_the_job(
    api: JobApi,
) -> None:
    passed: list[str] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        async def question() -> None:
            await job.ask("Go on?")
            passed.append("asked")

        async def nap() -> None:
            await job.sleep(0.3)
            await job.step("woken", lambda: passed.append("slept"))

        await gathered(question, nap)

    job = await api.run("work")
    # The timer has woken it, and now it waits for the decision alone.
    assert (job.waiting_for, passed) == (WaitReason.APPROVAL, ["slept"])
    await api.decide(job.id, "approve")
    await api.work()
    assert (await api.job(job.id)).status is JobStatus.DONE


async def test_two_questions_beside_each_other_are_both_asked(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> list[bool]:
        asked = await gathered(lambda: job.ask("A?"), lambda: job.ask("B?"))
        return [one.approved for one in asked]

    job = await api.run("work")
    asked = await api.rows("select id, proposal_text from jobsworth.approvals order by 2")
    assert [one["proposal_text"] for one in asked] == ["A?", "B?"]
    for one in asked:
        await api.rows("select jobsworth.resolve(%(id)s, 'approve', 'ada')", id=one["id"])
    await api.work()
    assert (await api.job(job.id)).result == [True, True]


@pytest.mark.parametrize("form", ["gather", "TaskGroup", "anyio"])
async def test_a_branch_that_fails_beside_a_wait_fails_the_attempt(api: JobApi, form: str) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        async def fail() -> None:
            await anyio.sleep(0.1)
            raise ValueError("boom")

        await TOGETHER[form](lambda: job.sleep(3600), lambda: job.step("fail", fail))

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert "boom" in (job.error or "")


async def test_a_failure_beside_a_paid_call_waits_for_its_answer(
    api: JobApi, provider: OpenAIStub
) -> None:
    """Not waits alone: an attempt that fails must not leave a call behind that is paid again."""
    provider.script(slow(0.3))

    @handler("work", failures_max=3)
    async def work(job: Job) -> Any:
        async def fail() -> None:
            await anyio.sleep(0.1)
            if job.attempt == 1:
                raise ValueError("boom")

        return (await gathered(fail, lambda: paid(job, provider)))[1]

    job = await api.run("work")
    assert (job.status, job.failures, len(provider.bill)) == (JobStatus.DONE, 1, 1), job.error
    assert [call.status for call in await calls_of(api, job.id)] == [CallStatus.OK]


async def test_a_snooze_beside_a_step_waits_for_its_record(api: JobApi) -> None:
    ran: list[int] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        async def act() -> str:
            ran.append(job.attempt)
            await anyio.sleep(0.2)
            return "acted"

        async def snooze() -> None:
            await anyio.sleep(0.05)
            if job.attempt == 1:
                raise Snooze(0)

        return (await gathered(snooze, lambda: job.step("act", act, effect="unsafe")))[1]

    job = await api.run("work")
    assert (job.result, ran) == ("acted", [1]), job.error


async def test_a_handler_that_returns_beside_a_step_waits_for_its_record(api: JobApi) -> None:
    left: list[Any] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> str:
        async def act() -> str:
            await anyio.sleep(0.2)
            return "acted"

        left.append(asyncio.ensure_future(job.step("act", act)))
        await anyio.sleep(0.05)
        return "returned"

    job = await api.run("work")
    assert job.result == "returned"
    assert await api.value("select output from jobsworth.steps where name = 'act'") == "acted"


@pytest.mark.parametrize("form", ["gather", "forgiving gather"])
async def test_code_beside_a_wait_that_is_no_step_is_stopped_before_the_job_waits(
    api: JobApi, form: str
) -> None:
    at_work: list[int] = []
    seen: list[int] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        seen.append(len(at_work))

        async def idle() -> None:
            at_work.append(job.attempt)
            try:
                await anyio.sleep(0.5 if job.attempt > 1 else 3600)
            finally:
                at_work.remove(job.attempt)

        await TOGETHER[form](lambda: job.sleep(0.2), idle)

    assert (await api.run("work")).status is JobStatus.DONE
    assert seen == [0, 0]


async def test_a_thread_beside_a_wait_ends_before_the_job_waits(api: JobApi) -> None:
    """A thread cannot be stopped, so the next attempt begins after it."""
    at_work: list[int] = []
    seen: list[int] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        seen.append(len(at_work))

        def busy() -> None:
            at_work.append(job.attempt)
            time.sleep(0.4)
            at_work.remove(job.attempt)

        async def in_executor() -> None:
            await asyncio.get_running_loop().run_in_executor(None, busy)

        await gathered(lambda: job.sleep(0.1), in_executor, lambda: asyncio.to_thread(busy))

    assert (await api.run("work")).status is JobStatus.DONE
    assert len(seen) >= 2
    assert set(seen) == {0}


async def test_a_branch_that_swallows_the_stop_can_neither_send_nor_write_any_more(
    api: JobApi, provider: OpenAIStub
) -> None:
    told: list[str] = []
    overlaps: list[bool] = []
    deaf = asyncio.Event()

    @handler("work", failures_max=1)
    async def work(job: Job) -> str:
        if job.attempt > 1:
            overlaps.append(not deaf.is_set())
            return "done"

        async def stubborn() -> None:
            for _ in range(3):
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    break
            for act in (lambda: paid(job, provider), lambda: job.step("late", lambda: 1)):
                try:
                    await act()
                except Exception as error:
                    told.append(type(error).__name__)
            deaf.set()

        await gathered(lambda: job.sleep(0.1), stubborn)
        return "not reached"

    job = await api.run("work")
    assert (job.result, overlaps) == ("done", [False])
    assert told == ["LeaseLost", "LeaseLost"]
    assert (len(provider.bill), await calls_of(api, job.id)) == (0, [])


async def test_a_cancel_while_the_wait_waits_ends_the_job(api: JobApi) -> None:
    sent = threading.Event()

    def hang(body: dict[str, Any]) -> str:
        sent.set()
        time.sleep(1)
        return "late"

    with OpenAIStub(reply=hang) as hanging:

        @handler("work", failures_max=1)
        async def work(job: Job) -> None:
            await gathered(lambda: job.sleep(0.05), lambda: paid(job, hanging))

        async with api.working():
            job_id = await api.enqueue("work")
            await until(lambda: asyncio.sleep(0, sent.is_set()))
            async with api.database.connection() as connection:
                await jobs.cancel(connection, job_id)
            await api.idle()
        assert (await api.job(job_id)).status is JobStatus.CANCELED
        [call] = await calls_of(api, job_id)
        assert call.status in (CallStatus.UNKNOWN, CallStatus.OK)


async def test_the_deadline_bounds_how_long_a_wait_waits_for_what_runs_beside_it(
    api: JobApi,
) -> None:
    @handler("work", timeout_seconds=0.5, failures_max=1)
    async def work(job: Job) -> None:
        await gathered(lambda: job.sleep(0.05), lambda: job.step("hang", anyio.sleep_forever))

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert "its deadline passed" in (job.error or "")


async def test_a_worker_that_dies_while_a_wait_waits_leaves_a_job_that_runs_again(
    api: JobApi,
) -> None:
    ran: list[int] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> str:
        async def act() -> str:
            ran.append(job.attempt)
            if job.attempt == 1:
                await anyio.sleep_forever()
            return "acted"

        return (await gathered(lambda: job.sleep(0.05), lambda: job.step("act", act)))[1]

    async with api.dying() as worker:
        job_id = await api.enqueue("work")
        await until(lambda: asyncio.sleep(0, bool(ran)))
        await asyncio.sleep(0.1)
        worker.kill()
    await api.work()
    assert ((await api.job(job_id)).result, ran) == ("acted", [1, 2])


async def test_a_wait_inside_a_step_does_not_wait_for_that_step(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> str:
        async def naps() -> str:
            await gathered(lambda: job.sleep(0.1), lambda: job.sleep(0.2))
            return "rested"

        async def other() -> str:
            await job.wait("go", timeout_seconds=0.2)
            return "waited"

        return " ".join(
            await gathered(lambda: job.step("naps", naps), lambda: job.step("other", other))
        )

    assert (await api.run("work")).result == "rested waited"


async def test_a_wait_inside_an_open_call_does_not_wait_for_that_call(api: JobApi) -> None:
    @handler("work", failures_max=1, timeout_seconds=20)
    async def work(job: Job) -> str:
        async with job.call("think", provider="acme", model="m", estimate=(1, 1)) as call:
            if not call.recorded:
                await job.sleep(0.1)
                await call.answered("thought", 1, 1)
        return call.output

    assert (await api.run("work")).result == "thought"


async def test_a_wait_that_is_given_up_holds_nothing_back(api: JobApi) -> None:
    """`wait_for` around a wait: the job does not wait, and what comes next begins."""

    @handler("work", failures_max=1)
    async def work(job: Job) -> str:
        given_up = asyncio.Event()

        async def act() -> str:
            await given_up.wait()
            return "acted"

        acting = asyncio.ensure_future(job.step("act", act))
        await asyncio.sleep(0.05)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(job.sleep(3600)), 0.1)
        given_up.set()
        return await acting + await job.step("next", lambda: " and went on")

    job = await api.run("work")
    assert (job.result, job.attempt) == ("acted and went on", 1)


async def test_a_wait_that_a_handler_swallows_is_waited_for_all_the_same(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        slept, one = await forgiving(lambda: job.sleep(0.1), lambda: job.step("one", lambda: 1))
        return [one + 1, slept is None]

    assert (await api.run("work")).result == [2, True]


async def test_a_budget_wait_beside_a_paid_call_pays_it_once(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.script(slow(0.3))
    async with api.database.connection() as connection:
        await budgets.set_budget(connection, "daily", 250, unit="tokens", period="day", over="park")

    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        async def second() -> Any:
            await anyio.sleep(0.1)
            return await paid(job, provider, "second")

        return await in_task_group(lambda: paid(job, provider, "first"), second)

    job = await api.run("work")
    await api.work()
    job = await api.job(job.id)
    assert job.status is JobStatus.DONE or job.waiting_for is WaitReason.BUDGET, job.error
    names = Counter(call.step_name for call in await calls_of(api, job.id) if call.status == "ok")
    assert names["first"] == 1
    assert len(provider.bill) == names.total()
