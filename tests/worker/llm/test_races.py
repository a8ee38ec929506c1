"""What happens beside an agent while it runs: its lease is lost, its job is stopped."""

from __future__ import annotations

import threading
from typing import Any, LiteralString

import anyio
from pydantic_ai import Agent

from db.money.calls import CallStatus
from db.queue import rescue as rescuing
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.openai_stub import OpenAIStub, slow
from tests.support import connect, until
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of, model_at

STEAL: LiteralString = """
update jobsworth.reactive_jobs
set lease_no = nextval('jobsworth.lease_no'), worker_id = gen_random_uuid()
"""


async def rescue(api: JobApi) -> None:
    """The job of the worker that died with it is queued again."""
    async with api.database.connection() as connection:
        await rescuing.rescue(
            connection,
            {},
            rowless=True,
            crashes_max=5,
            retry_base_seconds=0,
            retry_max_seconds=0,
            most=10,
        )


async def test_an_answer_that_comes_after_the_lease_was_lost_is_kept_for_the_next_attempt(
    api: JobApi,
) -> None:
    ran: list[int] = []

    def stolen(body: dict[str, Any]) -> str:
        with connect(api.url) as conn:
            conn.execute(STEAL)
        return "[of attempt 1]"

    with OpenAIStub(reply=stolen) as provider:
        agent = Agent(model_at(provider))

        @handler("work")
        async def work(job: Job) -> str:
            answer = await job.agent("draft", agent, "hello")
            ran.append(job.attempt)
            if job.attempt == 1:
                await rescue(api)
            return await job.step("close", lambda: f"{answer} closed in {job.attempt}")

        job = await api.run("work")
        assert (job.result, ran) == ("[of attempt 1] closed in 2", [1, 2])
        assert len(provider.bill) == len(await calls_of(api, job.id)) == 1


async def test_a_job_that_is_stopped_while_it_asks_leaves_the_call_at_its_estimate(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.script(slow(30))
    agent = Agent(model_at(provider))

    @handler("work", timeout_seconds=0.5, failures_max=1)
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, "hello")

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert "its deadline passed" in (job.error or "")
    [call] = await calls_of(api, job.id)
    assert (call.status, call.output_tokens) == (CallStatus.UNKNOWN, 4096)


async def test_a_worker_that_is_gone_while_tools_run_side_by_side_runs_only_the_unrecorded_again(
    api: JobApi, provider: OpenAIStub
) -> None:
    gate = threading.Event()
    ran: list[int] = []
    agent = Agent(model_at(provider))

    @agent.tool_plain
    async def fetch(n: int) -> int:
        ran.append(n)
        while n == 2 and not gate.is_set():
            await anyio.sleep(0.01)
        return n

    @handler("work")
    async def work(job: Job) -> str:
        prompt = '[[call fetch {"n": 1} + call fetch {"n": 2} ;; say {results}]]'
        return await job.agent("get", agent, prompt)

    job_id = await api.enqueue("work")

    async def first_is_recorded() -> bool:
        count = "select count(*) from jobsworth.steps where name = 'get/request 1/tool fetch 1'"
        return bool(await api.value(count))

    async with api.dying() as worker:
        await until(first_is_recorded, 10, "the first tool is recorded")
        worker.kill()
    gate.set()
    await api.work()
    assert (await api.job(job_id)).result == "1, 2"
    assert ran == [1, 2, 2]
    assert len(provider.bill) == 2
