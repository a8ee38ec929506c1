"""Attempts run side by side, and none sees what another left behind."""

from contextvars import ContextVar

import anyio

from db.queue.jobs import JobStatus
from jobsworth import handler
from tests.worker.job_api import JobApi

REQUEST: ContextVar[str | None] = ContextVar("REQUEST", default=None)


async def test_handlers_that_wait_run_side_by_side(api: JobApi) -> None:
    meeting, present = anyio.Event(), 0

    @handler("meet")
    async def meet() -> None:
        nonlocal present
        present += 1
        if present == 10:
            meeting.set()
        await meeting.wait()

    jobs = [await api.enqueue("meet") for _ in range(10)]
    await api.work()
    assert {(await api.job(job)).status for job in jobs} == {JobStatus.DONE}


async def test_a_context_variable_that_a_handler_leaves_behind_is_not_seen_by_the_next(
    api: JobApi,
) -> None:
    @handler("leaves")
    async def leaves() -> str | None:
        found = REQUEST.get()
        REQUEST.set("somebody else's")
        return found

    jobs = [await api.enqueue("leaves") for _ in range(20)]
    await api.work()
    assert [(await api.job(job)).result for job in jobs] == [None] * 20
