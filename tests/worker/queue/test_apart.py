"""A job that cannot be committed costs itself at most: its neighbours finish meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import LiteralString

import pytest
from psycopg.sql import SQL, Identifier, Literal
from structlog.testing import capture_logs

from db.pool import Connection, Database, execute, fetch_val
from db.queue.effects import ArtifactEffect, Effect, JobEffect, MessageEffect
from db.server.embedded import Embedded
from tests.db.protocol import row, states
from tests.pgbouncer import as_user
from tests.support import until
from tests.worker.queue.finishing import TEXTS, Desk, at_work, endings, put
from tests.worker.queue.finishing import desk as desk
from worker import events
from worker.queue import apart, ended
from worker.queue.ended import BATCH_BYTES_MAX, EndedAttempt, EndedAttempts
from worker.queue.transition import Transition

pytestmark = pytest.mark.both

LOCK_THREAD: LiteralString = "select id from jobsworth.chat_threads where id = %(id)s for update"
OTHER_THREAD: LiteralString = """
insert into jobsworth.chat_threads (platform, chat_id) values ('test', 'other') returning id
"""
TAKE_KEY: LiteralString = """
insert into jobsworth.reactive_jobs (mode, unique_key) values ('answer', 'taken')
"""
REFUSE: LiteralString = """
create function refuse() returns trigger language plpgsql as $$
begin
  if new.id = {} {} then
    raise exception 'not this one' using errcode = {};
  end if;
  return null;
end $$;
create trigger refuse after update on jobsworth.reactive_jobs
  for each row execute function refuse()
"""
REFUSE_FAILURES: LiteralString = """
create or replace function refuse() returns trigger language plpgsql as $$
begin
  if new.status = 'failed' then
    raise exception 'no job fails here';
  end if;
  return null;
end $$
"""
ARTIFACTS_ARE_SLOW: LiteralString = """
create function dawdle() returns trigger language plpgsql as $$
begin
  perform pg_sleep(0.5);
  return new;
end $$;
create trigger dawdle before insert on jobsworth.artifacts
  for each row execute function dawdle()
"""
ARTIFACTS_ARE_CANCELED: LiteralString = """
create function give_up() returns trigger language plpgsql as $$
begin
  raise exception 'canceling statement due to statement timeout' using errcode = '57014';
end $$;
create trigger give_up before insert on jobsworth.artifacts
  for each row execute function give_up()
"""


def done_with(ended: EndedAttempt, *effects: Effect) -> EndedAttempt:
    return ended._replace(transition=Transition.done("null", effects))


async def refuse(
    conn: Connection, ending: EndedAttempt, when: LiteralString = "", code: str = "P0001"
) -> None:
    """Have a trigger of a user refuse each update of this job."""
    statement = SQL(REFUSE).format(Literal(str(ending.job.id)), SQL(when), Literal(code))
    await conn.execute(statement)


# Locks.


async def test_a_job_that_speaks_in_a_locked_thread_waits_alone(
    desk: Desk, database: Database, conn: Connection
) -> None:
    batch = await endings(conn, 12, MessageEffect("message:1", "hello"))
    thread_id = await fetch_val(conn, OTHER_THREAD)
    said = MessageEffect("message:1", "at last", thread_id=thread_id)
    waiting = [done_with(ending, said) for ending in batch[::4]]
    batch[::4] = waiting
    async with database.transaction() as holder:
        await execute(holder, LOCK_THREAD, {"id": thread_id})
        put(desk, *batch)
        told = await desk.told_of(9)
        assert not told.keys() & {ending.job.id for ending in waiting}
        # What ends later is not kept either.
        [later] = await endings(conn, 1)
        put(desk, later)
        await desk.told_of(10)
    assert set((await desk.told_of(13)).values()) == {"done"}
    assert (await fetch_val(conn, TEXTS)).count("at last") == 3


async def test_a_job_whose_follow_up_needs_a_key_that_is_being_taken_waits_alone(
    desk: Desk, database: Database, conn: Connection
) -> None:
    batch = await endings(conn, 3, MessageEffect("message:1", "hello"))
    batch[1] = done_with(batch[1], JobEffect("job:1", "plan", unique_key="taken"))
    async with database.transaction() as holder:
        await execute(holder, TAKE_KEY)
        put(desk, *batch)
        assert batch[1].job.id not in await desk.told_of(2)
    assert (await desk.told_of(3))[batch[1].job.id] == "done"
    jobs = "select count(*) from jobsworth.reactive_jobs where unique_key = 'taken'"
    assert await fetch_val(conn, jobs) == 1


# Refusals.


async def test_a_trigger_that_refuses_the_success_of_one_job_fails_it_alone(
    desk: Desk, conn: Connection
) -> None:
    guilty, fine = await endings(conn, 2)
    await refuse(conn, guilty, "and new.status = 'done'")
    put(desk, guilty, fine)
    assert await desk.told_of(2) == {guilty.job.id: "failed", fine.job.id: "done"}
    assert "not this one" in (await row(conn, guilty.job.id))["error"]


async def test_a_job_whose_failure_is_refused_as_well_waits_and_an_error_is_logged(
    desk: Desk, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "LOUD_AFTER_SECONDS", 1.0)  # the others have ended long before
    monkeypatch.setattr(apart, "log", apart.get_logger())
    guilty, *fine = await endings(conn, 4, MessageEffect("message:1", "hello"))
    await refuse(conn, guilty)
    with capture_logs() as logs:
        put(desk, guilty, *fine)
        await desk.told_of(3)

        async def loud() -> bool:
            return any(line["event"] == events.ENDINGS_DELAYED for line in logs)

        await until(loud)
    [said] = [line for line in logs if line["event"] == events.ENDINGS_DELAYED]
    assert (said["log_level"], said["jobs"]) == ("error", 1)
    assert "not this one" in str(said["error"])
    assert await states(conn, guilty.job.id) == [("running", None)]
    [later] = await endings(conn, 1)
    put(desk, later)
    await desk.told_of(4)
    await execute(conn, REFUSE_FAILURES)
    # It ends as it would have: the refusal was not the fault of what it wrote.
    assert (await desk.told_of(5))[guilty.job.id] == "done"


@pytest.mark.parametrize(
    ("away", "back"),
    [
        (
            "revoke update on all tables in schema jobsworth from {}",
            "grant update on all tables in schema jobsworth to {}",
        ),
        ("alter schema jobsworth rename to gone", "alter schema gone rename to jobsworth"),
        (
            "alter function jobsworth.finish rename to finish_2",
            "alter function jobsworth.finish_2 rename to finish",
        ),
    ],
    ids=["right", "schema", "function"],
)
async def test_what_is_missing_for_a_while_fails_no_job(
    somebody: Desk, conn: Connection, away: LiteralString, back: LiteralString
) -> None:
    batch = await endings(conn, 3, MessageEffect("message:1", "hello"))
    role = Identifier(_role(conn))
    await conn.execute(SQL(away).format(role))
    with capture_logs() as logs:
        put(somebody, *batch)

        async def refused_alone() -> bool:
            return len(logs) > 0 and len(somebody.finisher._apart) == 3  # pyright: ignore[reportPrivateUsage]

        await until(refused_alone)
    await conn.execute(SQL(back).format(role))
    assert await somebody.told_of(3) == {ending.job.id: "done" for ending in batch}
    assert await fetch_val(conn, TEXTS) == ["hello"] * 3


@pytest.fixture
async def somebody(database_url: str, server: Embedded, conn: Connection) -> AsyncGenerator[Desk]:
    """A finisher whose role owns nothing."""
    role = Identifier(_role(conn))
    for statement in (
        "create role {} login",
        "grant usage on schema jobsworth to {}",
        "grant all on all tables in schema jobsworth to {}",
        "grant all on all sequences in schema jobsworth to {}",
    ):
        await conn.execute(SQL(statement).format(role))
    await execute(conn, "select jobsworth.see_all_rows(%(role)s)", {"role": _role(conn)})
    try:
        with as_user(database_url, server, _role(conn)) as url:
            async with (
                Database(url, pool_min=1, pool_max=4) as database,
                at_work(Desk(database, conn)) as desk,
            ):
                yield desk
    finally:
        await conn.execute(SQL("drop owned by {}").format(role))
        await conn.execute(SQL("drop role {}").format(role))


def _role(conn: Connection) -> str:
    """Roles belong to the server, so this one has the name of the test's database."""
    return f"somebody_in_{conn.info.dbname}"


# Size and time.


async def test_a_time_limit_of_the_database_is_not_in_the_way_of_a_large_file(
    database_url: str, conn: Connection
) -> None:
    name = Identifier(await fetch_val(conn, "select current_database()"))
    await conn.execute(SQL("alter database {} set statement_timeout = '300ms'").format(name))
    await execute(conn, ARTIFACTS_ARE_SLOW)
    file = ArtifactEffect("artifact:1", "large.bin", "application/octet-stream", bytes(20_000_000))
    large, fine = await endings(conn, 2)
    async with (
        Database(database_url, pool_min=1, pool_max=3) as fresh,
        at_work(Desk(fresh, conn)) as desk,
    ):
        put(desk, done_with(large, file), fine)
        assert await desk.told_of(2) == {large.job.id: "done", fine.job.id: "done"}


async def test_a_job_that_can_never_be_committed_in_time_fails_alone(
    desk: Desk, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "SUSPECT_SECONDS", 0.5)
    await execute(conn, ARTIFACTS_ARE_CANCELED)
    guilty, *fine = await endings(conn, 4, MessageEffect("message:1", "hello"))
    file = ArtifactEffect("artifact:1", "large.bin", "application/octet-stream", b"large")
    put(desk, done_with(guilty, file), *fine)
    told = await desk.told_of(4)
    assert told == {guilty.job.id: "failed"} | {ending.job.id: "done" for ending in fine}
    assert "statement timeout" in (await row(conn, guilty.job.id))["error"]


async def test_what_is_large_goes_in_batches_of_its_own(conn: Connection) -> None:
    small, large = '"s"', '"' + "x" * (BATCH_BYTES_MAX // 2) + '"'
    results = [small, large, small, large, large * 3, small]
    ends = EndedAttempts()
    for ending, result in zip(await endings(conn, 6), results, strict=True):
        ends.put(ending._replace(transition=Transition.done(result)))
    batches: list[list[int]] = []
    while ends:
        batches.append([results.index(str(one.transition.result)) for one in ends.take()])
    assert batches == [[0, 1, 0], [1], [4], [0]]


async def test_results_that_are_too_large_together_are_all_committed(
    desk: Desk, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message to the server has less than 1 GiB; here the bound is set lower, not the sizes."""
    monkeypatch.setattr(ended, "BATCH_BYTES_MAX", 1_000_000)
    batch = await endings(conn, 6)
    result = '"' + "x" * 600_000 + '"'
    put(desk, *(one._replace(transition=Transition.done(result)) for one in batch))
    assert await desk.told_of(6) == {ending.job.id: "done" for ending in batch}
    transactions = "select count(distinct xmin::text) from jobsworth.reactive_jobs"
    assert await fetch_val(conn, transactions) == 6
