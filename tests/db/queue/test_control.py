"""Cancel, retry and run now: what a person does with a job."""

import anyio
import pytest

from db.errors import Conflict
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs
from db.queue.jobs import JobStatus, WaitReason
from tests.db.queue.job_rows import (
    FINAL,
    add_approval,
    added,
    park,
    put,
    state,
)
from tests.db.racing import until_blocked

pytestmark = [
    pytest.mark.both,
    pytest.mark.direct("single statements, as through any connection"),
]


async def test_a_queued_or_waiting_job_is_canceled_at_once(conn: Connection) -> None:
    for job_id in (await added(conn), await added(conn, delay=60)):
        assert await jobs.cancel(conn, job_id, "not needed") == JobStatus.CANCELED
        job = await jobs.get_by_id(conn, job_id)
        assert (job.status, job.waiting_for, job.error) == ("canceled", None, "not needed")
        assert job.finished_at is not None


async def test_a_running_job_is_asked_to_stop(conn: Connection) -> None:
    job_id = await added(conn)
    await put(conn, job_id, "running")
    await conn.execute('listen "jobsworth.cancel"')

    assert await jobs.cancel(conn, job_id, "not needed") == JobStatus.RUNNING
    job = await jobs.get_by_id(conn, job_id)
    assert job.cancel_requested
    assert job.error == "not needed"
    assert [n async for n in conn.notifies(timeout=5, stop_after=1)]


@pytest.mark.parametrize("status", FINAL)
async def test_canceling_an_ended_job_changes_nothing(conn: Connection, status: str) -> None:
    job_id = await added(conn)
    await put(conn, job_id, status, "as it was")
    before = await jobs.get_by_id(conn, job_id)

    assert await jobs.cancel(conn, job_id) == status
    assert await jobs.get_by_id(conn, job_id) == before


async def test_canceling_the_head_of_a_lane_lets_the_next_one_go(conn: Connection) -> None:
    first, second, third = [await added(conn, lane="L") for _ in range(3)]
    await jobs.cancel(conn, first)

    assert await state(conn, second) == ("queued", None)
    assert await state(conn, third) == ("waiting", "lane")


async def test_canceling_in_the_middle_of_a_lane_lets_nobody_go(conn: Connection) -> None:
    first, second, third = [await added(conn, lane="L") for _ in range(3)]
    await jobs.cancel(conn, second)

    assert await state(conn, first) == ("queued", None)
    assert await state(conn, third) == ("waiting", "lane")


async def test_canceling_a_job_cancels_what_needs_it(conn: Connection) -> None:
    first = await added(conn)
    second = await added(conn, after=[first])
    third = await added(conn, after=[second])
    await jobs.cancel(conn, first)

    assert await state(conn, second) == ("canceled", None)
    assert await state(conn, third) == ("canceled", None)
    error = (await jobs.get_by_id(conn, second)).error
    assert error == f"a job it needs did not end well: {first} is canceled"


async def test_canceling_a_parked_job_closes_its_approval(conn: Connection) -> None:
    job_id = await added(conn)
    await park(conn, job_id, "approval")
    approval_id = await add_approval(conn, job_id)
    await jobs.cancel(conn, job_id)

    query = "select a.status::text from jobsworth.approvals a where a.id = %s"
    assert await fetch_val(conn, query, [approval_id]) == "superseded"


async def test_canceling_a_job_cancels_its_open_children(conn: Connection) -> None:
    parent, child, done = await added(conn), await added(conn), await added(conn)
    await put(conn, done, "done")
    for job_id in (child, done):
        await execute(
            conn,
            "update jobsworth.reactive_jobs set parent_id = %s, is_child = true where id = %s",
            [parent, job_id],
        )
    await park(conn, parent, "children")
    await jobs.cancel(conn, parent)

    assert await state(conn, child) == ("canceled", None)
    assert await state(conn, done) == ("done", None)


async def test_a_cancel_waits_for_who_holds_the_job(database: Database, conn: Connection) -> None:
    job_id = await added(conn)
    statuses: list[JobStatus] = []

    async def cancel(other: Connection) -> None:
        statuses.append(await jobs.cancel(other, job_id))

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await put(conn, job_id, "done")
        tasks.start_soon(cancel, other)
        await until_blocked(database, other)
    assert statuses == ["done"]
    assert not (await jobs.get_by_id(conn, job_id)).cancel_requested


@pytest.mark.parametrize("status", ["failed", "canceled"])
async def test_a_failed_or_canceled_job_gets_a_fresh_start(conn: Connection, status: str) -> None:
    job_id = await added(conn, failures_max=3)
    await put(conn, job_id, status, "as it was")
    await execute(
        conn,
        """
        update jobsworth.reactive_jobs
        set failures = 3, crashes = 2, attempt = 3, cancel_requested = true, result = '1'
        """,
    )
    assert await jobs.retry(conn, job_id) == JobStatus.QUEUED
    job = await jobs.get_by_id(conn, job_id)
    assert (job.failures, job.crashes, job.cancel_requested) == (0, 0, False)
    assert (job.error, job.result, job.finished_at) == (None, None, None)
    assert job.attempt == 3


async def test_a_retried_job_goes_to_the_end_of_its_lane(conn: Connection) -> None:
    first, second = await added(conn, lane="L"), await added(conn, lane="L")
    await put(conn, first, "failed")
    await conn.execute("select jobsworth.unblock(array[%s])", [first])
    assert await state(conn, second) == ("queued", None)

    assert await jobs.retry(conn, first) == JobStatus.WAITING
    assert await state(conn, first) == ("waiting", "lane")
    await jobs.cancel(conn, second)
    assert await state(conn, first) == ("queued", None)


async def test_a_retried_job_goes_to_the_end_of_its_queue(conn: Connection) -> None:
    first, second = await added(conn), await added(conn)
    await jobs.cancel(conn, first)
    await jobs.retry(conn, first)

    rows = await fetch_all(conn, "select j.id from jobsworth.reactive_jobs j order by j.position")
    assert [row["id"] for row in rows] == [second, first]


async def test_a_retry_is_refused_when_its_unique_key_is_taken(conn: Connection) -> None:
    job_id = await added(conn, unique_key="k")
    await jobs.cancel(conn, job_id)
    holder = await added(conn, unique_key="k")

    with pytest.raises(Conflict) as caught:
        await jobs.retry(conn, job_id)
    assert caught.value.message == (
        f"job {job_id} cannot run again: job {holder} holds its unique key k"
    )
    assert caught.value.remedy == "Wait for that job, or cancel it first."
    assert await state(conn, job_id) == ("canceled", None)
    await jobs.cancel(conn, holder)
    assert await jobs.retry(conn, job_id) == JobStatus.QUEUED


async def test_a_retry_that_loses_the_race_for_its_unique_key_is_a_conflict(
    database: Database, conn: Connection
) -> None:
    job_id = await added(conn, unique_key="k")
    await jobs.cancel(conn, job_id)
    errors: list[Conflict] = []

    async def retry(other: Connection) -> None:
        try:
            await jobs.retry(other, job_id)
        except Conflict as error:
            errors.append(error)

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await added(conn, unique_key="k")
        tasks.start_soon(retry, other)
        await until_blocked(database, other)
    assert len(errors) == 1
    assert "unique key k" in errors[0].message


async def test_a_retried_job_waits_again_for_the_jobs_it_needs(conn: Connection) -> None:
    parent = await added(conn)
    child = await added(conn, after=[parent])
    await jobs.cancel(conn, child)

    assert await jobs.retry(conn, child) == JobStatus.WAITING
    assert await state(conn, child) == ("waiting", "parents")
    await put(conn, parent, "done")
    await conn.execute("select jobsworth.unblock(array[%s])", [parent])
    assert await state(conn, child) == ("queued", None)


@pytest.mark.parametrize("status", ["queued", "running", "done"])
async def test_a_job_that_has_not_failed_is_not_retried(conn: Connection, status: str) -> None:
    job_id = await added(conn)
    if status != "queued":
        await put(conn, job_id, status)
    with pytest.raises(Conflict) as caught:
        await jobs.retry(conn, job_id)
    assert caught.value.message == (
        f"job {job_id} is {status}: only a failed, canceled or timed job can be run again"
    )
    assert caught.value.remedy == f"see what it waits for: jobsworth why {job_id}"
    assert await state(conn, job_id) == (status, None)


async def test_a_scheduled_job_runs_now(conn: Connection) -> None:
    job_id = await added(conn, delay=3600)
    assert await jobs.run_now(conn, job_id) == JobStatus.QUEUED
    assert await state(conn, job_id) == ("queued", None)


async def test_a_scheduled_job_of_a_busy_lane_then_waits_for_it(conn: Connection) -> None:
    await added(conn, lane="L")
    job_id = await added(conn, lane="L", delay=3600)
    assert await jobs.run_now(conn, job_id) == JobStatus.WAITING
    assert await state(conn, job_id) == ("waiting", "lane")


async def test_a_job_that_backs_off_runs_now_and_keeps_its_failures(conn: Connection) -> None:
    job_id = await added(conn)
    await park(conn, job_id, "timer", seconds=600)
    await execute(conn, "update jobsworth.reactive_jobs set failures = 2")
    assert await jobs.run_now(conn, job_id) == JobStatus.QUEUED
    assert (await jobs.get_by_id(conn, job_id)).failures == 2


@pytest.mark.parametrize("status", ["queued", "running", *FINAL])
async def test_a_job_that_does_not_wait_is_not_run_now(conn: Connection, status: str) -> None:
    job_id = await added(conn)
    if status != "queued":
        await put(conn, job_id, status)
    with pytest.raises(Conflict) as caught:
        await jobs.run_now(conn, job_id)
    assert caught.value.message == (
        f"job {job_id} is {status}: only a job that waits for its time can be run now"
    )
    assert await state(conn, job_id) == (status, None)


@pytest.mark.parametrize("reason", [reason for reason in WaitReason if reason != "timer"])
async def test_a_job_that_waits_for_something_else_is_not_run_now(
    conn: Connection, reason: str
) -> None:
    job_id = await added(conn)
    await park(conn, job_id, reason)
    with pytest.raises(Conflict, match=f"job {job_id} is waiting for {reason}: only a job that"):
        await jobs.run_now(conn, job_id)
    assert await state(conn, job_id) == ("waiting", reason)
