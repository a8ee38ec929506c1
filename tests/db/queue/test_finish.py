"""Finishing: every transition is written as it was meant, under its fence, and waits for nobody."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import LiteralString
from uuid import uuid4

import anyio
import pytest

from db.fence import Lease, hold
from db.pool import Connection, Database, execute
from db.queue import finish as finishing
from db.queue import promote
from db.queue import rescue as rescuing
from db.queue.enqueue import enqueue
from db.queue.finish import lease_states
from tests.db.protocol import (
    End,
    add,
    blocking,
    cancel,
    canceled,
    claim,
    die,
    done,
    failed,
    finish,
    finish_all,
    lease_of,
    parked,
    register,
    released,
    rescue,
    row,
    running,
    state,
    states,
    take,
    tried_again,
)

pytestmark = pytest.mark.both

WAIT_AT_DONE: LiteralString = """
create function jobsworth.wait_here() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(7);
  return new;
end $$;
create trigger wait_here before update on jobsworth.reactive_jobs
  for each row when (new.status = 'done') execute function jobsworth.wait_here()
"""


# The table of a job's life: what each ending writes.


async def test_done_keeps_the_result_and_the_end(conn: Connection) -> None:
    lease = await running(conn)
    [one] = await finish(conn, done(lease, '{"answer": 42}'))
    now = await row(conn, lease.job_id)
    assert (one.id, one.status, one.unblocks) == (lease.job_id, "done", False)
    assert (now["status"], now["result"], now["error"]) == ("done", {"answer": 42}, None)
    assert now["finished_at"] is not None
    assert (now["attempt"], now["failures"], now["crashes"]) == (1, 0, 0)
    assert now["run_at"] is None


async def test_a_failure_with_tries_left_waits_for_its_backoff(conn: Connection) -> None:
    lease = await running(conn)
    before = await row(conn, lease.job_id)
    await finish(conn, tried_again(lease, 60, "no luck"))
    now = await row(conn, lease.job_id)
    assert (now["status"], now["waiting_for"], now["error"]) == ("waiting", "timer", "no luck")
    assert (now["failures"], now["crashes"], now["finished_at"]) == (1, 0, None)
    assert 55 < (now["run_at"] - before["started_at"]).total_seconds() < 120
    assert now["position"] == before["position"]


async def test_a_last_failure_is_final_and_counted(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, failed(lease, "no luck"))
    now = await row(conn, lease.job_id)
    assert (now["status"], now["waiting_for"], now["error"]) == ("failed", None, "no luck")
    assert (now["failures"], now["run_at"]) == (1, None)
    assert now["finished_at"] is not None


@pytest.mark.parametrize("reason", ["approval", "children", "signal", "timer", "parents", "person"])
async def test_a_park_waits_for_its_reason_and_counts_nothing(
    conn: Connection, reason: str
) -> None:
    lease = await running(conn)
    delay = 60.0 if reason in ("timer", "signal") else None
    await finish(conn, parked(lease, reason, "a detail", delay))
    now = await row(conn, lease.job_id)
    assert (now["status"], now["waiting_for"], now["waiting_detail"]) == (
        "waiting",
        reason,
        "a detail",
    )
    assert (now["failures"], now["crashes"], now["finished_at"]) == (0, 0, None)
    assert (now["run_at"] is not None) is (delay is not None)


async def test_a_released_job_is_queued_at_once_at_a_new_position(conn: Connection) -> None:
    lease = await running(conn)
    before = await row(conn, lease.job_id)
    await finish(conn, released(lease))
    now = await row(conn, lease.job_id)
    assert (now["status"], now["waiting_for"], now["failures"]) == ("queued", None, 0)
    assert now["position"] > before["position"]
    assert now["run_at"] >= before["started_at"]
    assert now["finished_at"] is None


async def test_a_job_that_cancels_itself_ends_with_its_reason(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, canceled(lease, "no longer wanted"))
    now = await row(conn, lease.job_id)
    assert (now["status"], now["error"], now["failures"]) == ("canceled", "no longer wanted", 0)
    assert now["finished_at"] is not None


async def test_an_error_of_an_earlier_try_is_gone_once_the_job_is_done(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, tried_again(lease, 0, "at first"))
    await promote.promote_due(conn, 10)
    _, again = await take(conn, await register(conn))
    await finish(conn, done(again))
    now = await row(conn, lease.job_id)
    assert (now["status"], now["error"], now["failures"], now["attempt"]) == ("done", None, 1, 2)


async def test_neither_lease_nor_worker_is_ever_cleared(conn: Connection) -> None:
    for end in (done, failed, tried_again, released, canceled):
        lease = await running(conn)
        await finish(conn, end(lease))
        now = await row(conn, lease.job_id)
        assert (now["lease_no"], now["worker_id"]) == (lease.lease_no, lease.worker_id)
        await execute(conn, "delete from jobsworth.reactive_jobs")


async def test_one_batch_holds_every_kind_of_ending(conn: Connection) -> None:
    leases = [await running(conn) for _ in range(6)]
    endings = [
        done(leases[0]),
        failed(leases[1]),
        tried_again(leases[2]),
        parked(leases[3], "approval"),
        released(leases[4]),
        canceled(leases[5]),
    ]
    applied = await finish(conn, *endings)
    assert {one.id for one in applied} == {lease.job_id for lease in leases}
    assert await states(conn, *(lease.job_id for lease in leases)) == [
        ("done", None),
        ("failed", None),
        ("waiting", "timer"),
        ("waiting", "approval"),
        ("queued", None),
        ("canceled", None),
    ]


async def test_what_unblocks_nothing_says_so_and_what_may_unblock_says_it(
    conn: Connection,
) -> None:
    plain = await running(conn)
    in_lane = await running(conn, lane="a")
    needed = await running(conn)
    await add(conn, after=[needed.job_id])
    parks = await running(conn)
    applied = await finish(
        conn, done(plain), done(in_lane), done(needed), parked(parks, "approval")
    )
    unblocks = {one.id: one.unblocks for one in applied}
    assert unblocks == {
        plain.job_id: False,
        in_lane.job_id: True,
        needed.job_id: True,
        parks.job_id: True,
    }


# The fence.


async def test_a_late_worker_finishes_nothing_once_its_job_was_rescued(conn: Connection) -> None:
    lease = await running(conn)
    await die(conn, lease.worker_id)
    await rescue(conn)
    before = await row(conn, lease.job_id)
    for end in (done, failed, tried_again, released, canceled):
        assert await finish(conn, end(lease)) == []
    assert await row(conn, lease.job_id) == before
    assert await lease_states(conn, [lease]) == {lease.job_id: "ended"}


async def test_a_late_worker_finishes_nothing_of_the_next_attempt(conn: Connection) -> None:
    lease = await running(conn)
    await die(conn, lease.worker_id)
    await rescue(conn)
    _, theirs = await take(conn, await register(conn))
    before = await row(conn, lease.job_id)
    assert await finish(conn, done(lease)) == []
    assert await row(conn, lease.job_id) == before
    assert await lease_states(conn, [lease]) == {lease.job_id: "lost"}
    assert len(await finish(conn, done(theirs))) == 1


async def test_the_same_lease_number_of_another_worker_is_refused(conn: Connection) -> None:
    lease = await running(conn)
    forged = Lease(lease.job_id, lease.lease_no, uuid4())
    assert await finish(conn, done(forged)) == []
    assert await state(conn, lease.job_id) == ("running", None)
    assert await lease_states(conn, [forged]) == {lease.job_id: "lost"}


async def test_an_older_lease_of_the_same_worker_is_refused(conn: Connection) -> None:
    lease = await running(conn)
    old = Lease(lease.job_id, lease.lease_no - 1, lease.worker_id)
    assert await finish(conn, done(old)) == []
    assert await state(conn, lease.job_id) == ("running", None)


async def test_a_second_finish_changes_nothing_and_its_fate_is_ended(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, done(lease, '"first"'))
    assert await finish(conn, done(lease, '"second"')) == []
    assert (await row(conn, lease.job_id))["result"] == "first"
    assert await lease_states(conn, [lease]) == {lease.job_id: "ended"}


async def test_a_deleted_job_has_no_fate(conn: Connection) -> None:
    lease = await running(conn)
    await execute(conn, "delete from jobsworth.reactive_jobs")
    assert await finish(conn, done(lease)) == []
    assert await lease_states(conn, [lease]) == {}


async def test_a_held_row_is_left_out_and_its_neighbours_are_finished(
    database: Database, conn: Connection
) -> None:
    held, free = await running(conn), await running(conn)
    async with database.transaction() as holder:
        await hold(holder, held)
        with anyio.fail_after(5):
            applied = await finish(conn, done(held), done(free))
        assert [one.id for one in applied] == [free.job_id]
        states = await lease_states(conn, [held, free])
        assert states == {held.job_id: "held", free.job_id: "ended"}
    assert [one.id for one in await finish(conn, done(held))] == [held.job_id]


async def test_finishers_with_crossing_batches_never_wait_for_each_other(
    database: Database, conn: Connection
) -> None:
    first, second, third = [await running(conn) for _ in range(3)]
    async with database.transaction() as one, database.transaction() as two:
        with anyio.fail_after(5):
            assert len(await finishing.finish(one, [done(first), done(second)])) == 2
            assert len(await finishing.finish(two, [done(third), done(second), done(first)])) == 1
    assert await states(conn, first.job_id, second.job_id, third.job_id) == [("done", None)] * 3


async def test_many_finishers_over_the_same_jobs_end_each_once_without_deadlock(
    database_url: str, conn: Connection
) -> None:
    worker_id = await register(conn)
    await execute(
        conn,
        "insert into jobsworth.reactive_jobs (mode) select 'answer' from generate_series(1, 400)",
    )
    leases = [lease_of(job, worker_id) for job in (await claim(conn, worker_id, 400)).jobs]
    ended: list[object] = []

    async def finisher(database: Database, order: int) -> None:
        batch = leases if order % 2 else leases[::-1]
        async with database.connection() as own:
            for start in range(0, 400, 50):
                applied = await finish_all(own, *map(done, batch[start : start + 50]))
                ended.extend(one.id for one in applied)

    with anyio.fail_after(30):
        async with (
            Database(database_url, pool_max=6) as database,
            anyio.create_task_group() as tasks,
        ):
            for order in range(6):
                tasks.start_soon(finisher, database, order)
    assert len(ended) == len(set(ended)) == 400


async def test_a_finish_does_not_wait_for_an_open_transaction_that_enqueues_a_follower(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    async with database.transaction() as open_enqueue:
        await enqueue(open_enqueue, "answer", after=[lease.job_id])
        with anyio.fail_after(5):
            assert len(await finish(conn, done(lease))) == 1


# Cancel, before, while and after the finish.


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (done, "done"),
        (failed, "failed"),
        (tried_again, "canceled"),
        (released, "canceled"),
        (canceled, "canceled"),
        (partial(parked, reason="approval"), "canceled"),
    ],
    ids=["done", "failed", "tried again", "released", "canceled", "parked"],
)
async def test_a_cancel_before_the_ending_stops_the_job_unless_it_ended_for_good(
    conn: Connection, end: End, status: str
) -> None:
    lease = await running(conn)
    assert await cancel(conn, lease.job_id) == "running"
    [asked] = await rescuing.cancel_requests(conn, lease.worker_id, [lease.job_id])
    assert (asked["id"], asked["lease_no"]) == (lease.job_id, lease.lease_no)
    [one] = await finish(conn, end(lease))
    now = await row(conn, lease.job_id)
    assert one.status == now["status"] == status
    assert (now["waiting_for"], now["waiting_detail"]) == (None, None)
    assert now["finished_at"] is not None
    if status == "canceled":
        assert now["error"] == "canceled by a person"
        assert now["run_at"] is None
    assert await rescuing.cancel_requests(conn, lease.worker_id, [lease.job_id]) == []


async def test_a_cancel_in_an_open_transaction_is_neither_waited_for_nor_missed(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    async with database.transaction() as canceller:
        await cancel(canceller, lease.job_id)
        with anyio.fail_after(5):
            assert await finish(conn, parked(lease, "approval")) == []
        assert await lease_states(conn, [lease]) == {lease.job_id: "held"}
    [one] = await finish(conn, parked(lease, "approval"))
    assert one.status == "canceled"


async def test_a_cancel_that_commits_after_the_snapshot_of_the_finish_is_seen(
    database: Database, conn: Connection
) -> None:
    """The finish stops at its first row; meanwhile its second one is canceled, and committed."""
    first, second = await running(conn), await running(conn)
    await execute(conn, WAIT_AT_DONE)
    async with database.connection() as other, AsyncExitStack() as gate:
        shut = await gate.enter_async_context(database.transaction())
        await execute(shut, "select pg_advisory_xact_lock(7)")
        ending = finish(other, done(first), parked(second, "approval"))
        async with blocking(database, other, ending) as result:
            with anyio.fail_after(5):
                assert await cancel(conn, second.job_id) == "running"
            await gate.aclose()
    assert {one.id: one.status for one in result[0]} == {
        first.job_id: "done",
        second.job_id: "canceled",
    }


async def test_a_cancel_after_a_park_ends_the_job_at_once(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, parked(lease, "approval", "a question"))
    assert await cancel(conn, lease.job_id) == "canceled"
    now = await row(conn, lease.job_id)
    assert (now["waiting_for"], now["waiting_detail"], now["run_at"]) == (None, None, None)
    assert now["finished_at"] is not None


async def test_a_cancel_after_the_end_changes_nothing(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, done(lease))
    before = await row(conn, lease.job_id)
    assert await cancel(conn, lease.job_id) == "done"
    assert await row(conn, lease.job_id) == before
