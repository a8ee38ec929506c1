"""The queue's upkeep on real rows: which jobs go on without a claim, and which must not."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, LiteralString, cast
from uuid import UUID, uuid4

import pytest

from db.pool import Connection, fetch_val
from db.queue import jobs
from db.queue.jobs import JobStatus, WaitReason
from db.runs import runs
from db.runs.runs import Node
from jobsworth import handler
from tests.db.protocol import done, finish
from tests.support import until
from tests.worker.job_api import JobApi, registered
from tests.worker.upkeep_at_work import (
    RESCUE_SECONDS,
    a_few_rounds,
    running_job,
    status_is,
    upkeep,
    woken,
)
from worker.queue import upkeep as queue_upkeep

ADD_WORKER: LiteralString = """
insert into jobsworth.workers (id, host, pid, version, modes, queues, slots)
values (%(id)s, 'here', 1, '0', %(modes)s, '{default}', 1)
"""


@pytest.fixture
async def api(database_url: str) -> AsyncGenerator[JobApi]:
    with registered():
        async with JobApi.open(database_url) as api:
            yield api


async def test_a_dead_workers_job_is_rescued(api: JobApi) -> None:
    lease = await running_job(api)
    async with upkeep(api) as kept:
        await a_few_rounds(api)
        assert (await api.job(lease.job_id)).status is JobStatus.RUNNING
        kept.judge.verdicts = {lease.worker_id: 0}
        await until(status_is(api, lease.job_id, JobStatus.QUEUED))
        await woken(kept)
    job = await api.job(lease.job_id)
    assert (job.crashes, job.failures) == (1, 0)
    assert (kept.promoter.ids, kept.rescued) == ([lease.job_id], [1])


async def test_a_worker_that_has_beaten_since_it_was_judged_keeps_its_jobs(api: JobApi) -> None:
    lease = await running_job(api)
    await api.database.execute("update jobsworth.workers set beats = 8")
    async with upkeep(api) as kept:
        kept.judge.verdicts = {lease.worker_id: 7}
        await a_few_rounds(api)
        assert (await api.job(lease.job_id)).status is JobStatus.RUNNING
        assert await api.rows("select beats from jobsworth.workers") == [{"beats": 8}]


async def test_a_worker_whose_own_heart_stopped_judges_nobody(api: JobApi) -> None:
    """It may be the one that is cut off."""
    lease = await running_job(api)
    async with upkeep(api) as kept:
        kept.fall_silent()
        kept.judge.verdicts = {lease.worker_id: 0}
        await a_few_rounds(api)
        assert (await api.job(lease.job_id)).status is JobStatus.RUNNING
        kept.beat(unbroken_seconds=0)
        await until(status_is(api, lease.job_id, JobStatus.QUEUED))


async def test_jobs_of_a_worker_without_a_row_wait_until_it_must_have_found_out(
    api: JobApi,
) -> None:
    """A worker that lives finds out at its next heartbeat that its row is gone."""
    lease = await running_job(api)
    await api.database.execute("delete from jobsworth.workers")
    async with upkeep(api, unbroken_seconds=RESCUE_SECONDS - 3) as kept:
        await a_few_rounds(api)
        kept.judge.verdicts = {uuid4(): 3}  # that somebody else is dead proves nothing of it
        await a_few_rounds(api)
        assert (await api.job(lease.job_id)).status is JobStatus.RUNNING
        kept.beat(unbroken_seconds=RESCUE_SECONDS + 1)
        await until(status_is(api, lease.job_id, JobStatus.QUEUED))


async def test_a_living_workers_job_is_left_alone(api: JobApi) -> None:
    lease = await running_job(api)
    async with upkeep(api, unbroken_seconds=RESCUE_SECONDS + 1):
        await a_few_rounds(api)
    assert (await api.job(lease.job_id)).status is JobStatus.RUNNING


async def test_dead_workers_are_buried_once_their_jobs_are_rescued(api: JobApi) -> None:
    lease = await running_job(api)
    living = uuid4()
    await api.database.execute(ADD_WORKER, {"id": living, "modes": ["answer"]})

    async def buried() -> bool:
        return await api.rows("select id from jobsworth.workers") == [{"id": living}]

    async with upkeep(api) as kept:
        kept.judge.verdicts = {lease.worker_id: 0}
        await until(buried)
    assert (await api.job(lease.job_id)).status is JobStatus.QUEUED


async def test_one_worker_sweeps_all_that_waits_in_one_look_however_deep(
    api: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_upkeep, "SWEEP_BATCH_FIRST", 2)
    needed = await running_job(api)
    deep = [await api.enqueue("answer", after=[needed.job_id]) for _ in range(4)]
    other = await running_job(api)
    lost = await api.enqueue("answer", after=[other.job_id])
    deep += [await api.enqueue("answer", after=[needed.job_id]) for _ in range(4)]
    async with api.database.connection() as connection:
        await finish(connection, done(other))  # and its worker died before it looked
    sweep = queue_upkeep.Sweep(api.database, cast(Any, _First()))
    await sweep.work(cast(Any, SimpleNamespace(sweep=["parents"])))
    assert (await api.job(lost)).status is JobStatus.QUEUED
    assert {(await api.job(job_id)).status for job_id in deep} == {JobStatus.WAITING}


class _First:
    def is_first(self) -> bool:
        return True


async def test_timers_fire_and_one_that_was_just_set_is_not_slept_over(api: JobApi) -> None:
    # So late that neither is due already when it is inserted, however busy the machine.
    first = await api.enqueue("answer", delay=0.3)
    async with upkeep(api) as kept:
        await until(status_is(api, first, JobStatus.QUEUED))
        second = await api.enqueue("answer", delay=0.3)
        kept.wakes.timers.set()
        await until(status_is(api, second, JobStatus.QUEUED))
        await until(lambda: _true(kept.moves >= 2))


async def test_jobs_that_no_worker_knows_are_shelved_and_come_back_with_their_handler(
    api: JobApi,
) -> None:
    await api.database.execute(ADD_WORKER, {"id": uuid4(), "modes": ["answer"]})
    known = await api.enqueue("answer")
    unknown = await api.enqueue("translate")
    async with upkeep(api):
        await until(status_is(api, unknown, JobStatus.WAITING))
        job = await api.job(unknown)
        assert (job.waiting_for, job.attempt) == (WaitReason.HANDLER, 0)
        assert (await api.job(known)).status is JobStatus.QUEUED
        await api.database.execute(ADD_WORKER, {"id": uuid4(), "modes": ["translate"]})
        await until(status_is(api, unknown, JobStatus.QUEUED))


async def test_without_any_worker_nothing_is_shelved(api: JobApi) -> None:
    """Between two deployments of the daemon no mode is known, and none is missing."""
    job_id = await api.enqueue("translate")
    async with upkeep(api):
        await a_few_rounds(api)
    assert (await api.job(job_id)).status is JobStatus.QUEUED


async def test_the_sweep_finds_a_lane_that_a_late_commit_has_stalled(api: JobApi) -> None:
    """It was inserted while the lane was busy and committed after the lane had been looked at."""

    @handler("talk")
    def talk() -> None:
        pass

    first = await api.enqueue("talk", lane="chat")
    async with api.database.transaction() as connection:
        late: UUID = await insert_in_lane(connection)
        await api.work()
        assert (await api.job(first)).status is JobStatus.DONE
    job = await api.job(late)
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.LANE)
    async with upkeep(api):
        await until(status_is(api, late, JobStatus.QUEUED))


@pytest.mark.parametrize("reason", ["children", "parents", "approval", "signal"])
async def test_the_sweep_finds_what_a_crash_left_waiting(api: JobApi, reason: str) -> None:
    """Nothing that it waited for is there any more, and nobody has looked since."""
    job_id = await api.enqueue("talk", lane="chat")
    await api.database.execute(
        "update jobsworth.reactive_jobs set status = 'waiting', waiting_detail = 'go',"
        " waiting_for = %(reason)s::jobsworth.wait_reason",
        {"reason": reason},
    )
    await api.database.execute(
        "insert into jobsworth.signals (job_id, name) values (%(id)s, 'go')", {"id": job_id}
    )
    async with upkeep(api):
        await until(status_is(api, job_id, JobStatus.QUEUED))


@pytest.mark.usefixtures("unguarded")
async def test_the_sweep_moves_a_run_that_a_crash_left_open(api: JobApi) -> None:
    async with api.database.connection() as connection:
        run_id = (await runs.start(connection, [Node("a", "talk")])).run_id
    await api.database.execute(
        "update jobsworth.reactive_jobs set status = 'done', finished_at = now()"
    )
    query = "select status = 'done' from jobsworth.runs where id = %(id)s"
    async with upkeep(api):
        await until(lambda: api.database.fetch_val(query, {"id": run_id}))


async def test_a_cancel_request_reaches_the_attempt_of_this_worker_and_no_other(
    api: JobApi,
) -> None:
    ours, others = await running_job(api), await running_job(api)
    async with upkeep(api, worker_id=ours.worker_id) as kept:
        kept.attempts.ids += [ours.job_id, others.job_id]
        await a_few_rounds(api)
        assert kept.attempts.canceled == []
        async with api.database.connection() as connection:
            for lease in (ours, others):
                await jobs.cancel(connection, lease.job_id, "changed my mind")
        kept.wakes.cancels.set()
        await until(lambda: _true(kept.attempts.canceled))
        await a_few_rounds(api)
    assert set(kept.attempts.canceled) == {(ours.job_id, ours.lease_no, "changed my mind")}


async def test_a_notified_cancel_is_looked_at_before_the_next_round(api: JobApi) -> None:
    ours = await running_job(api)
    async with upkeep(api, worker_id=ours.worker_id, periods={"cancel": 3600}) as kept:
        kept.attempts.ids.append(ours.job_id)
        await a_few_rounds(api)
        async with api.database.connection() as connection:
            await jobs.cancel(connection, ours.job_id)
        kept.wakes.cancels.set()
        await until(lambda: _true(kept.attempts.canceled))


async def test_a_job_under_our_name_without_an_attempt_is_queued_again(api: JobApi) -> None:
    """The answer to its claim was lost."""
    stray = await running_job(api)
    async with upkeep(api, worker_id=stray.worker_id) as kept:
        await until(status_is(api, stray.job_id, JobStatus.QUEUED))
        await woken(kept)
    job = await api.job(stray.job_id)
    assert (job.crashes, job.failures) == (0, 0)


async def test_a_lost_answer_is_looked_for_at_once(api: JobApi) -> None:
    worker_id = uuid4()
    async with upkeep(api, worker_id=worker_id, periods={"strays": 3600}) as kept:
        await a_few_rounds(api)
        stray = await running_job(api)
        await api.database.execute(
            "update jobsworth.reactive_jobs set worker_id = %(worker)s where id = %(id)s",
            {"worker": worker_id, "id": stray.job_id},
        )
        kept.wakes.lost_claims.set()
        await until(status_is(api, stray.job_id, JobStatus.QUEUED))


async def test_a_job_whose_claim_is_not_answered_yet_is_no_stray(api: JobApi) -> None:
    """It is one only when the claim loop has begun a turn since it was first seen."""
    claimed = await running_job(api)
    async with upkeep(api, worker_id=claimed.worker_id) as kept:
        kept.vitals.turn_seconds = 3600.0
        await a_few_rounds(api)
        kept.vitals.turn_seconds = None
        await a_few_rounds(api)
        kept.attempts.ids.append(claimed.job_id)
        kept.vitals.turn_seconds = 0.0
        await a_few_rounds(api)
        assert (await api.job(claimed.job_id)).status is JobStatus.RUNNING
        kept.attempts.ids.clear()
        await until(status_is(api, claimed.job_id, JobStatus.QUEUED))


@pytest.mark.usefixtures("unguarded")
async def test_what_was_left_open_on_an_ended_job_is_closed(api: JobApi) -> None:
    """Its worker died between its commit and the look after it."""
    lease = await running_job(api)
    await api.database.execute(
        "insert into jobsworth.approvals (job_id, proposal_text, shown_hash)"
        " values (%(id)s, 'Ship it?', '')",
        {"id": lease.job_id},
    )
    await api.database.execute(
        "update jobsworth.reactive_jobs set status = 'done', finished_at = now()"
    )

    async def closed() -> bool:
        found = await api.rows("select status::text from jobsworth.approvals")
        return found == [{"status": "superseded"}]

    async with upkeep(api):
        await until(closed)


async def insert_in_lane(connection: Connection) -> UUID:
    return await fetch_val(connection, "select jobsworth.enqueue('talk', lane => 'chat')")


async def _true(value: Any) -> bool:
    return bool(value)
