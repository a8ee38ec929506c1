"""Why a job is not running: one reason and one remedy for each."""

import shlex
from uuid import UUID, uuid4

import pytest

from db.pool import Connection, execute
from db.queue import jobs, queues
from db.queue.jobs import WaitReason
from tests.db import protocol
from tests.db.queue.job_rows import (
    add_approval,
    added,
    park,
    put,
)

pytestmark = pytest.mark.both


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
    assert shlex.split(remedy) == ["jobsworth", "signal", "send", str(job_id), "it's paid"]


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
        "start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job: "
        f"jobsworth job cancel {job_id}",
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
        "start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job: "
        f"jobsworth job cancel {job_id}",
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


@pytest.mark.usefixtures("unguarded")
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


DEAF = """
update jobsworth.workers
set deaf = jsonb_build_object(%(job)s::text, '{"seconds": 5, "thread": true}'::jsonb)
where id = %(id)s
"""


async def test_a_lane_whose_head_cannot_be_stopped_says_so_of_every_job_in_it(
    conn: Connection,
) -> None:
    lease = await protocol.running(conn, lane="L")
    behind = await added(conn, lane="L")
    assert (await why(conn, behind))[2] == f"jobsworth why {lease.job_id}"
    await execute(conn, DEAF, {"job": lease.job_id, "id": lease.worker_id})
    reason, detail, remedy = await why(conn, behind)
    assert reason == "lane"
    assert "cannot be stopped: its thread has not returned" in detail
    assert "end process 1 on here" in remedy
    assert "cannot be stopped" in (await why(conn, lease.job_id))[1]


async def test_a_job_whose_worker_is_silent_says_whether_somebody_takes_it_over(
    conn: Connection,
) -> None:
    lease = await protocol.running(conn)
    assert (await why(conn, lease.job_id))[2].startswith("wait, or cancel it: ")
    await protocol.die(conn, lease.worker_id)
    _, detail, remedy = await why(conn, lease.job_id)
    assert "its worker has not been heard of for 3600 s" in detail
    assert remedy.endswith("start one: jobsworth worker")
    await add_worker(conn)
    assert (await why(conn, lease.job_id))[2] == (
        "nothing to do: it is rescued within some seconds"
    )
