"""Enqueueing many jobs by COPY: all or none, each option, what is there already, bounded memory."""

import gc
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import psycopg
import pytest

from db.errors import InvalidInput, Refused
from db.ids import uuidv7
from db.migrate import migrate
from db.pool import Connection, Database, fetch_all, fetch_val
from db.queue import jobs
from db.queue.enqueue_many import BLOCK_JOBS_MAX, GROUPED_JOBS_MAX
from db.queue.jobs import NewJob, enqueue, enqueue_many
from tests.db.racing import until_blocked
from tests.support import direct_url

pytestmark = pytest.mark.both

TRACE_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# What the text format of COPY, JSON and SQL each want escaped.
AWKWARD = "tab\t newline\n return\r back\\slash \\N \\. quote\" ' € 🦀 \u2028 \x01"


async def count(conn: Connection) -> int:
    return await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs")


async def test_jobs_arrive_in_their_order(conn: Connection) -> None:
    many = BLOCK_JOBS_MAX * 3 + 7
    assert await enqueue_many(conn, (NewJob("answer", {"n": n}) for n in range(many))) == many

    rows = await fetch_all(
        conn,
        """
        select (j.payload ->> 'n')::int as n from jobsworth.reactive_jobs j
        where j.status = 'queued' order by j.queue, j.priority, j.position
        """,
    )
    assert [row["n"] for row in rows] == list(range(many))


async def test_no_jobs_are_none(conn: Connection) -> None:
    assert await enqueue_many(conn, []) == 0


@pytest.mark.parametrize("unique_key", [None, "k"], ids=["direct", "staged"])
async def test_every_plain_option_reaches_the_row(conn: Connection, unique_key: str | None) -> None:
    wanted: dict[str, Any] = {
        "queue": "research",
        "priority": 1,
        "thread_id": uuid4(),
        "trigger_message_id": uuid4(),
        "lane": "L",
        "failures_max": 7,
        "crashes_max": 2,
        "timeout_seconds": 1.5,
        "trace_parent": TRACE_PARENT,
        "request_id": "order-17",
        "expires_at": datetime(2090, 1, 2, 3, 4, 6, tzinfo=UTC),
        "team_id": uuid4(),
        "agent_id": uuid4(),
        "holds_lane": True,
        "run_at": datetime(2090, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "unique_key": unique_key,
    }
    assert await enqueue_many(conn, [NewJob("answer", {"n": 1}, **wanted)]) == 1

    (job,) = await jobs.list_jobs(conn)
    assert {name: getattr(job, name) for name in wanted} == wanted
    assert (job.mode, job.payload, job.waiting_for) == ("answer", {"n": 1}, "timer")


@pytest.mark.parametrize("unique_key", [None, AWKWARD], ids=["direct", "staged"])
async def test_awkward_text_arrives_as_it_was(conn: Connection, unique_key: str | None) -> None:
    job = NewJob(AWKWARD, {AWKWARD: AWKWARD}, queue=AWKWARD, lane=AWKWARD, unique_key=unique_key)
    await enqueue_many(conn, [job])

    (row,) = await jobs.list_jobs(conn)
    assert (row.mode, row.queue, row.lane, row.unique_key) == (
        AWKWARD,
        AWKWARD,
        AWKWARD,
        unique_key,
    )
    assert row.payload == {AWKWARD: AWKWARD}


async def test_any_client_encoding_will_do(database_url: str, conn: Connection) -> None:
    async with await psycopg.AsyncConnection.connect(
        database_url, client_encoding="latin1"
    ) as foreign:
        await enqueue_many(foreign, [NewJob("answer", {"crab": "🦀"})])
    (job,) = await jobs.list_jobs(conn)
    assert job.payload == {"crab": "🦀"}


async def test_jobs_of_one_lane_wait_for_the_first(conn: Connection) -> None:
    await enqueue_many(conn, [NewJob("answer", {"n": n}, lane="L") for n in range(5)])

    found = sorted(await jobs.list_jobs(conn), key=lambda job: job.payload["n"])
    assert [job.waiting_for for job in found] == [None, *["lane"] * 4]


async def test_delayed_jobs_wait_for_their_timer(conn: Connection) -> None:
    await enqueue_many(
        conn,
        [NewJob("answer", delay=60), NewJob("answer", delay=timedelta(minutes=1, seconds=0.5))],
    )
    for job in await jobs.list_jobs(conn):
        assert job.waiting_for == "timer"
        assert job.run_at is not None
        assert 30 < (job.run_at - datetime.now(UTC)).total_seconds() < 62


async def test_jobs_with_taken_unique_keys_are_left_out(conn: Connection) -> None:
    holder = await enqueue(conn, "answer", {"n": 0}, unique_key="1")
    created = await enqueue_many(
        conn, (NewJob("answer", {"n": n}, unique_key=str(n % 3)) for n in range(1, 10))
    )
    assert created == 2
    found = {job.unique_key: job for job in await jobs.list_jobs(conn)}
    assert found["1"].id == holder.job_id
    assert {key: job.payload["n"] for key, job in found.items()} == {"0": 3, "1": 0, "2": 2}


async def test_keyed_and_plain_jobs_may_be_mixed(conn: Connection) -> None:
    many = GROUPED_JOBS_MAX + 1_000
    mixed = [
        NewJob(
            "answer",
            {"n": n},
            unique_key="k" if n in (10, 20, many - 5) else None,
            timeout_seconds=7 if n % 3 == 0 else None,
        )
        for n in range(many)
    ]

    assert await enqueue_many(conn, mixed) == many - 2
    found = await fetch_all(
        conn,
        """
        select (j.payload ->> 'n')::int as n, j.timeout_seconds as seconds
        from jobsworth.reactive_jobs j
        order by j.position
        """,
    )
    assert [row["n"] for row in found] == [n for n in range(many) if n not in (20, many - 5)]
    assert all((row["seconds"] == 7) == (row["n"] % 3 == 0) for row in found)


async def test_repeated_ids_are_left_out(conn: Connection) -> None:
    many = [NewJob("answer", id=uuidv7()) for _ in range(3)]
    assert await enqueue_many(conn, many[:2]) == 2
    assert await enqueue_many(conn, many) == 1
    assert {job.id for job in await jobs.list_jobs(conn)} == {job.id for job in many}


async def test_a_job_may_come_after_earlier_ones(conn: Connection) -> None:
    there = await enqueue(conn, "answer")
    first = NewJob("plan", id=uuidv7())
    second = NewJob("execute", id=uuidv7(), after=[first.id or uuid4(), there.job_id])
    third = NewJob("execute", after=[second.id or uuid4()])
    assert await enqueue_many(conn, [first, second, third]) == 3

    for job in await jobs.list_jobs(conn, mode="execute"):
        assert (job.status, job.waiting_for) == ("waiting", "parents")
    edges = await fetch_all(
        conn, "select needs_job_id from jobsworth.job_edges where job_id = %s", [second.id]
    )
    assert {row["needs_job_id"] for row in edges} == {first.id, there.job_id}


@pytest.mark.usefixtures("unguarded")
async def test_a_job_after_done_ones_is_queued_at_once(conn: Connection) -> None:
    done = await enqueue(conn, "answer")
    await conn.execute("update jobsworth.reactive_jobs set status = 'done', finished_at = now()")
    await enqueue_many(conn, [NewJob("plan", after=[done.job_id])])

    assert [job.status for job in await jobs.list_jobs(conn, mode="plan")] == ["queued"]


@pytest.mark.parametrize("where", ["nowhere", "later", "left out"])
async def test_a_job_after_one_that_was_not_created_refuses_all(
    conn: Connection, where: str
) -> None:
    await enqueue(conn, "answer", unique_key="k")
    need = NewJob("plan", id=uuidv7(), unique_key="k" if where == "left out" else None)
    child = NewJob("execute", after=[need.id or uuid4()])
    many = {"nowhere": [child], "later": [child, need], "left out": [need, child]}[where]
    with pytest.raises(InvalidInput, match=f"execute job comes after job {need.id}, which was not"):
        await enqueue_many(conn, many)
    assert await count(conn) == 1


async def test_one_bad_job_refuses_all(conn: Connection) -> None:
    def some() -> Iterator[NewJob]:
        for n in range(BLOCK_JOBS_MAX * 2):
            yield NewJob("answer", {"n": n})
        yield NewJob("answer", {"text": "x" * 10_000_000})

    with pytest.raises(InvalidInput, match="10,000,011 bytes; at most 1,048,576"):
        await enqueue_many(conn, some())
    assert await count(conn) == 0


async def test_a_payload_too_large_as_jsonb_refuses_all_without_showing_it(
    conn: Connection,
) -> None:
    with pytest.raises(InvalidInput, match="more than 1,048,576 bytes once it is jsonb") as caught:
        await enqueue_many(conn, [NewJob("answer"), NewJob("answer", {"secret": [1] * 500_000})])
    assert "secret" not in str(caught.value)
    assert await count(conn) == 0


async def test_a_failing_generator_leaves_nothing_and_its_own_error(conn: Connection) -> None:
    def some() -> Iterator[NewJob]:
        yield from (NewJob("answer") for _ in range(BLOCK_JOBS_MAX))
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        await enqueue_many(conn, some())
    assert await count(conn) == 0
    assert await enqueue_many(conn, [NewJob("answer")]) == 1


async def test_a_failed_call_leaves_the_callers_transaction_usable(conn: Connection) -> None:
    async with conn.transaction():
        await enqueue(conn, "answer")
        with pytest.raises(InvalidInput):
            await enqueue_many(
                conn, [NewJob("plan", unique_key="k"), NewJob("plan", after=[uuid4()])]
            )
        assert await enqueue_many(conn, [NewJob("plan", unique_key="k")]) == 1
        assert await enqueue_many(conn, [NewJob("plan", unique_key="l")]) == 1
    assert await count(conn) == 3


async def test_a_rolled_back_transaction_leaves_nothing(conn: Connection) -> None:
    async with conn.transaction(force_rollback=True):
        await enqueue_many(conn, [NewJob("answer"), NewJob("answer", unique_key="k")])
        assert await count(conn) == 2
    assert await count(conn) == 0


async def test_a_key_whose_holder_ends_at_that_moment_is_taken_anew(
    database: Database, conn: Connection
) -> None:
    created: list[int] = []
    holder = await enqueue(conn, "answer", unique_key="k")

    async def second(other: Connection) -> None:
        created.append(await enqueue_many(other, [NewJob("answer", unique_key="k")]))

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await jobs.cancel(conn, holder.job_id)
        tasks.start_soon(second, other)
        await until_blocked(database, other)
    assert created == [1]


async def test_jobs_go_to_the_named_schema(database_url: str, conn: Connection) -> None:
    migrate(direct_url(database_url), "second")
    async with await psycopg.AsyncConnection.connect(database_url) as foreign:
        many = [NewJob("answer"), NewJob("answer", unique_key="k")]
        assert await enqueue_many(foreign, many, schema="second") == 2
    assert await count(conn) == 0
    assert await fetch_val(conn, "select count(*) from second.reactive_jobs") == 2


async def test_memory_does_not_grow_with_the_number_of_jobs(conn: Connection) -> None:
    async def peak(many: int) -> int:
        gc.collect()
        tracemalloc.start()
        try:
            await enqueue_many(conn, (NewJob("answer", {"text": "x" * 2_000}) for _ in range(many)))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = await peak(200)
    assert await peak(1_000) < few * 1.5


async def test_a_database_that_refuses_says_which_constraint(conn: Connection) -> None:
    await conn.execute(
        "alter table jobsworth.reactive_jobs add constraint no_fridays check (mode <> 'friday')"
    )
    with pytest.raises(Refused, match="no_fridays"):
        await enqueue_many(conn, [NewJob("friday")])
