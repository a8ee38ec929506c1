"""Children: gathered in order, canceled with their parent, and never able to block it."""

from __future__ import annotations

from typing import Any

import anyio

from db.queue import jobs
from db.queue.jobs import JobStatus, WaitReason
from jobsworth import ChildFailed, Fail, Job, handler
from tests.support import until
from tests.worker.job_api import JobApi


async def test_gather_brings_the_results_in_the_order_of_its_arguments(api: JobApi) -> None:
    @handler("square")
    def square(n: int) -> int:
        return n * n

    @handler("sum")
    async def add(job: Job) -> list[Any]:
        children = [job.spawn("square", {"n": n}) for n in (1, 2, 3)]
        return [await job.gather(*reversed(children)), await job.gather(), job.attempt]

    job = await api.run("sum", lane="a")
    assert job.result == [[9, 4, 1], [], 2]
    children = "select count(*) from jobsworth.reactive_jobs where is_child and lane is null"
    assert await api.value(children) == 3


async def test_a_child_that_fails_is_named_with_its_error(api: JobApi) -> None:
    @handler("child")
    def child(n: int) -> int:
        if n == 2:
            raise Fail("two is too much")
        return n

    @handler("parent")
    async def parent(job: Job) -> dict[str, Any]:
        try:
            await job.gather(*[job.spawn("child", {"n": n}, name=f"n{n}") for n in (1, 2)])
        except ChildFailed as failed:
            return dict(failed.children)
        return {}

    assert (await api.run("parent")).result == {"child:n2": ["failed", "two is too much"]}


async def test_children_of_a_canceled_parent_are_canceled(api: JobApi) -> None:
    @handler("child")
    async def child(job: Job) -> None:
        await job.wait("never")

    @handler("parent")
    async def parent(job: Job) -> None:
        await job.gather(job.spawn("child"), job.spawn("child"))

    job = await api.run("parent")
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.CHILDREN)
    async with api.database.connection() as connection:
        await jobs.cancel(connection, job.id)
    states = "select distinct mode, status::text, error from jobsworth.reactive_jobs order by 1"
    assert [tuple(row.values()) for row in await api.rows(states)] == [
        ("child", "canceled", "the job that spawned it has ended"),
        ("parent", "canceled", "canceled by a person"),
    ]


async def test_children_that_nobody_gathered_are_canceled_with_the_end_of_their_parent(
    api: JobApi,
) -> None:
    @handler("child")
    async def child(job: Job) -> None:
        await job.wait("never")

    @handler("parent")
    async def parent(job: Job) -> None:
        job.spawn("child")

    assert (await api.run("parent")).status == JobStatus.DONE
    states = "select status::text, error from jobsworth.reactive_jobs where mode = 'child'"
    assert [tuple(row.values()) for row in await api.rows(states)] == [
        ("canceled", "the job that spawned it has ended")
    ]


async def test_a_plain_function_cannot_spawn(api: JobApi) -> None:
    @handler("parent", failures_max=1)
    def parent(job: Job) -> None:
        job.spawn("child")

    assert "use enqueue instead" in str((await api.run("parent")).error)


async def test_a_child_cannot_wait_in_the_lane_of_its_parent(api: JobApi) -> None:
    @handler("parent", failures_max=1)
    async def parent(job: Job) -> None:
        await job.gather(job.spawn("child", lane="a"))

    assert "would wait for its parent for ever" in str((await api.run("parent", lane="a")).error)


async def test_a_running_child_of_a_canceled_parent_is_stopped(api: JobApi) -> None:
    @handler("child")
    async def child() -> None:
        await anyio.sleep_forever()

    @handler("parent")
    async def parent(job: Job) -> None:
        await job.gather(job.spawn("child"))

    async def child_runs() -> bool:
        running = "select 1 from jobsworth.reactive_jobs where is_child and status = 'running'"
        return bool(await api.rows(running))

    async with api.working():
        parent_id = await api.enqueue("parent")
        await until(child_runs)
        async with api.database.connection() as connection:
            await jobs.cancel(connection, parent_id)
        await api.idle()
    status = "select status::text from jobsworth.reactive_jobs where is_child"
    assert await api.value(status) == "canceled"


async def test_a_child_cannot_have_a_unique_key(api: JobApi) -> None:
    """Another job could hold it: there would be no child, and gather would wait for ever."""

    @handler("parent", failures_max=1)
    async def parent(job: Job) -> None:
        options: Any = {"unique_key": "k"}  # which the type checker would refuse
        await job.gather(job.spawn("child", **options))

    job = await api.run("parent")
    assert "a child cannot have a unique_key" in (job.error or "")
