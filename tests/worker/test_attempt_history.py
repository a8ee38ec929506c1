"""The history: a row for each attempt that did not end well, and for no other."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import LiteralString
from uuid import UUID

import anyio

from db.errors import Unavailable
from db.pool import Connection, execute
from db.queue import attempts, jobs
from db.queue import rescue as rescuing
from db.queue.attempts import BadEnding, PastAttempt
from jobsworth import Cancel, Fail, Job, Snooze, handler
from tests.db.protocol import claim, die, failed, finish, register, rescue, running
from tests.support import until
from tests.worker.job_api import JobApi

ATTEMPT: LiteralString = """
update jobsworth.reactive_jobs set attempt = %(n)s where id = %(id)s
"""

COUNT: LiteralString = "select count(*) from jobsworth.attempt_history"


async def history(api: JobApi, job_id: UUID) -> list[PastAttempt]:
    async with api.database.connection() as connection:
        return await attempts.list_for_job(connection, job_id)


async def test_each_bad_ending_has_its_row_and_a_good_one_has_none(api: JobApi) -> None:
    begun = anyio.Event()

    @handler("fails", failures_max=3)
    async def fails(job: Job) -> str:
        if job.attempt < 3:
            try:
                raise KeyError("order")
            except KeyError as error:
                raise ValueError(f"wrong {job.attempt}") from error
        return "at last"

    @handler("final")
    async def final() -> None:
        raise Fail("no try can help")

    @handler("cancels")
    def cancels() -> None:
        raise Cancel("nothing to do")

    @handler("late", timeout_seconds=0.05, failures_max=1)
    async def late() -> None:
        await anyio.sleep_forever()

    @handler("apart", isolate="process", failures_max=1)
    def apart() -> None: ...

    @handler("typed")
    def typed(n: int) -> None: ...

    @handler("good")
    async def good(job: Job) -> None:
        if job.attempt == 1:
            raise Snooze(0)

    @handler("endless")
    async def endless() -> None:
        begun.set()
        await anyio.sleep_forever()

    good_id = await api.enqueue("good")
    ids = {mode: await api.enqueue(mode) for mode in ("fails", "final", "cancels", "late", "apart")}
    ids["typed"] = await api.enqueue("typed", {"n": "many"})
    await api.work()
    assert await history(api, good_id) == []
    told = {mode: await history(api, job_id) for mode, job_id in ids.items()}

    first, second = told["fails"]
    assert (first.attempt, first.outcome, second.attempt) == (1, "failed", 2)
    assert (first.host, first.pid) == (socket.gethostname(), os.getpid())
    assert first.began_at is not None
    assert first.began_at <= first.ended_at
    assert (first.error or "").startswith("ValueError: wrong 1 (")
    lines = (first.traceback or "").splitlines()
    assert "in fails: raise ValueError" in lines[0]
    assert "caused by KeyError: 'order'" in lines
    for mode, outcome, error, place in [
        ("final", "failed", "no try can help", "in final: raise Fail"),
        ("cancels", "canceled", "nothing to do", "in cancels: raise Cancel"),
        ("late", "failed", "its deadline passed", "in late: await anyio.sleep_forever()"),
        ("apart", "failed", "declare it at the top level of a module", None),
        ("typed", "failed", "n:", None),
    ]:
        [only] = told[mode]
        assert only.outcome == outcome, mode
        assert error in (only.error or ""), mode
        assert (only.traceback is None) if place is None else (place in (only.traceback or "")), (
            mode
        )

    # A person's retry keeps the history; deleting the job removes it.
    async with api.database.connection() as connection:
        await jobs.retry(connection, ids["final"])
    await api.work()
    assert [one.attempt for one in await history(api, ids["final"])] == [1, 2]
    await api.rows("delete from jobsworth.reactive_jobs where mode <> 'good' returning id")
    assert await api.value(COUNT) == 0

    # What a person, or the end of its worker, stopped.
    stopped = await api.enqueue("endless")
    async with api.dying() as worker:
        await begun.wait()
        worker.kill()
    [crash] = await history(api, stopped)
    assert (crash.outcome, crash.host) == ("crashed", socket.gethostname())
    assert crash.error == "its worker died (crash 1)"

    @handler("away")
    async def away(job: Job) -> None:
        if job.attempt == 1:
            raise Unavailable("the server closed the connection")

    away_id = await api.enqueue("away")
    begun = anyio.Event()
    async with api.working():
        await begun.wait()
        async with api.database.connection() as connection:
            await jobs.cancel(connection, stopped, "by Ann")
        await until(partial(_has_ended, api, stopped))
        await until(partial(_has_ended, api, away_id))
    crash, cancel = await history(api, stopped)
    assert (cancel.attempt, cancel.outcome, cancel.error) == (2, "canceled", "by Ann")
    assert "in endless: await anyio.sleep_forever()" in (cancel.traceback or "")
    [interrupted] = await history(api, away_id)
    assert interrupted.outcome == "interrupted"
    assert "in away: raise Unavailable" in (interrupted.traceback or "")


async def test_a_worker_that_is_told_to_stop_leaves_a_row_of_what_it_released(
    api: JobApi,
) -> None:
    begun = anyio.Event()

    @handler("endless")
    async def endless() -> None:
        begun.set()
        await anyio.sleep_forever()

    job_id = await api.enqueue("endless")
    async with JobApi.open(api.url, drain_seconds=0.1) as hasty, hasty.working():
        await begun.wait()
    [one] = await history(api, job_id)
    assert (one.outcome, one.error) == ("released", "its worker was told to stop")


async def _has_ended(api: JobApi, job_id: UUID) -> bool:
    return (await api.job(job_id)).finished_at is not None


async def listed(conn: Connection, job_id: UUID) -> list[PastAttempt]:
    return await attempts.list_for_job(conn, job_id)


async def test_a_rescue_and_a_lost_claim_are_rows_with_the_worker_that_had_the_job(
    conn: Connection,
) -> None:
    """Also if the worker's row is gone by then: its host is not known any more."""
    lease = await running(conn)
    await die(conn, lease.worker_id)
    await rescue(conn)
    [one] = await listed(conn, lease.job_id)
    assert (one.outcome, one.attempt, one.worker_id) == ("crashed", 1, lease.worker_id)
    assert (one.host, one.pid, one.traceback) == ("here", 1, None)
    # The late worker's ending is refused, and so is its history.
    assert await finish(conn, failed(lease)) == []
    worker_id = await register(conn)
    [job] = (await claim(conn, worker_id, 1)).jobs
    released = await rescuing.release_strays(conn, worker_id, [job.lease_no])
    assert released == [lease.job_id]
    assert await rescuing.release_strays(conn, worker_id, [job.lease_no]) == []
    assert [one.outcome for one in await listed(conn, lease.job_id)] == ["crashed", "lost"]
    gone = await register(conn)
    await claim(conn, gone, 1)
    await execute(conn, "delete from jobsworth.workers where id = %(id)s", {"id": gone})
    await rescue(conn)
    assert [one.host for one in await listed(conn, lease.job_id)] == ["here", "here", None]


async def test_a_job_keeps_only_its_newest_rows(conn: Connection) -> None:
    lease = await running(conn)
    for n in range(1, 106):
        await execute(conn, ATTEMPT, {"id": lease.job_id, "n": n})
        await attempts.tell(conn, [(lease.job_id, BadEnding("failed", f"failure {n}"))])
        # A second try after a lost answer writes nothing twice.
        await attempts.tell(conn, [(lease.job_id, BadEnding("failed", "again"))])
    found = await listed(conn, lease.job_id)
    assert [one.attempt for one in found] == list(range(6, 106))
    assert {one.error for one in found} == {f"failure {n}" for n in range(6, 106)}
