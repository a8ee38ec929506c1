"""Claiming: each job to one worker, urgent first, and nothing lost behind a remembered position."""

from __future__ import annotations

import anyio
import pytest

from db.fence import hold
from db.pool import Connection, Database, execute, fetch_val
from db.queue import claim as claiming
from db.queue import promote, rescue
from db.queue.enqueue import enqueue
from db.queue.finish import Finish
from tests.db.protocol import (
    CRASHES_MAX,
    add,
    claim,
    done,
    finish,
    finish_all,
    lease_of,
    register,
    row,
    state,
    states,
    take,
)
from tests.support import until
from worker.queue.claim import Positions

pytestmark = pytest.mark.both


@pytest.mark.parametrize("position", [0, -5, 1 - 2**63])
async def test_a_job_is_claimed_whatever_its_position(conn: Connection, position: int) -> None:
    worker_id = await register(conn)
    await execute(
        conn,
        "insert into jobsworth.reactive_jobs (mode, position) values ('answer', %(position)s)",
        {"position": position},
    )
    claimed = await claiming.claim(
        conn,
        worker_id=worker_id,
        probes=Positions(["default"]).probes(anyio.current_time()),
        modes=["answer"],
        wanted=1,
        crashes_max=CRASHES_MAX,
        suspect_wanted=True,
        alone=False,
    )
    assert claimed.positions == {("default", 3): position}


async def test_eight_claimers_share_thousands_of_jobs_and_none_twice(
    database_url: str, database: Database, conn: Connection
) -> None:
    jobs = 3000
    await execute(
        conn,
        "insert into jobsworth.reactive_jobs (mode, priority) "
        "select 'answer', 1 + n %% 4 from generate_series(1, %(jobs)s) n",
        {"jobs": jobs},
    )
    claimed: list[tuple[object, int]] = []

    async def claimer(database: Database) -> None:
        positions = Positions(["default"])
        async with database.connection() as own:
            worker_id = await register(own)
            while len(claimed) < jobs:
                got = await claiming.claim(
                    own,
                    worker_id=worker_id,
                    probes=positions.probes(anyio.current_time()),
                    modes=["answer"],
                    wanted=20,
                    crashes_max=CRASHES_MAX,
                    suspect_wanted=True,
                    alone=False,
                )
                positions.claimed_up_to(got.positions)
                claimed.extend((job.id, job.lease_no) for job in got.jobs)
                await finish_all(own, *(done(lease_of(job, worker_id)) for job in got.jobs))

    with anyio.fail_after(30):
        async with (
            Database(database_url, pool_min=8, pool_max=8) as eight,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(8):
                tasks.start_soon(claimer, eight)

    assert len(claimed) == jobs
    assert len({job_id for job_id, _ in claimed}) == jobs
    assert len({lease_no for _, lease_no in claimed}) == jobs
    attempts = "select count(*) from jobsworth.reactive_jobs where attempt = 1 and status = 'done'"
    assert await fetch_val(conn, attempts) == jobs


async def test_a_claim_passes_over_what_an_open_claim_holds(
    database: Database, conn: Connection
) -> None:
    first, second = await add(conn), await add(conn)
    mine, yours = await register(conn), await register(conn)
    async with database.transaction() as open_claim:
        assert [job.id for job in (await claim(open_claim, mine, 1)).jobs] == [first]
        assert [job.id for job in (await claim(conn, yours)).jobs] == [second]


async def test_a_claim_writes_attempt_lease_worker_and_start(conn: Connection) -> None:
    job_id, worker_id = await add(conn), await register(conn)
    job, lease = await take(conn, worker_id)
    now = await row(conn, job_id)
    assert (job.id, job.attempt, now["attempt"]) == (job_id, 1, 1)
    assert (now["status"], now["lease_no"], now["worker_id"]) == (
        "running",
        lease.lease_no,
        worker_id,
    )
    assert now["started_at"] is not None
    assert 0 <= job.waited_seconds < 60


async def test_every_claim_of_a_job_has_a_higher_lease(conn: Connection) -> None:
    await add(conn)
    worker_id = await register(conn)
    _, first = await take(conn, worker_id)
    await finish(conn, Finish(first, "queued"))
    _, second = await take(conn, worker_id)
    assert second.lease_no > first.lease_no


async def test_urgent_jobs_come_first_then_the_older(conn: Connection) -> None:
    late = [await add(conn, priority=4), await add(conn, priority=3), await add(conn, priority=3)]
    urgent = await add(conn, priority=1)
    got = await claim(conn, await register(conn))
    assert [job.id for job in got.jobs] == [urgent, late[1], late[2], late[0]]


async def test_an_urgent_job_is_in_the_next_claim_however_small(conn: Connection) -> None:
    for _ in range(3):
        await add(conn)
    worker_id = await register(conn)
    positions = Positions(["default"])
    positions.claimed_up_to((await claim(conn, worker_id, 1)).positions)
    urgent = await add(conn, priority=1)
    got = await claiming.claim(
        conn,
        worker_id=worker_id,
        probes=positions.probes(0),
        modes=["answer"],
        wanted=1,
        crashes_max=CRASHES_MAX,
        suspect_wanted=True,
        alone=False,
    )
    assert [job.id for job in got.jobs] == [urgent]


async def test_a_late_commit_lies_behind_the_position_until_the_next_look_from_the_start(
    database: Database, conn: Connection
) -> None:
    worker_id = await register(conn)
    positions = Positions(["default"])
    positions.probes(100.0)

    async def look(at: float) -> list[object]:
        got = await claiming.claim(
            conn,
            worker_id=worker_id,
            probes=positions.probes(at),
            modes=["answer"],
            wanted=10,
            crashes_max=CRASHES_MAX,
            suspect_wanted=True,
            alone=False,
        )
        positions.claimed_up_to(got.positions)
        return [job.id for job in got.jobs]

    async with database.transaction() as open_enqueue:
        late = (await enqueue(open_enqueue, "answer")).job_id
        early = await add(conn)
        assert await look(100.1) == [early]
    assert await look(100.2) == []
    assert 0 < positions.next_rescan_in_seconds(100.2) <= 0.5
    assert await look(100.6) == [late]


async def test_a_requeued_job_lies_beyond_every_remembered_position(conn: Connection) -> None:
    await add(conn)
    worker_id = await register(conn)
    got = await claim(conn, worker_id, 1)
    [job] = got.jobs
    await finish(conn, Finish(lease_of(job, worker_id), "queued"))
    beyond = got.positions["default", 3]
    assert [j.id for j in (await claim(conn, worker_id, beyond=beyond)).jobs] == [job.id]


async def test_a_paused_queue_gives_nothing_and_keeps_nobody_elses_jobs_back(
    conn: Connection,
) -> None:
    await execute(conn, "insert into jobsworth.queues (name, paused) values ('slow', true)")
    held, free = await add(conn, queue="slow"), await add(conn)
    worker_id = await register(conn)
    got = await claim(conn, worker_id, queues=("slow", "default"))
    assert [job.id for job in got.jobs] == [free]
    await execute(conn, "update jobsworth.queues set paused = false")
    got = await claim(conn, worker_id, queues=("slow", "default"))
    assert [job.id for job in got.jobs] == [held]


async def test_a_claim_takes_only_modes_and_queues_it_was_asked_for(conn: Connection) -> None:
    await add(conn, "unheard_of")
    await add(conn, queue="elsewhere")
    mine = await add(conn)
    got = await claim(conn, await register(conn))
    assert [job.id for job in got.jobs] == [mine]


async def test_a_worker_without_its_own_row_gets_nothing(conn: Connection) -> None:
    job_id, worker_id = await add(conn), await register(conn)
    await execute(conn, "delete from jobsworth.workers")
    assert (await claim(conn, worker_id)).jobs == []
    assert await state(conn, job_id) == ("queued", None)


@pytest.mark.direct("it ends its own server process")
async def test_a_claim_whose_connection_dies_before_the_commit_gives_the_jobs_back(
    database_url: str, conn: Connection
) -> None:
    job_id, worker_id = await add(conn), await register(conn)
    doomed = await Connection.connect(database_url)
    await execute(doomed, "begin")
    assert len((await claim(doomed, worker_id)).jobs) == 1
    await execute(conn, "select pg_terminate_backend(%(pid)s)", {"pid": doomed.info.backend_pid})
    await doomed.close()

    async def again() -> list[object]:
        return [job.id for job in (await claim(conn, worker_id)).jobs]

    assert await until(again) == [job_id]


async def test_strays_of_a_lost_answer_are_given_back_and_nothing_else(
    database: Database, conn: Connection
) -> None:
    worker_id, other = await register(conn), await register(conn)
    for _ in range(4):
        await add(conn)
    known, stray, held = (await claim(conn, worker_id, 3)).jobs
    theirs, _ = await take(conn, other)
    async with database.transaction() as holder:
        await hold(holder, lease_of(held, worker_id))
        strays = await rescue.find_strays(conn, worker_id, [known.id], 10)
        assert strays == {stray.lease_no, held.lease_no}
        assert await rescue.release_strays(conn, worker_id, strays) == [stray.id]
    assert await states(conn, known.id, stray.id, held.id, theirs.id) == [
        ("running", None),
        ("queued", None),
        ("running", None),
        ("running", None),
    ]
    assert await rescue.release_strays(conn, worker_id, strays) == [held.id]
    assert await rescue.release_strays(conn, worker_id, strays) == []
    assert await rescue.find_strays(conn, worker_id, [known.id], 10) == set()


async def test_a_stray_is_run_again_under_a_new_lease(conn: Connection) -> None:
    await add(conn)
    worker_id = await register(conn)
    _, lost = await take(conn, worker_id)
    await rescue.release_strays(conn, worker_id, [lost.lease_no])
    _, again = await take(conn, worker_id)
    assert await finish(conn, done(lost)) == []
    assert [one.id for one in await finish(conn, done(again))] == [lost.job_id]


async def test_an_open_transaction_that_enqueues_a_follower_does_not_delay_the_job(
    database: Database, conn: Connection
) -> None:
    job_id, worker_id = await add(conn), await register(conn)
    async with database.transaction() as open_enqueue:
        await enqueue(open_enqueue, "answer", after=[job_id])
        assert [job.id for job in (await claim(conn, worker_id)).jobs] == [job_id]


async def test_shelving_unknown_modes_hides_no_job_from_a_claim(
    database: Database, conn: Connection
) -> None:
    worker_id = await register(conn)
    unknown = await add(conn, "unheard_of")
    known = await add(conn)
    async with database.transaction() as shelving:
        assert await promote.shelve_unknown(shelving, 100) == ["unheard_of"]
        assert [job.id for job in (await claim(conn, worker_id)).jobs] == [known]
    assert await state(conn, unknown) == ("waiting", "handler")


async def test_without_any_worker_nothing_is_shelved(conn: Connection) -> None:
    job_id = await add(conn, "unheard_of")
    assert await promote.shelve_unknown(conn, 100) == []
    assert await state(conn, job_id) == ("queued", None)
