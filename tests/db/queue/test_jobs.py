"""Looking at jobs, canceling, retrying, and why one does not run."""

import shlex
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from db.errors import Conflict, InvalidInput, NotFound, Refused
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs, queues, signals
from db.queue.jobs import Job, JobStatus, WaitReason, enqueue
from tests.db.racing import until_blocked

pytestmark = pytest.mark.both

FINAL = ("done", "failed", "canceled")


async def added(conn: Connection, mode: str = "answer", **options: Any) -> UUID:
    return (await enqueue(conn, mode, **options)).job_id


async def put(conn: Connection, job_id: UUID, status: str, error: str | None = None) -> None:
    """Bring a job into a status as a worker's transition would."""
    await execute(
        conn,
        """
        update jobsworth.reactive_jobs
        set status = %(status)s::jobsworth.job_status, waiting_for = null, run_at = null,
          error = %(error)s,
          finished_at = case when %(status)s::text in ('done', 'failed', 'canceled') then now() end,
          lease_no = 1, worker_id = coalesce(worker_id, jobsworth.uuidv7())
        where id = %(id)s
        """,
        {"id": job_id, "status": status, "error": error},
    )


async def park(
    conn: Connection,
    job_id: UUID,
    reason: str,
    detail: str | None = None,
    seconds: float | None = None,
) -> None:
    await execute(
        conn,
        """
        update jobsworth.reactive_jobs
        set status = 'waiting', waiting_for = %(reason)s, waiting_detail = %(detail)s,
          run_at = now() + %(seconds)s::float8 * interval '1 second'
        where id = %(id)s
        """,
        {"id": job_id, "reason": reason, "detail": detail, "seconds": seconds},
    )


async def add_worker(
    conn: Connection,
    *,
    modes: tuple[str, ...] = ("answer",),
    serves: tuple[str, ...] = ("default",),
    draining: bool = False,
    beaten_seconds_ago: float = 0,
) -> UUID:
    worker_id = uuid4()
    await execute(
        conn,
        """
        insert into jobsworth.workers
          (id, host, pid, version, modes, queues, slots, draining, beaten_at)
        values (%(id)s, 'box', 42, '0', %(modes)s, %(queues)s, 1, %(draining)s,
          now() - %(ago)s * interval '1 second')
        """,
        {
            "id": worker_id,
            "modes": list(modes),
            "queues": list(serves),
            "draining": draining,
            "ago": beaten_seconds_ago,
        },
    )
    return worker_id


async def add_approval(conn: Connection, job_id: UUID) -> UUID:
    return await fetch_val(
        conn,
        """
        insert into jobsworth.approvals (job_id, proposal_text, shown_hash)
        values (%s, 'Ship it?', 'hash') returning id
        """,
        [job_id],
    )


async def state(conn: Connection, job_id: UUID) -> tuple[str, str | None]:
    job = await jobs.get_by_id(conn, job_id)
    return job.status, job.waiting_for


async def test_an_unknown_job_is_not_found(conn: Connection) -> None:
    unknown = uuid4()
    for call in (jobs.get_by_id, jobs.cancel, jobs.retry, jobs.run_now, jobs.why):
        with pytest.raises(NotFound, match=f"there is no job {unknown}") as caught:
            await call(conn, unknown)
        assert caught.value.remedy


async def test_jobs_are_listed_newest_first_page_by_page(conn: Connection) -> None:
    made = [await added(conn) for _ in range(5)]

    first = await jobs.list_jobs(conn, limit=2)
    second = await jobs.list_jobs(conn, limit=2, before_id=first[-1].id)
    third = await jobs.list_jobs(conn, limit=2, before_id=second[-1].id)
    assert [job.id for job in [*first, *second, *third]] == made[::-1]
    assert await jobs.list_jobs(conn, before_id=made[0]) == []


async def test_jobs_are_listed_by_each_filter_and_by_all_together(conn: Connection) -> None:
    thread_id = uuid4()
    wanted = await added(conn, "plan", queue="q", thread_id=thread_id, delay=60)
    others = [
        await added(conn, "answer", queue="q", thread_id=thread_id, delay=60),
        await added(conn, "plan", thread_id=thread_id, delay=60),
        await added(conn, "plan", queue="q", delay=60),
        await added(conn, "plan", queue="q", thread_id=thread_id),
    ]
    filters: dict[str, Any] = {
        "mode": "plan",
        "queue": "q",
        "thread_id": thread_id,
        "status": JobStatus.WAITING,
    }
    left_out = dict(zip(filters, others, strict=True))
    for name, value in filters.items():
        found = {job.id for job in await jobs.list_jobs(conn, **{name: value})}
        assert found == {wanted, *others} - {left_out[name]}
    assert [job.id for job in await jobs.list_jobs(conn, **filters)] == [wanted]


async def test_jobs_are_listed_by_what_they_wait_for(conn: Connection) -> None:
    await added(conn)
    timer = await added(conn, delay=60)
    assert [j.id for j in await jobs.list_jobs(conn, waiting_for=WaitReason.TIMER)] == [timer]
    assert await jobs.list_jobs(conn, waiting_for=WaitReason.LANE) == []


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_a_bound(conn: Connection, limit: int) -> None:
    with pytest.raises(InvalidInput, match=f"limit {limit} is not 1 to 1,000"):
        await jobs.list_jobs(conn, limit=limit)


async def test_the_enums_say_the_same_as_the_database(conn: Connection) -> None:
    statuses = await fetch_val(conn, "select enum_range(null::jobsworth.job_status)::text[]")
    reasons = await fetch_val(conn, "select enum_range(null::jobsworth.wait_reason)::text[]")
    assert statuses == list(JobStatus)
    assert reasons == list(WaitReason)


async def test_a_row_has_no_column_unknown_to_the_model_but_the_queues_own(
    conn: Connection,
) -> None:
    columns = await fetch_all(
        conn,
        """
        select a.attname from pg_attribute a
        where a.attrelid = 'jobsworth.reactive_jobs'::regclass and a.attnum > 0
        """,
    )
    internal = {"position", "lane_position", "effect_key"}
    assert {row["attname"] for row in columns} - internal == set(Job.model_fields)


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


async def why(conn: Connection, job_id: UUID) -> tuple[str, str, str]:
    found = await jobs.why(conn, job_id)
    return found.reason, found.detail, found.remedy


async def test_why_a_scheduled_job_waits(conn: Connection) -> None:
    job_id = await added(conn, delay=3600)
    reason, detail, remedy = await why(conn, job_id)
    assert reason == "timer"
    assert detail.startswith("until 20")
    assert detail.endswith(" UTC")
    assert remedy == f"wait, or run it now: jobsworth job run-now {job_id}"


async def test_why_a_job_backs_off(conn: Connection) -> None:
    job_id = await added(conn)
    await park(conn, job_id, "timer", seconds=60)
    await execute(conn, "update jobsworth.reactive_jobs set failures = 2, error = 'no luck'")
    _, detail, _ = await why(conn, job_id)
    assert detail.endswith(" UTC, after failure 2: no luck")


async def test_why_a_job_waits_for_its_lane(conn: Connection) -> None:
    first, second = await added(conn, lane="L"), await added(conn, lane="L")
    assert await why(conn, second) == (
        "lane",
        f"lane L, behind job {first} (queued)",
        f"jobsworth why {first}",
    )
    await put(conn, first, "running")
    assert (await why(conn, second))[1] == f"lane L, behind job {first} (running)"
    await put(conn, first, "done")
    assert await why(conn, second) == (
        "lane",
        "lane L, next to be promoted",
        "nothing to do: a worker promotes it",
    )


async def test_why_a_job_waits_for_the_jobs_it_needs(conn: Connection) -> None:
    parent = await added(conn)
    child = await added(conn, after=[parent])
    assert await why(conn, child) == (
        "parents",
        f"needs job {parent} (queued)",
        f"jobsworth why {parent}",
    )
    await put(conn, parent, "done")
    assert (await why(conn, child))[1] == "next to be promoted"


async def test_why_a_job_waits_for_its_children(conn: Connection) -> None:
    parent, child = await added(conn), await added(conn)
    await park(conn, parent, "children")
    await execute(
        conn,
        "update jobsworth.reactive_jobs set parent_id = %s, is_child = true where id = %s",
        [parent, child],
    )
    assert await why(conn, parent) == (
        "children",
        "1 of its children have not ended",
        f"jobsworth why {child}",
    )


async def test_why_a_job_waits_for_its_approval(conn: Connection) -> None:
    job_id = await added(conn)
    await park(conn, job_id, "approval")
    approval_id = await add_approval(conn, job_id)
    assert await why(conn, job_id) == (
        "approval",
        f"approval {approval_id}: Ship it?",
        f"jobsworth approve {approval_id}, or jobsworth reject {approval_id}",
    )
    await execute(conn, "update jobsworth.approvals set status = 'superseded', closed_at = now()")
    assert (await why(conn, job_id))[1] == "decided, next to be promoted"


async def test_why_a_job_waits_for_a_signal(conn: Connection) -> None:
    job_id = await added(conn)
    await park(conn, job_id, "signal", detail="it's paid")
    reason, detail, remedy = await why(conn, job_id)
    assert (reason, detail) == ("signal", "signal it's paid")
    assert shlex.split(remedy) == ["jobsworth", "signal", str(job_id), "it's paid"]


async def test_a_sleep_is_not_hurried_by_a_retry_which_would_only_sleep_on(
    conn: Connection,
) -> None:
    job_id = await added(conn)
    await park(conn, job_id, "timer", detail="its handler sleeps", seconds=60)
    _, detail, remedy = await why(conn, job_id)
    assert detail.endswith("UTC: its handler sleeps")
    assert remedy == f"wait, or cancel it: jobsworth job cancel {job_id}"


async def test_why_a_job_waits_for_a_handler(conn: Connection) -> None:
    job_id = await added(conn, "unheard")
    await park(conn, job_id, "handler")
    assert await why(conn, job_id) == (
        "handler",
        "no living worker knows the mode unheard",
        "start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job",
    )


async def test_why_a_job_waits_for_a_limit(conn: Connection) -> None:
    job_id = await added(conn)
    await park(conn, job_id, "limit", detail="60 requests a minute", seconds=60)
    reason, detail, remedy = await why(conn, job_id)
    assert (reason, remedy) == ("limit", "nothing to do: it is tried again then")
    assert detail.startswith("60 requests a minute, until ")


@pytest.mark.parametrize("reason", ["budget", "person"])
async def test_why_a_job_waits_for_something_with_a_detail(conn: Connection, reason: str) -> None:
    job_id = await added(conn)
    await park(conn, job_id, reason, detail="the detail")
    assert await why(conn, job_id) == (reason, "the detail", f"jobsworth job show {job_id}")


async def test_why_a_queued_job_is_not_taken(conn: Connection) -> None:
    job_id = await added(conn)
    no_worker = ("no worker", "no worker is alive", "start one: jobsworth worker")
    assert await why(conn, job_id) == no_worker
    await add_worker(conn, beaten_seconds_ago=13)
    await add_worker(conn, draining=True)
    assert await why(conn, job_id) == no_worker

    await add_worker(conn, modes=("plan",))
    assert await why(conn, job_id) == (
        "no handler",
        "no living worker knows the mode answer",
        "start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job",
    )
    await add_worker(conn, serves=("other",))
    assert await why(conn, job_id) == (
        "no worker",
        "no worker that knows answer serves the queue default",
        "add default to a worker's JOBSWORTH_QUEUES",
    )
    await add_worker(conn)
    assert (await why(conn, job_id))[0] == "no slot"
    await queues.pause(conn, "default")
    assert await why(conn, job_id) == (
        "paused",
        "queue default is paused",
        "jobsworth queue resume default",
    )


async def test_why_says_where_a_job_runs(conn: Connection) -> None:
    job_id = await added(conn)
    worker_id = await add_worker(conn)
    await put(conn, job_id, "running")
    await execute(
        conn, "update jobsworth.reactive_jobs set attempt = 2, worker_id = %s", [worker_id]
    )
    assert await why(conn, job_id) == (
        "running",
        "attempt 2 on box, process 42",
        f"wait, or cancel it: jobsworth job cancel {job_id}",
    )
    await jobs.cancel(conn, job_id)
    assert (await why(conn, job_id))[1] == "attempt 2 on box, process 42, cancel requested"
    await execute(conn, "delete from jobsworth.workers")
    assert "of a worker that is gone: it will be rescued" in (await why(conn, job_id))[1]


async def test_why_says_how_a_job_ended(conn: Connection) -> None:
    job_id = await added(conn)
    await put(conn, job_id, "done")
    reason, detail, remedy = await why(conn, job_id)
    assert (reason, remedy) == ("done", "nothing to do")
    assert detail.startswith("ended at ")
    for status in ("failed", "canceled"):
        await put(conn, job_id, status, "no luck")
        assert await why(conn, job_id) == (
            status,
            "no luck",
            f"run it again: jobsworth job retry {job_id}",
        )


@pytest.mark.parametrize("reason", list(WaitReason))
async def test_every_wait_has_one_reason_a_detail_and_a_remedy(
    conn: Connection, reason: str
) -> None:
    """Even when the rows it waits for are missing."""
    job_id = await added(conn, lane="L")
    await park(conn, job_id, reason, seconds=60)
    found = await jobs.why(conn, job_id)
    assert (found.status, found.reason) == ("waiting", reason)
    assert found.detail
    assert found.remedy


async def test_an_empty_queue_counts_nothing(conn: Connection) -> None:
    counts = await jobs.counts(conn)
    assert (counts.queued, counts.running, counts.waiting) == (0, 0, {})
    assert counts.oldest_queued_seconds is None


async def test_unfinished_jobs_are_counted_by_status_and_reason(conn: Connection) -> None:
    for _ in range(3):
        await added(conn, delay=60)
    await added(conn, lane="L")
    await added(conn, lane="L")
    await added(conn, queue="other", priority=1)
    await put(conn, await added(conn), "running")
    for status in FINAL:
        await put(conn, await added(conn), status)

    counts = await jobs.counts(conn)
    assert (counts.queued, counts.running) == (2, 1)
    assert counts.waiting == {WaitReason.TIMER: 3, WaitReason.LANE: 1}


async def test_the_eldest_head_of_a_queue_is_found_whatever_its_queue_and_priority(
    conn: Connection,
) -> None:
    ages = {("a", 1): 10, ("a", 3): 20, ("b", 2): 300, ("c", 4): 40}
    for (queue, priority), seconds in ages.items():
        job_id = await added(conn, queue=queue, priority=priority)
        await added(conn, queue=queue, priority=priority)
        await execute(
            conn,
            """
            update jobsworth.reactive_jobs set created_at = now() - %s * interval '1 second'
            where id = %s
            """,
            [seconds, job_id],
        )
    seconds = (await jobs.counts(conn)).oldest_queued_seconds
    assert seconds is not None
    assert 300 <= seconds < 330


async def test_counting_reads_no_ended_job_even_with_stale_statistics(conn: Connection) -> None:
    """50,000 jobs that were queued at the last analyze have ended since."""
    await execute(conn, "alter table jobsworth.reactive_jobs set (autovacuum_enabled = false)")
    await execute(
        conn,
        "insert into jobsworth.reactive_jobs (mode) select 'answer' from generate_series(1, 50000)",
    )
    await execute(conn, "analyze jobsworth.reactive_jobs")
    await execute(conn, "update jobsworth.reactive_jobs set status = 'done', finished_at = now()")
    for _ in range(10):
        await added(conn)
    await jobs.counts(conn)  # which lets the index forget its dead entries

    async with conn.transaction():
        await execute(conn, jobs.PIN_COUNTS)
        (row,) = (await fetch_val(conn, "explain (analyze, buffers, format json)" + jobs.COUNTS),)
    plan = row[0]["Plan"]
    pages = await fetch_val(conn, "select pg_relation_size('jobsworth.reactive_jobs') / 8192")
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < pages / 2


async def test_a_signal_resumes_who_waits_for_it(conn: Connection) -> None:
    job_id = await added(conn)
    await park(conn, job_id, "signal", detail="paid")
    await signals.send(conn, job_id, "other")
    assert await state(conn, job_id) == ("waiting", "signal")
    await signals.send(conn, job_id, "paid")
    assert await state(conn, job_id) == ("queued", None)


async def test_a_bad_enum_value_is_refused(conn: Connection) -> None:
    wrong: Any = "asleep"
    with pytest.raises(Refused, match="invalid input value for enum"):
        await jobs.list_jobs(conn, status=wrong)
