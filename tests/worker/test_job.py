"""A handler's `Job`: names, the trace id, and what plain functions may use."""

from __future__ import annotations

import threading
from typing import Any, cast
from uuid import UUID

import pytest

from db.errors import InvalidInput
from db.fence import Lease
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.worker.job_api import JobApi, claimed_job, new_thread
from worker.attempt_state import AttemptState, Tools


async def test_a_name_stands_for_one_thing(api: JobApi) -> None:
    @handler("saves", failures_max=1)
    async def saves(job: Job) -> None:
        job.save("report.txt", "one")
        job.save("report.txt", "two")

    job = await api.run("saves")
    assert job.status == JobStatus.FAILED
    assert "the artifact 'report.txt' of job" in str(job.error)


async def test_the_trace_id_is_read_from_the_traceparent(api: JobApi) -> None:
    @handler("traced")
    async def traced(job: Job) -> str | None:
        return job.trace_id

    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    job = await api.run("traced", trace_parent=f"00-{trace}-00f067aa0ba902b7-01")
    assert job.result == trace


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("step", ("name", print)),
        ("call", ("name", print)),
        ("agent", ("name", None)),
        ("approved_step", ("name", print)),
        ("checkpoint", ("name", 1)),
        ("parents", ()),
        ("rollback", ("staging",)),
        ("ask", ("really?",)),
        ("sleep", (1,)),
        ("wait", ("signal",)),
        ("gather", ()),
        ("recall", ("query",)),
        ("transaction", ("name", print)),
        ("deploy", ("staging", "main")),
    ],
)
def test_a_plain_function_is_told_which_methods_need_an_async_handler(
    method: str, arguments: tuple[Any, ...], plain_job: Job
) -> None:
    options: dict[str, Any] = {"provider": "a", "model": "b"} if method == "call" else {}
    with pytest.raises(InvalidInput, match=rf"job\.{method} needs an async handler") as refused:
        getattr(plain_job, method)(*arguments, **options)
    assert "write `async def`" in refused.value.remedy


async def test_a_plain_function_has_the_effects(api: JobApi) -> None:
    @handler("work")
    def work(job: Job) -> str:
        job.say("said")
        job.remember("remembered")
        job.save("saved", "x")
        job.enqueue("next")
        return threading.current_thread().name

    @handler("next")
    def follow(job: Job) -> str:
        return job.mode

    job = await api.run("work", thread_id=await new_thread(api))
    assert job.result != threading.current_thread().name
    jobs_done = "select count(*) from jobsworth.reactive_jobs where status = 'done'"
    assert await api.value(jobs_done) == 2


@pytest.fixture
def plain_job() -> Job:
    claimed = claimed_job()
    lease = Lease(claimed.id, claimed.lease_no, UUID(int=2))
    return Job(AttemptState(claimed, lease, cast(Tools, None), plain=True))
