"""Many jobs at once: what the function for one job does, for exactly those of the filter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError

from db.bulk import batches
from db.bulk.batches import BACKWARD, FORWARD, PAGE_COLUMNS, Applied, Change, Operation, Page
from db.bulk.filters import JobFilter
from db.errors import InvalidInput
from db.limits import job_limits
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs
from db.queue.enqueue_many import enqueue_many
from db.queue.jobs import JobStatus
from db.queue.new_job import NewJob
from tests.db.protocol import BREACHES, add, claim, register, row, state
from tests.db.queue.job_rows import put

AWKWARD = 'it\'s \\ "%s" %(mode)s; drop table x -- _'
EVERY = JobFilter(before=datetime(2100, 1, 1, tzinfo=UTC))


async def of_each_state(conn: Connection) -> dict[str, UUID]:
    """A job of each state that an operation may meet."""
    found = {"queued": await add(conn), "timed": await add(conn, delay=3600)}
    for status in ("running", "done", "failed", "canceled"):
        found[status] = await add(conn)
        await put(conn, found[status], status, "as it was")
    found["parents"] = await add(conn, after=[found["queued"]])
    return found


def ids_of(page: Page) -> list[UUID]:
    return [UUID(one) for one in page.ids.strip("{}").split(",") if one]


async def all_of(
    conn: Connection, database: Database, change: Change, which: JobFilter, most: int = 100
) -> Applied:
    """Every page, each in a transaction."""
    applied, refused, held, after = 0, dict[str, int](), list[UUID](), None
    while True:
        async with database.transaction() as transaction:
            up_to = datetime.now(UTC) + timedelta(days=1)
            page = await batches.page(transaction, change, which, after, up_to, most)
            done = await batches.apply(transaction, change, which, page.ids)
        applied += done.applied
        held += done.held
        for reason, n in done.refused.items():
            refused[reason] = refused.get(reason, 0) + n
        if (after := page.next) is None:
            return Applied(applied=applied, refused=refused, held=held)


@pytest.mark.parametrize("operation", list(Operation))
async def test_a_preview_says_what_is_done_and_why_the_rest_is_not(
    conn: Connection, database: Database, operation: Operation
) -> None:
    """In pages of two too."""
    found = await of_each_state(conn)
    change = Change(
        operation,
        queue="other" if operation is Operation.MOVE else None,
        priority=1 if operation is Operation.REPRIORITIZE else None,
    )
    expected = {
        Operation.CANCEL: {"queued", "timed", "running", "parents"},
        Operation.RETRY: {"timed", "failed", "canceled"},
        Operation.RUN_NOW: {"timed"},
        Operation.MOVE: {"queued", "timed", "parents"},
        Operation.REPRIORITIZE: {"queued", "timed", "parents"},
    }[operation]
    seen = await batches.preview(conn, change, EVERY)
    assert {job.id for job in seen.examples} == {found[name] for name in expected}
    assert seen.jobs == len(expected)
    done = await all_of(conn, database, change, EVERY, most=2)
    # A cancel of the newest first: the one that needs another is canceled by its own.
    assert (done.applied, done.refused, done.held) == (seen.jobs, seen.refused, [])
    assert sum(seen.refused.values()) + seen.jobs == len(found)
    after = {name: await row(conn, job_id) for name, job_id in found.items()}
    assert (after["queued"]["status"] == "canceled") == (operation is Operation.CANCEL)
    assert after["done"]["status"] == "done"
    if operation is Operation.CANCEL:
        assert after["running"]["cancel_requested"]
        assert after["timed"]["error"] == "canceled by a bulk operation"
    if operation in (Operation.RETRY, Operation.RUN_NOW):
        assert after["timed"]["status"] == "queued"
    if operation is Operation.RETRY:
        assert (after["failed"]["status"], after["failed"]["failures"]) == ("queued", 0)
    if operation is Operation.MOVE:
        assert {after[name]["queue"] for name in expected} == {"other"}
        assert after["running"]["queue"] == "default"
    assert await fetch_val(conn, f"select count(*) from ({BREACHES}) b") == 0


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ({"mode": AWKWARD}, {}),
        ({"queue": "q"}, {}),
        ({"lane": AWKWARD}, {}),
        ({"unique_key": AWKWARD}, {}),
        ({"request_id": "r"}, {}),
        ({"thread_id": uuid4()}, {}),
        ({"team_id": uuid4()}, {}),
        ({"payload": {"a": {"b": AWKWARD}}}, {"payload": {"a": {"b": "other"}}}),
    ],
)
async def test_each_part_of_a_filter_finds_its_own(
    conn: Connection, given: dict[str, Any], other: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"mode": "answer", **given}
    if "payload" in options:
        options["payload"] = {**options["payload"], "more": 1}
    others: dict[str, Any] = {"mode": "answer", **other}
    mine = await add(conn, **options)
    await add(conn, **others)
    seen = await batches.preview(conn, Change(Operation.CANCEL), JobFilter(**given))
    assert [job.id for job in seen.examples] == [mine]


async def test_times_count_from_the_end_and_errors_in_any_case(conn: Connection) -> None:
    old, new = await add(conn), await add(conn)
    for job_id in (old, new):
        await put(conn, job_id, "failed", "HTTP 429: Rate Limit (100%)")
    await execute(
        conn,
        "update jobsworth.reactive_jobs set finished_at = now() - interval '2 hours', "
        "created_at = now() - interval '2 hours' where id = %(id)s",
        {"id": old},
    )
    since = datetime.now(UTC) - timedelta(hours=1)
    for which, expected in (
        (JobFilter(since=since, error="rate limit (100%"), new),
        (JobFilter(before=since, error="429"), old),
    ):
        seen = await batches.preview(conn, Change(Operation.RETRY), which)
        assert [job.id for job in seen.examples] == [expected]
    nothing = await batches.preview(conn, Change(Operation.RETRY), JobFilter(error="rate_limit"))
    assert (nothing.jobs, nothing.refused) == (0, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "the filter is empty"),
        ({"payload": {}}, "the filter is empty"),
        ({"mode": " "}, "mode is empty"),
        ({"status": "finished"}, "Input should be"),
        ({"state": "failed"}, "Extra inputs are not permitted"),
        ({"since": "2026-01-01T00:00Z", "before": "2025-01-01T00:00Z"}, "no job matches"),
    ],
)
def test_a_filter_that_says_nothing_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobFilter.model_validate(given)


@pytest.mark.parametrize(
    "change",
    [
        Change(Operation.MOVE),
        Change(Operation.MOVE, queue=" "),
        Change(Operation.REPRIORITIZE, priority=5),
        Change(Operation.REPRIORITIZE),
        Change(Operation.CANCEL, queue="other"),
    ],
)
def test_an_operation_without_its_value_is_refused(change: Change) -> None:
    with pytest.raises(InvalidInput):
        change.check()


async def test_of_jobs_with_one_unique_key_one_runs_again(
    conn: Connection, database: Database
) -> None:
    """None while an open job has it; a job whose child's key is taken is refused alone."""
    twins: list[UUID] = []
    for _ in range(3):
        twins.append(await add(conn, unique_key="k"))
        await put(conn, twins[-1], "failed", "no")
    taken = await add(conn, unique_key="taken")
    await put(conn, taken, "failed", "no")
    holder = await add(conn, unique_key="taken")
    parent, other = await add(conn), await add(conn)
    child = await add(conn, unique_key="child")
    await put(conn, child, "failed", "no")
    await execute(
        conn,
        "update jobsworth.reactive_jobs set parent_id = %(parent)s, is_child = true "
        "where id = %(child)s",
        {"parent": parent, "child": child},
    )
    await add(conn, mode="other", unique_key="child")
    for job_id in (parent, other):
        await put(conn, job_id, "failed", "no")

    done = await all_of(
        conn, database, Change(Operation.RETRY), JobFilter(status=jobs.JobStatus.FAILED)
    )
    assert done.applied == 2
    assert done.refused == {"needs a unique key that another job has": 5}
    assert [await state(conn, job_id) for job_id in (twins[0], other)] == [("queued", None)] * 2
    assert (await state(conn, parent))[0] == "failed"
    assert (await state(conn, holder))[0] == "queued"


async def test_what_others_hold_or_have_changed_is_not_touched(
    conn: Connection, database: Database
) -> None:
    held, changed, free = [await add(conn) for _ in range(3)]
    which = JobFilter(queue="default")
    async with database.transaction() as other:
        await execute(
            other,
            "select 1 from jobsworth.reactive_jobs where id = %(id)s for no key update",
            {"id": held},
        )
        async with database.transaction() as mine:
            change = Change(Operation.CANCEL)
            page = await batches.page(
                mine, change, which, None, datetime.now(UTC) + timedelta(days=1), 10
            )
            assert sorted(ids_of(page)) == sorted([held, changed, free])
            await execute(
                conn,
                "update jobsworth.reactive_jobs set queue = 'elsewhere' where id = %(id)s",
                {"id": changed},
            )
            done = await batches.apply(mine, change, which, page.ids)
    assert (done.applied, done.held) == (1, [held])
    assert [(await state(conn, j))[0] for j in (held, changed, free)] == [
        *("queued", "queued", "canceled")
    ]


async def test_moved_jobs_come_after_those_that_are_there_in_their_order(
    conn: Connection, database: Database
) -> None:
    first, second = [await add(conn, queue="slow") for _ in range(2)]
    there = await add(conn)
    # Ids say nothing about the order of the queue.
    await execute(
        conn,
        "update jobsworth.reactive_jobs set position = nextval('jobsworth.job_position') "
        "where id = %(id)s",
        {"id": first},
    )
    done = await all_of(
        conn, database, Change(Operation.MOVE, queue="default"), JobFilter(queue="slow")
    )
    worker = await register(conn)
    taken = [(await claim(conn, worker, 1)).jobs[0].id for _ in range(3)]
    assert (done.applied, taken) == (2, [there, second, first])


async def test_jobs_that_came_later_and_bulk_operations_are_left_alone(conn: Connection) -> None:
    job_id = await add(conn, queue="q")
    await add(conn, mode="bulk_operation", queue="q")
    which, change = JobFilter(queue="q"), Change(Operation.CANCEL)
    earlier = datetime.now(UTC) - timedelta(hours=1)
    assert ids_of(await batches.page(conn, change, which, None, earlier, 10)) == []
    later = datetime.now(UTC) + timedelta(hours=1)
    assert ids_of(await batches.page(conn, change, which, None, later, 10)) == [job_id]


async def test_a_page_reads_its_rows_by_the_primary_key(conn: Connection) -> None:
    await enqueue_many(conn, [NewJob("answer") for _ in range(20_000)])
    await execute(conn, "analyze jobsworth.reactive_jobs")
    for direction in (FORWARD, BACKWARD):
        explain = f"explain (analyze, buffers) {PAGE_COLUMNS}{direction}"
        after = await fetch_val(conn, "select id from jobsworth.reactive_jobs offset 9999 limit 1")
        values = {**JobFilter(error="x").values(), "up_to": datetime.now(UTC)}
        async with conn.transaction():
            await execute(conn, "set local enable_seqscan = off")
            plan = await fetch_all(conn, explain, {**values, "after": after, "most": 500})
        text = "\n".join(next(iter(line.values())) for line in plan)
        assert "using reactive_jobs_pkey" in text, text
        assert "rows=500" in text, text


async def test_a_moved_job_waits_no_longer_at_a_limit_that_is_not_for_it(
    conn: Connection, database: Database
) -> None:
    await job_limits.set_limit(conn, "slow", queue="slow", slots=1)
    await job_limits.set_limit(conn, "each", per="key", slots=1)
    worker = await register(conn)
    jobs = [await add(conn, queue="slow", limit_key=key) for key in ("a", "b", "a", "c")]
    await claim(conn, worker, queues=["slow"])
    await claim(conn, worker, queues=["slow"])
    gates = [(await row(conn, j))["waiting_detail"] for j in jobs]
    assert gates == [None, "limit slow", "limit each, key a", "limit slow"]
    change, which = Change(Operation.MOVE, queue="default"), JobFilter(status=JobStatus.WAITING)
    assert (await all_of(conn, database, change, which)).applied == 3
    assert [(await state(conn, j))[0] for j in jobs] == ["running", "queued", "waiting", "queued"]
    assert [job.id for job in (await claim(conn, worker)).jobs] == [jobs[1], jobs[3]]
