"""Unique keys over states and windows, what a call does that finds its key held, and debounce."""

from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest

from db.errors import Conflict, InvalidInput
from db.ids import uuidv7
from db.pool import Connection, Database, execute, fetch_val
from db.queue import effects, jobs, windows
from db.queue.effects import JobEffect, Origin
from db.queue.enqueue import Enqueued, enqueue, enqueue_sync
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob
from tests.db import protocol
from tests.db.protocol import blocking, claim, done, register, settle, take, tried_again

OVER: LiteralString = """
update jobsworth.unique_windows set held_until = now() - interval '1 second'
"""
START_AGAIN: LiteralString = """
update jobsworth.reactive_jobs set created_at = created_at - interval '1 hour'
"""


async def job(conn: Connection, job_id: UUID) -> jobs.Job:
    return await jobs.get_by_id(conn, job_id)


async def count(conn: Connection) -> int:
    return await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs")


def did(enqueued: Enqueued) -> str:
    return "created" if enqueued.created else "replaced" if enqueued.replaced else "returned"


async def test_a_key_held_until_the_start_lets_one_more_wait(conn: Connection) -> None:
    first = await enqueue(conn, "answer", unique_key="k", unique_until="start")
    assert did(await enqueue(conn, "answer", unique_key="k", unique_until="start")) == "returned"
    _, lease = await take(conn, await register(conn))

    second = await enqueue(conn, "answer", unique_key="k", unique_until="start")
    third = await enqueue(conn, "answer", unique_key="k")

    assert (did(second), second.job_id != first.job_id) == ("created", True)
    assert (did(third), third.job_id) == ("returned", second.job_id)
    # A retry of the first does not need the key, which the second one holds.
    await settle(conn, tried_again(lease))
    assert (await job(conn, first.job_id)).status == "waiting"
    await jobs.cancel(conn, first.job_id)
    assert await jobs.retry(conn, first.job_id) == "queued"


async def test_a_job_canceled_before_its_start_needs_its_key_again(conn: Connection) -> None:
    first = await enqueue(conn, "answer", unique_key="k", unique_until="start")
    await jobs.cancel(conn, first.job_id)
    await enqueue(conn, "answer", unique_key="k")
    with pytest.raises(Conflict, match="holds its unique key k"):
        await jobs.retry(conn, first.job_id)


async def test_a_window_outlives_its_job_and_the_jobs_row(conn: Connection) -> None:
    first = await enqueue(conn, "answer", unique_key="k", unique_seconds=3600)
    _, lease = await take(conn, await register(conn))
    await settle(conn, done(lease))
    calls = [
        await enqueue(conn, "answer", unique_key="k", unique_seconds=60),
        await enqueue(conn, "answer", unique_key="k"),
        await enqueue(conn, "answer", unique_key="k", unique_until="start"),
    ]
    assert [(did(one), one.job_id) for one in calls] == [("returned", first.job_id)] * 3

    await execute(conn, "delete from jobsworth.reactive_jobs")
    gone = await enqueue(conn, "answer", unique_key="k", unique_seconds=60)
    assert (did(gone), gone.job_id) == ("returned", first.job_id)
    assert await count(conn) == 0
    assert did(await enqueue(conn, "answer", unique_key="other", unique_seconds=60)) == "created"
    assert did(await enqueue(conn, "answer", unique_key="k", team_id=uuidv7())) == "created"

    await execute(conn, OVER)
    assert did(await enqueue(conn, "answer", unique_key="k", unique_seconds=60)) == "created"
    await execute(conn, OVER)
    assert await windows.forget(conn, 1) == 1
    assert await windows.forget(conn, 100) == 1
    assert await windows.forget(conn, 100) == 0


async def test_a_window_that_is_over_does_not_free_the_key_of_an_open_job(conn: Connection) -> None:
    first = await enqueue(conn, "answer", unique_key="k", unique_seconds=60)
    await execute(conn, OVER)
    again = await enqueue(conn, "answer", unique_key="k", unique_seconds=60)
    assert (did(again), again.job_id) == ("returned", first.job_id)


async def test_a_reject_names_the_holder_and_until_when(conn: Connection) -> None:
    holder = await enqueue(conn, "answer", unique_key="k")
    with pytest.raises(
        Conflict, match=rf"job {holder.job_id} \(queued\) holds the unique key k \("
    ):
        await enqueue(conn, "answer", unique_key="k", on_conflict="reject")
    windowed = await enqueue(conn, "answer", unique_key="w", unique_seconds=60)
    await jobs.cancel(conn, windowed.job_id)
    with pytest.raises(Conflict, match=rf"job {windowed.job_id} \(canceled\) .* key w until 20"):
        await enqueue(conn, "answer", unique_key="w", on_conflict="reject")
    assert await count(conn) == 2


async def test_a_waiting_job_takes_what_the_newest_call_says(conn: Connection) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    first = await enqueue(conn, "answer", {"n": 1}, unique_key="k", on_conflict="replace")
    second = await enqueue(
        conn, "answer", {"n": 2}, unique_key="k", on_conflict="replace", priority=1, run_at=later
    )
    found = await job(conn, first.job_id)
    assert (did(second), second.job_id) == ("replaced", first.job_id)
    assert (found.payload, found.priority, found.run_at) == ({"n": 2}, 1, later)
    assert (found.status, found.waiting_for) == ("waiting", "timer")

    third = await enqueue(conn, "answer", {"n": 3}, unique_key="k", on_conflict="replace")
    found = await job(conn, first.job_id)
    assert (did(third), found.payload, found.priority, found.status) == (
        *("replaced", {"n": 3}, 3, "queued"),
    )
    assert "replaced by call" in (await jobs.why(conn, first.job_id)).detail
    assert await count(conn) == 1


async def test_a_job_that_has_started_is_never_changed(conn: Connection) -> None:
    first = await enqueue(conn, "answer", {"n": 1}, unique_key="k", unique_until="end")
    _, lease = await take(conn, await register(conn))
    for _ in range(2):  # running, and in the backoff of its retry
        again = await enqueue(conn, "answer", {"n": 2}, unique_key="k", on_conflict="replace")
        assert (did(again), again.job_id) == ("returned", first.job_id)
        assert (await job(conn, first.job_id)).payload == {"n": 1}
        await settle(conn, tried_again(lease))

    newest = await enqueue(conn, "answer", {"n": 1}, unique_key="l", on_conflict="replace")
    taken, _ = await take(conn, await register(conn))
    assert taken.id == newest.job_id
    follows = await enqueue(conn, "answer", {"n": 2}, unique_key="l", on_conflict="replace")
    assert (did(follows), follows.job_id != newest.job_id) == ("created", True)


async def test_a_job_of_another_mode_is_not_changed(conn: Connection) -> None:
    await enqueue(conn, "answer", unique_key="k")
    with pytest.raises(Conflict, match="is a answer job: it cannot become a plan job"):
        await enqueue(conn, "plan", unique_key="k", on_conflict="replace")


async def test_a_replaced_job_that_is_put_off_frees_its_lane(conn: Connection) -> None:
    first = await enqueue(conn, "answer", unique_key="k", lane="L")
    second = await enqueue(conn, "answer", lane="L")
    await enqueue(conn, "answer", unique_key="k", lane="L", on_conflict="replace", delay=3600)
    assert [(await job(conn, one.job_id)).status for one in (first, second)] == [
        *("waiting", "queued"),
    ]
    assert not await protocol.breaches(conn)


async def test_a_debounced_job_waits_until_no_call_comes_at_most_so_long(conn: Connection) -> None:
    options: Any = {"unique_key": "k", "debounce_seconds": 600, "debounce_max_seconds": 3900}
    first = await enqueue(conn, "answer", {"n": 1}, **options)
    before = (await job(conn, first.job_id)).run_at
    second = await enqueue(conn, "answer", {"n": 2}, **options)
    after = (await job(conn, first.job_id)).run_at
    assert before
    assert after
    assert after > before
    assert (did(first), did(second)) == ("created", "replaced")

    # An hour after the first call, the longest wait is over in five minutes.
    await execute(conn, START_AGAIN)
    await enqueue(conn, "answer", {"n": 3}, **options)
    found = await job(conn, first.job_id)
    assert found.run_at == found.created_at + timedelta(seconds=3900)
    await execute(conn, START_AGAIN)
    last = await enqueue(conn, "answer", {"n": 4}, **options)
    found = await job(conn, first.job_id)
    assert (did(last), found.status, found.payload) == ("replaced", "queued", {"n": 4})
    # A job that is due keeps its place, and takes the payload.
    await enqueue(conn, "answer", {"n": 5}, unique_key="k", debounce_seconds=600)
    found = await job(conn, first.job_id)
    assert (found.status, found.payload) == ("queued", {"n": 5})
    assert await count(conn) == 1


async def test_a_replacement_whose_answer_was_lost_happens_once(conn: Connection) -> None:
    """The second try comes after the job has started, ended, or been changed by somebody else."""
    own: Any = {"unique_key": "k", "on_conflict": "replace", "id": uuidv7()}
    first = await enqueue(conn, "answer", {"n": 1}, unique_key="k", on_conflict="replace")
    assert did(await enqueue(conn, "answer", {"n": 2}, **own)) == "replaced"
    await enqueue(conn, "answer", {"n": 3}, unique_key="k", on_conflict="replace")

    assert did(await enqueue(conn, "answer", {"n": 2}, **own)) == "replaced"
    assert (await job(conn, first.job_id)).payload == {"n": 3}
    _, lease = await take(conn, await register(conn))
    again = await enqueue(conn, "answer", {"n": 2}, **own)
    assert (did(again), again.job_id, await count(conn)) == ("replaced", first.job_id, 1)
    await settle(conn, done(lease))
    again = await enqueue(conn, "answer", {"n": 2}, **own)
    assert (did(again), again.job_id, await count(conn)) == ("replaced", first.job_id, 1)


async def test_a_repeated_call_finds_its_own_window(conn: Connection) -> None:
    own = uuidv7()
    calls = [
        await enqueue(conn, "answer", unique_key="k", unique_seconds=60, id=own) for _ in range(2)
    ]
    await execute(conn, "delete from jobsworth.reactive_jobs")
    calls.append(await enqueue(conn, "answer", unique_key="k", unique_seconds=60, id=own))
    assert [(did(one), one.job_id) for one in calls] == [("created", own)] * 3
    assert await count(conn) == 0


async def test_a_replacement_that_meets_the_claim_of_its_job_begins_a_new_one(
    database: Database, conn: Connection
) -> None:
    first = await enqueue(conn, "answer", {"n": 1}, unique_key="k", on_conflict="replace")
    worker_id = await register(conn)
    async with database.connection() as other:
        second = enqueue(other, "answer", {"n": 2}, unique_key="k", on_conflict="replace")
        await conn.execute("begin")
        [taken] = (await claim(conn, worker_id, 1)).jobs
        async with blocking(database, other, second) as result:
            await conn.execute("commit")
    assert taken.id == first.job_id
    assert (did(result[0]), result[0].job_id != first.job_id) == ("created", True)
    assert (await job(conn, first.job_id)).payload == {"n": 1}


async def test_a_claim_passes_a_job_that_is_being_replaced(
    database: Database, conn: Connection
) -> None:
    await enqueue(conn, "answer", {"n": 1}, unique_key="k", on_conflict="replace")
    worker_id = await register(conn)
    async with database.connection() as other:
        async with conn.transaction():
            await enqueue(conn, "answer", {"n": 2}, unique_key="k", on_conflict="replace")
            assert not (await claim(other, worker_id, 1)).jobs
        [taken] = (await claim(other, worker_id, 1)).jobs
    assert taken.payload == {"n": 2}


async def test_of_two_replacements_at_once_the_later_one_stands(
    database: Database, conn: Connection
) -> None:
    first = await enqueue(conn, "answer", {"n": 1}, unique_key="k", on_conflict="replace")
    async with database.connection() as other:
        third = enqueue(other, "answer", {"n": 3}, unique_key="k", on_conflict="replace")
        await conn.execute("begin")
        await enqueue(conn, "answer", {"n": 2}, unique_key="k", on_conflict="replace")
        async with blocking(database, other, third) as result:
            await conn.execute("commit")
    assert did(result[0]) == "replaced"
    assert (await job(conn, first.job_id)).payload == {"n": 3}


async def test_a_replacement_that_is_rolled_back_changes_nothing(conn: Connection) -> None:
    first = await enqueue(conn, "answer", {"n": 1}, unique_key="k", on_conflict="replace")
    own: Any = {"unique_key": "k", "on_conflict": "replace", "id": uuidv7()}
    async with conn.transaction() as transaction:
        assert did(await enqueue(conn, "answer", {"n": 2}, **own)) == "replaced"
        raise psycopg.Rollback(transaction)
    assert (await job(conn, first.job_id)).payload == {"n": 1}
    assert did(await enqueue(conn, "answer", {"n": 2}, **own)) == "replaced"
    assert (await job(conn, first.job_id)).payload == {"n": 2}


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_of_two_calls_for_a_window_one_waits_for_the_other(
    database: Database, conn: Connection, ending: LiteralString
) -> None:
    async with database.connection() as other:
        second = enqueue(other, "answer", unique_key="k", unique_seconds=60)
        await conn.execute("begin")
        first = await enqueue(conn, "answer", unique_key="k", unique_seconds=60)
        async with blocking(database, other, second) as result:
            await conn.execute(ending)
    assert did(result[0]) == ("returned" if ending == "commit" else "created")
    assert (result[0].job_id == first.job_id) is (ending == "commit")
    assert await count(conn) == 1


@pytest.mark.parametrize("seconds", [None, 60])
async def test_a_window_that_begins_and_whose_job_ends_during_an_enqueue_is_seen(
    database: Database, conn: Connection, seconds: float | None
) -> None:
    """The second call waits in its insert; the first job has ended when it goes on."""
    worker_id = await register(conn)
    async with database.connection() as other:
        second = enqueue(other, "answer", unique_key="k", unique_seconds=seconds)
        await conn.execute("begin")
        first = await enqueue(conn, "answer", unique_key="k", unique_seconds=60)
        [taken] = (await claim(conn, worker_id, 1)).jobs
        await settle(conn, done(protocol.lease_of(taken, worker_id)))
        async with blocking(database, other, second) as result:
            await conn.execute("commit")
    assert (did(result[0]), result[0].job_id) == ("returned", first.job_id)
    assert await count(conn) == 1


async def test_enqueueing_waits_for_nobody_with_another_key(
    database: Database, conn: Connection
) -> None:
    options: Any = {"on_conflict": "replace", "unique_seconds": 60}
    await enqueue(conn, "answer", unique_key="a", **options)
    async with database.connection() as other, conn.transaction():
        await enqueue(conn, "answer", unique_key="a", **options)
        await execute(other, "set lock_timeout = '1ms'")
        assert did(await enqueue(other, "answer", unique_key="b", **options)) == "created"
        assert did(await enqueue(other, "answer", unique_key="b", **options)) == "replaced"
        await execute(other, "reset lock_timeout")


async def test_a_running_job_enqueues_its_successor_under_its_own_key(conn: Connection) -> None:
    lease = await protocol.running(conn, unique_key="k", unique_until="start")
    follow_up = JobEffect("job:1", "plan", unique_key="k", unique_until="start")
    await effects.write(conn, [(Origin(lease.job_id), follow_up)])
    assert await count(conn) == 2
    await enqueue(conn, "answer", unique_key="w", unique_seconds=60)
    await effects.write(conn, [(Origin(lease.job_id), JobEffect("job:2", "plan", unique_key="w"))])
    assert await count(conn) == 3


async def test_many_jobs_follow_the_same_rules(conn: Connection) -> None:
    held = await enqueue(conn, "answer", {"n": 0}, unique_key="w", unique_seconds=60)
    await jobs.cancel(conn, held.job_id)
    known = uuidv7()
    await enqueue(conn, "answer", id=known)
    many = [
        NewJob("answer", {"n": 1}, unique_key="k", debounce_seconds=60),
        NewJob("answer", {"n": 2}, unique_key="k", debounce_seconds=60),
        NewJob("answer", unique_key="w", unique_until="start"),
        NewJob("answer", id=known, unique_key="x", unique_seconds=1),
        NewJob("answer"),
    ]
    assert await enqueue_many(conn, many) == 2
    debounced = "select payload from jobsworth.reactive_jobs where unique_key = 'k'"
    assert await fetch_val(conn, debounced) == {"n": 2}
    assert await enqueue_many(conn, [NewJob("answer", unique_key="w")]) == 0
    with pytest.raises(Conflict, match="holds the unique key k"):
        await enqueue_many(conn, [NewJob("answer", unique_key="k", on_conflict="reject")])
    start = [NewJob("answer", {"n": n}, unique_key="s", unique_until="start") for n in range(2)]
    assert await enqueue_many(conn, start) == 1


async def test_plain_sql_holds_keys_and_asks_what_a_call_did(
    conn: Connection, database_url: str
) -> None:
    insert: LiteralString = """
    insert into jobsworth.reactive_jobs (mode, unique_key, unique_until)
    values ('answer', 'k', 'start')
    """
    await execute(conn, insert)
    with pytest.raises(Exception, match="jobs_unique_key"):
        await execute(conn, insert)
    await claim(conn, await register(conn), 1)
    await execute(conn, insert)

    query: LiteralString = """
    select jobsworth.enqueue('answer', '{"n": 1}', unique_key => 'k', debounce_seconds => 5,
      id => %s)
    """
    call = uuidv7()
    job_id = await fetch_val(conn, query, [call])
    assert await fetch_val(conn, "select jobsworth.enqueue_outcome(%s)", [call]) == "replaced"
    assert await fetch_val(conn, "select jobsworth.enqueue_outcome(%s)", [job_id]) == "created"
    assert await fetch_val(conn, "select jobsworth.enqueue_outcome(%s)", [uuidv7()]) == "returned"
    with psycopg.connect(database_url) as plain:
        again = enqueue_sync(plain, "answer", unique_key="k", on_conflict="replace")
    assert (did(again), again.job_id) == ("replaced", job_id)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"unique_until": "start"}, "without unique_key|need a unique_key"),
    ({"unique_key": "k", "unique_until": "never"}, "unique_until 'never'|unique_until is 'never'"),
    ({"unique_key": "k", "on_conflict": "shrug"}, "on_conflict 'shrug'|on_conflict is 'shrug'"),
    *(
        ({"unique_key": "k", name: value}, rf"{name} \S+ is not")
        for name in ("unique_seconds", "debounce_seconds")
        for value in (0, -1, float("nan"), float("inf"), 4e9)
    ),
    ({"unique_key": "k", "debounce_max_seconds": 5}, "without debounce_seconds"),
    (
        {"unique_key": "k", "debounce_seconds": 5, "debounce_max_seconds": 1},
        "debounce_max_seconds 1",
    ),
    ({"unique_key": "k", "debounce_seconds": 5, "run_at": datetime.now(UTC)}, "with run_at"),
    ({"unique_key": "k", "debounce_seconds": 5, "delay": timedelta(1)}, "with run_at or delay"),
    ({"unique_key": "k", "debounce_seconds": 5, "on_conflict": "reject"}, "with on_conflict"),
    ({"unique_key": "k", "debounce_seconds": 5, "unique_until": "end"}, "with on_conflict or"),
    ({"unique_key": "k", "on_conflict": "replace", "after": [uuidv7()]}, "after is given together"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_are_refused_before_anything_is_sent(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        NewJob("answer", **options)


async def test_wrong_options_are_refused_by_sql_too(conn: Connection) -> None:
    needed = (await enqueue(conn, "answer")).job_id
    for wrong, message in WRONG:
        options: dict[str, Any] = {**wrong, "after": [needed]} if "after" in wrong else wrong
        arguments = ", ".join(f"{name} => %({name})s" for name in options)
        query: Any = f"select jobsworth.enqueue('answer', {arguments})"
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
            await conn.execute(query, options)
