"""The finisher: batches commit whole, come apart for a job's own fault only, and lose nothing."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import anyio
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from db.memory.remembered import MemoryEffect
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue.effects import Effect, JobEffect, MessageEffect
from tests.db.protocol import (
    cancel,
    row,
    states,
)
from tests.support import connect, until
from tests.worker.queue.finishing import TEXTS, Desk, at_work, endings, put
from tests.worker.queue.finishing import desk as desk
from worker.queue import commit
from worker.queue.ended import EndedAttempt
from worker.queue.transition import Transition

pytestmark = pytest.mark.both

# Backends of this database that wait for a lock.
BLOCKED: LiteralString = """
select pid from pg_stat_activity
where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0
"""

FULL_DISK_AT_FIRST: LiteralString = """
create sequence jobsworth.tries;
create function jobsworth.fill_disk() returns trigger language plpgsql as $$
begin
  if nextval('jobsworth.tries') <= 2 then
    raise exception 'could not extend file' using errcode = 'disk_full';
  end if;
  return new;
end $$;
create trigger fill_disk before insert on jobsworth.chat_messages
  for each row execute function jobsworth.fill_disk()
"""


def with_effects(ended: EndedAttempt, *effects: Effect) -> EndedAttempt:
    return ended._replace(transition=Transition.done("null", effects))


async def lock_table(conn: psycopg.AsyncConnection[object], table: str) -> None:
    statement = SQL("lock table jobsworth.{} in access exclusive mode").format(Identifier(table))
    await conn.execute(statement)


@pytest.fixture
def patient_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch waits for a lock until the test has done what it wants to do meanwhile."""
    monkeypatch.setattr(commit, "TOGETHER", commit.TOGETHER.replace("200ms", "60s"))


async def blocked_pid(conn: Connection) -> int:
    """The one backend that waits for a lock, once there is one."""

    async def blocked() -> list[int]:
        return [one["pid"] for one in await fetch_all(conn, BLOCKED)]

    [pid] = await until(blocked)
    return pid


# The usual.


async def test_whatever_ended_meanwhile_is_committed_at_once(desk: Desk, conn: Connection) -> None:
    batch = await endings(conn, 20)
    put(desk, *batch)
    assert await desk.told_of(20) == {ending.job.id: "done" for ending in batch}
    transactions = "select count(distinct xmin::text) from jobsworth.reactive_jobs"
    assert await fetch_val(conn, transactions) == 1
    assert desk.promoter.ids == []  # nothing waits for them


async def test_an_ending_is_told_after_its_commit(database: Database, conn: Connection) -> None:
    committed: list[str] = []

    class Looking(Desk):
        def finished(self, ended: EndedAttempt, status: str | None) -> None:
            with connect(database.url) as other:
                found = other.execute("select status::text from jobsworth.reactive_jobs").fetchone()
                assert found is not None
                committed.append(found["status"])
            super().finished(ended, status)

    [ending] = await endings(conn, 1)
    async with at_work(Looking(database, conn)) as desk:
        put(desk, ending)
        await desk.told_of(1)
    assert committed == ["done"]


async def test_effects_commit_with_their_job_and_memories_wake_the_embedder(
    desk: Desk, conn: Connection
) -> None:
    [ending] = await endings(
        conn, 1, MessageEffect("message:1", "hello"), MemoryEffect("memory:1", "n", "n")
    )
    put(desk, ending)
    await desk.told_of(1)
    assert await fetch_val(conn, TEXTS) == ["hello"]
    assert desk.memories.times == 1


async def test_effects_of_a_park_that_a_cancel_overtook_are_dropped(
    desk: Desk, conn: Connection
) -> None:
    [ending] = await endings(conn, 1)
    await cancel(conn, ending.job.id)
    park = Transition.parked("approval", effects=(MessageEffect("message:1", "may I?"),))
    put(desk, ending._replace(transition=park))
    assert await desk.told_of(1) == {ending.job.id: "canceled"}
    assert await fetch_val(conn, TEXTS) is None


async def test_an_end_beats_a_late_cancel_and_keeps_its_effects(
    desk: Desk, conn: Connection
) -> None:
    [ending] = await endings(conn, 1, MessageEffect("message:1", "hello"))
    await cancel(conn, ending.job.id)
    put(desk, ending)
    assert await desk.told_of(1) == {ending.job.id: "done"}
    assert await fetch_val(conn, TEXTS) == ["hello"]


async def test_an_ending_without_its_lease_writes_nothing_and_is_told_as_lost(
    desk: Desk, conn: Connection
) -> None:
    lost, fine = await endings(conn, 2, MessageEffect("message:1", "hello"))
    await execute(
        conn,
        "update jobsworth.reactive_jobs set lease_no = lease_no + 1000 where id = %(id)s",
        {"id": lost.job.id},
    )
    put(desk, lost, fine)
    assert await desk.told_of(2) == {lost.job.id: None, fine.job.id: "done"}
    assert await fetch_val(conn, TEXTS) == ["hello"]
    assert await states(conn, lost.job.id, fine.job.id) == [("running", None), ("done", None)]


async def test_a_held_row_waits_for_its_holder_and_its_neighbours_do_not(
    desk: Desk, database: Database, conn: Connection
) -> None:
    held, *free = await endings(conn, 5)
    async with database.transaction() as holder:
        await cancel(holder, held.job.id)
        put(desk, held, *free)
        assert await desk.told_of(4) == {ending.job.id: "done" for ending in free}
    assert (await desk.told_of(5))[held.job.id] == "done"


# A job's own fault.


@pytest.mark.parametrize(
    "bad",
    [
        JobEffect("job:1", "plan", priority=9),
        JobEffect("job:1", "\ud800"),
        MessageEffect("message:2", "to a thread that is not there", thread_id=UUID(int=9)),
        MessageEffect("message:2", "hello", role="king"),
    ],
    ids=["priority", "surrogate", "thread", "role"],
)
async def test_a_poisoned_member_fails_alone(desk: Desk, conn: Connection, bad: Effect) -> None:
    first, guilty, last = await endings(conn, 3, MessageEffect("message:1", "hello"))
    put(desk, first, with_effects(guilty, MessageEffect("message:1", "never"), bad), last)
    assert await desk.told_of(3) == {
        first.job.id: "done",
        guilty.job.id: "failed",
        last.job.id: "done",
    }
    assert await fetch_val(conn, TEXTS) == ["hello", "hello"]
    failed = await row(conn, guilty.job.id)
    assert failed["error"].startswith("what the job wrote was refused")
    assert failed["failures"] == 1
    assert desk.retries == 0


@pytest.mark.parametrize(
    "transition",
    [
        Transition.done("not JSON"),
        Transition.done('"\\u0000"'),
        Transition.failed("a\0b"),
        Transition.failed("a\ud800b"),
        Transition.parked("signal", "a\ud800b"),
        Transition.parked("timer", delay_seconds=float("inf")),
        Transition.parked("timer"),
    ],
    ids=["json", "nul result", "nul", "surrogate", "detail", "infinite", "no time"],
)
async def test_an_ending_that_cannot_be_written_fails_its_job_alone(
    desk: Desk, conn: Connection, transition: Transition
) -> None:
    guilty, fine = await endings(conn, 2)
    put(desk, guilty._replace(transition=transition), fine)
    assert await desk.told_of(2) == {guilty.job.id: "failed", fine.job.id: "done"}
    assert (await row(conn, guilty.job.id))["error"]


async def test_two_poisoned_members_of_a_large_batch_are_both_found(
    desk: Desk, conn: Connection
) -> None:
    batch = await endings(conn, 40, MessageEffect("message:1", "hello"))
    bad = JobEffect("job:1", "plan", priority=9)
    batch[7], batch[31] = with_effects(batch[7], bad), with_effects(batch[31], bad)
    put(desk, *batch)
    told = await desk.told_of(40)
    assert [n for n, ending in enumerate(batch) if told[ending.job.id] == "failed"] == [7, 31]


# The server's fault: everybody waits, nobody fails.


async def test_a_full_disk_keeps_the_batch_until_there_is_room(
    desk: Desk, conn: Connection
) -> None:
    await execute(conn, FULL_DISK_AT_FIRST)
    batch = await endings(conn, 3, MessageEffect("message:1", "hello"))
    put(desk, *batch)
    assert await desk.told_of(3) == {ending.job.id: "done" for ending in batch}
    assert desk.retries == 2
    assert await fetch_val(conn, TEXTS) == ["hello"] * 3


@pytest.mark.direct("it looks for its own server processes")
@pytest.mark.usefixtures("patient_locks")
async def test_a_deadlock_keeps_the_batch(
    database_url: str, database: Database, conn: Connection
) -> None:
    """The finisher holds the job, somebody the outbox; each wants the other's, it came last."""
    name = await fetch_val(conn, "select current_database()")
    await conn.execute(
        SQL("alter database {} set deadlock_timeout = '20ms'").format(Identifier(name))
    )
    [ending] = await endings(
        conn, 1, MessageEffect("message:1", "a"), MemoryEffect("memory:1", "b", "note")
    )
    async with (
        Database(database_url, pool_min=1, pool_max=2) as fresh,
        at_work(Desk(fresh, conn)) as desk,
    ):
        async with database.connection() as gate, database.connection() as rival:
            await gate.execute("begin")
            await lock_table(gate, "chat_messages")
            await rival.execute("set deadlock_timeout = '1h'")
            await rival.execute("begin")
            await lock_table(rival, "embedding_outbox")
            put(desk, ending)
            finishing = await blocked_pid(conn)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(execute, rival, "update jobsworth.reactive_jobs set error = 'x'")

                async def rival_waits() -> bool:
                    rows = await fetch_all(conn, BLOCKED)
                    return {one["pid"] for one in rows} == {finishing, rival.info.backend_pid}

                await until(rival_waits)
                await gate.execute("commit")
            assert desk.told == []
            await rival.execute("commit")
            await rival.execute("reset deadlock_timeout")
        assert await desk.told_of(1) == {ending.job.id: "done"}
    assert desk.retries == 1
    assert await fetch_val(conn, TEXTS) == ["a"]


@pytest.mark.usefixtures("patient_locks")
@pytest.mark.parametrize("stop", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_canceled_statement_and_a_killed_connection_keep_the_batch(
    desk: Desk, database: Database, conn: Connection, stop: str
) -> None:
    batch = await endings(conn, 3, MessageEffect("message:1", "hello"))
    async with database.transaction() as holder:
        await lock_table(holder, "chat_messages")
        put(desk, *batch)
        pid = await blocked_pid(conn)
        await conn.execute(SQL("select {}(%s)").format(Identifier(stop)), [pid])
        await desk.retried()
        assert desk.told == []
        assert await states(conn, *(ending.job.id for ending in batch)) == [("running", None)] * 3
    assert await desk.told_of(3) == {ending.job.id: "done" for ending in batch}
    assert await fetch_val(conn, TEXTS) == ["hello"] * 3
