"""Rescue: the jobs of dead workers go on, those of living ones are left alone."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID, uuid4

import anyio
import pytest

from db.pool import Connection, Database, execute, fetch_val
from db.queue import finish as finishing
from db.queue import promote, workers
from db.queue import rescue as rescuing
from db.queue.finish import lease_states
from db.steps import steps
from tests.db.protocol import (
    CRASHES_MAX,
    add,
    cancel,
    claim,
    dead_workers,
    die,
    done,
    finish,
    lease_of,
    parked,
    register,
    rescue,
    row,
    running,
    state,
    states,
    take,
)
from tests.support import until

pytestmark = pytest.mark.both

CRASH: LiteralString = """
update jobsworth.reactive_jobs set crashes = %(crashes)s where id = %(id)s
"""


async def test_the_first_crash_queues_the_job_at_once_at_a_new_position(conn: Connection) -> None:
    lease = await running(conn)
    before = await row(conn, lease.job_id)
    await die(conn, lease.worker_id)
    [rescued] = await rescue(conn)
    now = await row(conn, lease.job_id)
    assert (rescued["id"], rescued["status"], rescued["crashes"]) == (lease.job_id, "queued", 1)
    assert (now["status"], now["waiting_for"], now["finished_at"]) == ("queued", None, None)
    assert (now["crashes"], now["failures"], now["attempt"]) == (1, 0, 1)
    assert now["position"] > before["position"]
    assert now["error"] == "its worker died during attempt 1 (crash 1)"


async def test_the_second_crash_waits_for_a_backoff(conn: Connection) -> None:
    lease = await running(conn)
    await execute(conn, CRASH, {"id": lease.job_id, "crashes": 1})
    await die(conn, lease.worker_id)
    [rescued] = await rescue(conn)
    now = await row(conn, lease.job_id)
    assert (rescued["status"], now["waiting_for"], now["crashes"]) == ("waiting", "timer", 2)
    # 10 s · 2, times 0.5 to 1.5.
    assert 9 < (now["run_at"] - now["started_at"]).total_seconds() < 60


async def test_the_last_crash_fails_the_job(conn: Connection) -> None:
    lease = await running(conn)
    await execute(conn, CRASH, {"id": lease.job_id, "crashes": CRASHES_MAX - 1})
    await die(conn, lease.worker_id)
    [rescued] = await rescue(conn)
    now = await row(conn, lease.job_id)
    assert (rescued["status"], now["crashes"], now["run_at"]) == ("failed", CRASHES_MAX, None)
    assert now["finished_at"] is not None
    assert now["failures"] == 0


async def test_a_job_that_may_crash_very_often_is_rescued_however_often_it_did(
    conn: Connection,
) -> None:
    """2 to the power of its crashes is no number."""
    lease = await running(conn, crashes_max=1_000_000)
    await execute(conn, CRASH, {"id": lease.job_id, "crashes": 2_000})
    await die(conn, lease.worker_id)
    [rescued] = await rescue(conn)
    assert (rescued["status"], rescued["crashes"]) == ("waiting", 2_001)


async def test_a_death_that_jobs_share_slows_none_of_them_down(conn: Connection) -> None:
    """Somebody killed a healthy worker, again and again."""
    jobs = [await add(conn) for _ in range(4)]
    for crash in range(1, CRASHES_MAX):
        await _run_and_die(conn, 4)
        found = [await row(conn, job_id) for job_id in jobs]
        assert [(one["status"], one["crashes"]) for one in found] == [("queued", crash)] * 4


async def test_the_job_that_kills_is_found_among_its_neighbours(conn: Connection) -> None:
    killer, *innocents = [await add(conn) for _ in range(5)]
    for _ in range(CRASHES_MAX - 1):
        await _run_and_die(conn, 5)
    for _ in range(5):
        worker_id = await register(conn)
        [suspect] = (await claim(conn, worker_id)).jobs
        assert suspect.suspect
        assert (await claim(conn, worker_id, suspect_wanted=False)).jobs == []
        if suspect.id == killer:
            await die(conn, worker_id)
            await rescue(conn)
        else:
            await finish(conn, done(lease_of(suspect, worker_id)))
    assert await states(conn, killer, *innocents) == [("failed", None)] + [("done", None)] * 4


async def test_what_runs_beside_a_suspect_is_not_charged_with_its_death(conn: Connection) -> None:
    suspect, *fresh = [await add(conn) for _ in range(3)]
    await execute(conn, CRASH, {"id": suspect, "crashes": CRASHES_MAX - 1})
    await _run_and_die(conn, 3)
    for job_id in fresh:
        now = await row(conn, job_id)
        assert (now["status"], now["crashes"], now["run_at"] is None) == ("queued", 0, False)
        assert now["error"] == (
            "its worker died during attempt 1, beside a job that is suspected of it"
        )


async def test_an_innocent_beside_one_killer_after_the_other_never_fails(conn: Connection) -> None:
    innocent = await add(conn)
    for _ in range(CRASHES_MAX):
        killer = await add(conn)
        await _run_and_die(conn, 2)
        assert (await row(conn, innocent))["status"] == "queued"
        await cancel(conn, killer)
    now = await row(conn, innocent)
    assert (now["crashes"], now["error"]) == (
        CRASHES_MAX,
        f"its worker died during attempt {CRASHES_MAX} (crash {CRASHES_MAX}), beside other jobs: "
        "it runs alone next",
    )


async def test_a_single_suspect_that_was_not_alone_runs_alone_next_and_then_fails(
    conn: Connection,
) -> None:
    suspect, fresh = [await add(conn) for _ in range(2)]
    await execute(conn, CRASH, {"id": suspect, "crashes": CRASHES_MAX - 1})
    await _run_and_die(conn, 2)
    busy, free = await register(conn), await register(conn)
    [beside] = (await claim(conn, busy, alone=False)).jobs
    assert (beside.id, beside.alone_seconds) == (fresh, None)
    await finish(conn, done(lease_of(beside, busy)))
    await add(conn, priority=1)
    [alone] = (await claim(conn, free, alone=True)).jobs
    assert (alone.id, alone.suspect, alone.alone_seconds) == (suspect, True, 60)
    await die(conn, free)
    await rescue(conn)
    assert await state(conn, suspect) == ("failed", None)


async def test_a_suspect_that_no_worker_can_run_alone_runs_beside_others_after_a_minute(
    conn: Connection,
) -> None:
    suspect = await add(conn)
    await execute(conn, CRASH, {"id": suspect, "crashes": CRASHES_MAX})
    worker_id = await register(conn)
    assert (await claim(conn, worker_id)).jobs == []
    await execute(conn, "update jobsworth.reactive_jobs set run_at = now() - interval '61 seconds'")
    [taken] = (await claim(conn, worker_id)).jobs
    assert (taken.id, taken.alone_seconds) == (suspect, None)


async def test_a_suspect_is_not_alone_because_its_neighbours_were_rescued_before_it(
    conn: Connection,
) -> None:
    jobs = [await add(conn) for _ in range(2)]
    worker_id = await register(conn)
    assert len((await claim(conn, worker_id)).jobs) == 2
    await die(conn, worker_id)
    [first] = await rescue(conn, 1)
    [last] = [job_id for job_id in jobs if job_id != first["id"]]
    await execute(conn, CRASH, {"id": last, "crashes": CRASHES_MAX - 1})
    await rescue(conn, 1)
    assert await states(conn, *jobs) == [("queued", None)] * 2


async def test_two_suspects_in_one_worker_are_told_apart_later(conn: Connection) -> None:
    """No worker takes two; a worker of an older version may have."""
    jobs = [await add(conn) for _ in range(2)]
    await _run_and_die(conn, 2)
    for job_id in jobs:
        await execute(conn, CRASH, {"id": job_id, "crashes": 0})
    worker_id = await register(conn)
    await claim(conn, worker_id)
    for job_id in jobs:
        await execute(conn, CRASH, {"id": job_id, "crashes": CRASHES_MAX - 1})
    await die(conn, worker_id)
    await rescue(conn)
    found = [await row(conn, job_id) for job_id in jobs]
    assert [(one["status"], one["crashes"]) for one in found] == [("queued", CRASHES_MAX - 1)] * 2


async def _run_and_die(conn: Connection, jobs: int) -> None:
    """A worker takes so many jobs, and dies with them."""
    worker_id = await register(conn)
    assert len((await claim(conn, worker_id)).jobs) == jobs
    await die(conn, worker_id)
    assert len(await rescue(conn)) == jobs


async def test_a_job_may_have_its_own_bound_of_crashes(conn: Connection) -> None:
    lease = await running(conn, crashes_max=1)
    await die(conn, lease.worker_id)
    await rescue(conn)
    assert await state(conn, lease.job_id) == ("failed", None)


async def test_a_dead_workers_job_whose_cancel_was_asked_for_is_canceled(conn: Connection) -> None:
    lease = await running(conn)
    await cancel(conn, lease.job_id)
    await die(conn, lease.worker_id)
    await rescue(conn)
    now = await row(conn, lease.job_id)
    assert (now["status"], now["error"], now["run_at"]) == (
        "canceled",
        "canceled by a person",
        None,
    )


async def test_a_worker_without_a_row_is_dead(conn: Connection) -> None:
    await running(conn)
    await execute(conn, "delete from jobsworth.workers")
    assert len(await rescue(conn)) == 1


async def test_a_living_workers_jobs_are_left_alone(conn: Connection) -> None:
    lease = await running(conn)
    assert await rescue(conn) == []
    assert await state(conn, lease.job_id) == ("running", None)


async def test_what_does_not_run_is_never_rescued(conn: Connection) -> None:
    ended, waits, queued = await running(conn), await running(conn), await add(conn)
    await finish(conn, done(ended), parked(waits, "approval"))
    await execute(conn, "delete from jobsworth.workers")
    assert await rescue(conn) == []
    assert await states(conn, ended.job_id, waits.job_id, queued) == [
        ("done", None),
        ("waiting", "approval"),
        ("queued", None),
    ]


async def test_a_rescue_is_bounded_and_goes_on(conn: Connection) -> None:
    leases = [await running(conn) for _ in range(5)]
    await execute(conn, "delete from jobsworth.workers")
    assert [len(await rescue(conn, 2)) for _ in range(4)] == [2, 2, 1, 0]
    assert await states(conn, *(lease.job_id for lease in leases)) == [("queued", None)] * 5


async def test_a_rescue_leaves_a_row_that_is_being_finished_to_its_worker(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    await die(conn, lease.worker_id)
    async with database.transaction() as finisher:
        assert len(await finishing.finish(finisher, [done(lease)])) == 1
        with anyio.fail_after(5):
            assert await rescue(conn) == []
    assert await rescue(conn) == []
    assert await state(conn, lease.job_id) == ("done", None)


async def test_a_finish_leaves_a_row_that_is_being_rescued(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    await die(conn, lease.worker_id)
    async with database.transaction() as rescuer:
        assert len(await rescue(rescuer)) == 1
        with anyio.fail_after(5):
            assert await finish(conn, done(lease)) == []
        assert await lease_states(conn, [lease]) == {lease.job_id: "held"}
    assert await finish(conn, done(lease)) == []
    assert await state(conn, lease.job_id) == ("queued", None)


async def test_two_rescues_at_once_charge_one_crash(database: Database, conn: Connection) -> None:
    leases = [await running(conn) for _ in range(4)]
    await execute(conn, "delete from jobsworth.workers")
    async with database.transaction() as one, database.transaction() as two:
        assert len(await rescue(one, 2)) == 2
        assert len(await rescue(two)) == 2
    for lease in leases:
        assert (await row(conn, lease.job_id))["crashes"] == 1


@pytest.mark.usefixtures("unguarded")
@pytest.mark.direct("it looks for its own server processes")
async def test_a_rescue_takes_no_job_that_a_living_worker_claimed_under_its_eyes(
    database: Database, conn: Connection
) -> None:
    """A slow rescue sees a job of a dead worker; before it gets there, another rescue gave it back
    and a living worker claimed it."""
    dead, last = UUID(int=1), UUID(int=2**128 - 1)
    jobs = 30_000
    await execute(
        conn,
        "insert into jobsworth.reactive_jobs (mode, status, lane, worker_id, lease_no) "
        "select 'answer', 'queued', null, %(dead)s, 1 from generate_series(1, %(jobs)s)",
        {"dead": dead, "jobs": jobs},
    )
    await execute(conn, "update jobsworth.reactive_jobs set status = 'running'")
    job_id = await add(conn)
    await execute(
        conn,
        "update jobsworth.reactive_jobs set status = 'running', worker_id = %(last)s, lease_no = 2 "
        "where id = %(id)s",
        {"last": last, "id": job_id},
    )
    living, claimed = await register(conn), 0
    async with database.connection() as slow:
        pid = slow.info.backend_pid

        async def has_its_snapshot() -> bool:
            query = (
                "select backend_xmin is not null and query ~ 'dead' "
                "from pg_stat_activity where pid = %(pid)s"
            )
            return bool(await fetch_val(conn, query, {"pid": pid}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rescue, slow, 2 * jobs)
            await until(has_its_snapshot)
            claimed = await execute(
                conn,
                "update jobsworth.reactive_jobs set worker_id = %(living)s, lease_no = 3 "
                "where id in (select id from jobsworth.reactive_jobs where id = %(id)s "
                "  and status = 'running' for update skip locked)",
                {"living": living, "id": job_id},
            )
    assert claimed == 1, "the rescue was there first: this race did not happen"
    now = await row(conn, job_id)
    assert (now["status"], now["worker_id"], now["crashes"]) == ("running", living, 0)


async def test_a_rescued_job_in_a_lane_stays_ahead_of_it(conn: Connection) -> None:
    lease = await running(conn, lane="a")
    behind = await add(conn, lane="a")
    await execute(conn, CRASH, {"id": lease.job_id, "crashes": 1})
    await die(conn, lease.worker_id)
    await rescue(conn)
    await promote.unblock(conn, [lease.job_id])
    assert await states(conn, lease.job_id, behind) == [("waiting", "timer"), ("waiting", "lane")]


async def test_a_job_that_failed_by_its_crashes_frees_its_lane(conn: Connection) -> None:
    lease = await running(conn, lane="a", crashes_max=1)
    behind = await add(conn, lane="a")
    await die(conn, lease.worker_id)
    await rescue(conn)
    await promote.unblock(conn, [lease.job_id])
    assert await states(conn, lease.job_id, behind) == [("failed", None), ("queued", None)]


async def test_a_worker_is_buried_after_its_jobs_only(conn: Connection) -> None:
    lease = await running(conn)
    await register(conn)
    await die(conn, lease.worker_id)
    assert await workers.bury(conn, await dead_workers(conn)) == 0
    await rescue(conn)
    assert await workers.bury(conn, await dead_workers(conn)) == 1
    assert await fetch_val(conn, "select count(*) from jobsworth.workers") == 1


async def test_a_worker_declared_dead_claims_nothing_more(conn: Connection) -> None:
    worker_id = await register(conn)
    await add(conn)
    await die(conn, worker_id)
    await workers.bury(conn, await dead_workers(conn))
    assert (await claim(conn, worker_id)).jobs == []


async def test_a_job_is_claimed_again_after_its_rescue_and_its_steps_are_there(
    conn: Connection,
) -> None:
    lease = await running(conn)
    await steps.record(conn, lease, "fetch", '"page"', attempt=1)
    await die(conn, lease.worker_id)
    await rescue(conn)
    job, again = await take(conn, await register(conn))
    assert (job.id, job.attempt) == (lease.job_id, 2)
    assert await steps.record(conn, again, "fetch", '"other"', attempt=2) == (False, "page")


async def test_an_unknown_worker_id_has_no_cancel_requests(conn: Connection) -> None:
    lease = await running(conn)
    await cancel(conn, lease.job_id)
    assert await rescuing.cancel_requests(conn, uuid4(), [lease.job_id]) == []
