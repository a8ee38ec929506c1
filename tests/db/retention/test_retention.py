"""Jobs leave when a rule says so and nothing needs them; the books stay."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest

from db.errors import InvalidInput, NotFound
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob
from db.retention import removal, rules
from db.retention.rules import Jobs
from db.runs import branches
from tests.db.protocol import BREACHES, add, register
from tests.db.queue.job_rows import put
from tests.db.rows import past_the_guards
from tests.db.runs import graphs

FIRST = UUID(int=0)
DAY = 86_400.0

AGE: LiteralString = """
update jobsworth.reactive_jobs
set finished_at = now() - %(days)s * interval '1 day',
  created_at = now() - %(days)s * interval '1 day'
where id = any(%(ids)s)
"""
AGE_RUN: LiteralString = """
update jobsworth.runs set finished_at = now() - interval '9 days' where id = %(id)s
"""
THERE: LiteralString = """
select j.id from jobsworth.reactive_jobs j where j.id = any(%(ids)s)
"""
LINK: LiteralString = """
update jobsworth.reactive_jobs set parent_id = %(parent)s, is_child = %(is_child)s,
  effect_key = id::text
where id = %(id)s
"""
BUFFERS: LiteralString = """
explain (analyze, buffers, format json)
select r.jobs from jobsworth.remove_ended(%(after)s, %(most)s) r
"""
LEFT: LiteralString = """
select
  (select count(*) from jobsworth.steps) as steps,
  (select count(*) from jobsworth.artifacts) as artifacts,
  (select count(*) from jobsworth.signals) as signals,
  (select count(*) from jobsworth.approvals) as approvals,
  (select count(*) from jobsworth.embedding_outbox) as to_embed
"""
CALL: LiteralString = """
insert into jobsworth.llm_calls (
  job_id, lease_no, request_id, provider, model, status, settled_at, cost)
values (%(id)s, 1, gen_random_uuid(), 'p', 'm', 'ok', now(), 1) returning id
"""


def old_id(days: float, at: int = 0) -> UUID:
    """An id (UUIDv7) as if it had been made so many days ago."""
    from time import time

    milliseconds = int((time() - days * DAY) * 1000)
    return UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | (uuid4().int >> 66) + at)


async def ended(conn: Connection, status: str = "done", days: float = 9, **options: Any) -> UUID:
    """A job that ended so many days ago."""
    job_id = await add(conn, id=old_id(days), **options)
    await put(conn, job_id, status, "as it was")
    await execute(conn, AGE, {"ids": [job_id], "days": days})
    return job_id


async def remove(conn: Connection, most: int = 100) -> tuple[int, int]:
    """A whole round; how many jobs and runs left."""
    removed, runs, after = 0, 0, FIRST
    while True:
        batch = await removal.remove_ended(conn, after, most)
        removed, runs = removed + batch.jobs, runs + batch.runs
        if batch.next is None:
            return removed, runs
        after = batch.next


async def there(conn: Connection, *ids: UUID) -> set[UUID]:
    return {row["id"] for row in await fetch_all(conn, THERE, {"ids": list(ids)})}


async def test_without_a_rule_nothing_leaves(conn: Connection) -> None:
    job_id = await ended(conn, days=3_000)
    assert await remove(conn) == (0, 0)
    assert await there(conn, job_id)


async def test_the_rule_that_says_most_counts(conn: Connection) -> None:
    """Mode before queue before status; `forever` is a rule too. In batches of one as well."""
    await rules.set_rule(conn, Jobs("done"), 7 * DAY)
    await rules.set_rule(conn, Jobs(queue="slow"), 30 * DAY)
    await rules.set_rule(conn, Jobs(mode="audit"), None)
    await rules.set_rule(conn, Jobs("failed", mode="audit"), 8 * DAY)
    leaves = [
        await ended(conn),
        await ended(conn, queue="slow", days=31),
        await ended(conn, "failed", mode="audit"),
        # An id that a client has made up tells no time.
        await add(conn, id=UUID("ffffffff-0000-4000-8000-000000000000")),
    ]
    await put(conn, leaves[3], "done")
    await execute(conn, AGE, {"ids": [leaves[3]], "days": 9})
    stays = [
        await ended(conn, days=6),
        await ended(conn, "failed"),
        await ended(conn, "canceled"),
        await ended(conn, queue="slow"),
        await ended(conn, mode="audit", queue="slow", days=99),
        await add(conn, id=old_id(99)),
    ]
    assert await remove(conn, most=1) == (4, 0)
    assert await there(conn, *leaves, *stays) == set(stays)
    assert await remove(conn) == (0, 0)


async def test_what_hangs_on_a_job_leaves_with_it_and_the_books_stay(conn: Connection) -> None:
    await rules.set_rule(conn, Jobs(), DAY)
    job_id = await ended(conn)
    call_id = await fetch_val(conn, CALL, {"id": job_id})
    for insert in (
        "insert into jobsworth.steps (job_id, name, kind, effect, output, attempt, started_at) "
        "values (%(id)s, 's', 'step', 'pure', '1', 1, now())",
        "insert into jobsworth.artifacts (job_id, effect_key, name, media_type, uri) "
        "values (%(id)s, 'k', 'a', 'text/plain', 'file:///x')",
        "insert into jobsworth.signals (job_id, name) values (%(id)s, 'late')",
        "insert into jobsworth.memories (job_id, effect_key, source_kind, text) "
        "values (%(id)s, 'k', 'note', 'remember this')",
        "insert into jobsworth.approvals (job_id, proposal_text, shown_hash, status, closed_at) "
        "values (%(id)s, 'May I?', '', 'superseded', now())",
    ):
        await execute(conn, insert, {"id": job_id})
    assert await remove(conn) == (1, 0)
    [left] = await fetch_all(conn, LEFT)
    assert left == {"steps": 0, "artifacts": 0, "signals": 0, "approvals": 1, "to_embed": 1}
    assert await fetch_val(conn, "select id from jobsworth.llm_calls") == call_id
    with pytest.raises(NotFound, match="there is no job"):
        await jobs.why(conn, job_id)


async def test_what_may_be_run_again_keeps_what_it_would_repeat(conn: Connection) -> None:
    """A failed parent finds its child and follow-up by their keys; a failed job its needs."""
    await rules.set_rule(conn, Jobs("done"), DAY)
    parent, child, follow_up = [await ended(conn, "failed"), await ended(conn), await ended(conn)]
    for one, is_child in ((child, True), (follow_up, False)):
        await execute(conn, LINK, {"id": one, "parent": parent, "is_child": is_child})
    needed = await ended(conn)
    needs_it = await add(conn, after=[needed])
    assert await remove(conn) == (0, 0)
    assert await there(conn, child, follow_up, needed) == {child, follow_up, needed}

    await put(conn, needs_it, "done")
    await rules.set_rule(conn, Jobs("failed"), DAY)
    assert await remove(conn) == (2, 0)  # the parent, and what was needed
    assert await remove(conn) == (2, 0)
    assert await fetch_val(conn, f"select count(*) from ({BREACHES}) b") == 0


async def test_a_run_leaves_whole_and_not_while_a_branch_reads_it(conn: Connection) -> None:
    await rules.set_rule(conn, Jobs(), DAY)
    worker = await register(conn)
    run_id = await graphs.start(conn, graphs.DIAMOND)
    for _ in range(3):
        await graphs.end(conn, worker)
    assert await graphs.status_of(conn, run_id) == "done"
    branch = (await branches.fork(conn, run_id, node="join")).run_id
    await graphs.end(conn, worker)
    nodes = [row["id"] for row in await fetch_all(conn, graphs.NODES, {"id": run_id})]
    async with past_the_guards(conn):
        for n, node in enumerate(nodes):
            # Only now do their ids tell that they are old.
            await execute(conn, AGE, {"ids": [node], "days": 9 if n else 0.1})
        await execute(conn, AGE_RUN, {"id": run_id})
    await rules.set_rule(conn, Jobs(), 0)
    await rules.set_rule(conn, Jobs("done"), DAY)

    assert await remove(conn) == (0, 0)  # one of its jobs is young
    await execute(conn, AGE, {"ids": nodes, "days": 9})
    assert await remove(conn) == (0, 0)  # its branch reads it
    await execute(
        conn,
        "update jobsworth.reactive_jobs set finished_at = now() - interval '9 days' "
        "where run_id = %(id)s",
        {"id": branch},
    )
    assert await remove(conn) == (0, 1)
    assert await remove(conn) == (0, 1)
    assert await fetch_val(conn, "select count(*) from jobsworth.runs") == 0
    assert await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs") == 0
    assert await fetch_val(conn, f"select count(*) from ({BREACHES}) b") == 0


async def test_a_retry_in_the_same_moment_wins(conn: Connection, database: Database) -> None:
    """A row that somebody holds is passed over; a second worker does nothing meanwhile."""
    await rules.set_rule(conn, Jobs(), DAY)
    retried, other = await ended(conn, "failed"), await ended(conn, "failed")
    async with database.transaction() as person:
        await execute(person, "select jobsworth.retry(%(id)s)", {"id": retried})
        assert await remove(conn) == (1, 0)
    assert await there(conn, retried, other) == {retried}
    async with database.transaction() as first:
        assert not (await removal.remove_ended(first, FIRST, 10)).busy
        assert (await removal.remove_ended(conn, FIRST, 10)).busy


async def test_a_batch_reads_no_more_than_its_page(conn: Connection) -> None:
    """By the primary key, however many jobs have ended; so it is with a generic plan."""
    await enqueue_many(conn, [NewJob("answer", id=old_id(9)) for _ in range(5_000)])
    async with past_the_guards(conn):
        await execute(
            conn,
            "update jobsworth.reactive_jobs set status = 'done', finished_at = now()"
            " - interval '9 days'",
        )
    await rules.set_rule(conn, Jobs("done"), DAY)
    await execute(conn, "analyze jobsworth.reactive_jobs")
    read = dict[int, int]()
    for most in (10, 200):
        await removal.remove_ended(conn, FIRST, most)  # the session's first plans
        [told] = await fetch_val(conn, BUFFERS, {"after": FIRST, "most": most})
        read[most] = told["Plan"]["Shared Hit Blocks"] + told["Plan"]["Shared Read Blocks"]
    assert read[10] < 1_500, read
    assert read[200] < 150 * 200, read
    assert await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs") == 5_000 - 420


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e12])
async def test_a_time_that_is_none_is_refused(conn: Connection, seconds: float) -> None:
    with pytest.raises(InvalidInput, match="are not from 0 to 100 years"):
        await rules.set_rule(conn, Jobs("done"), seconds)


async def test_a_rule_is_one_for_its_jobs(conn: Connection) -> None:
    await rules.set_rule(conn, Jobs("done"), DAY)
    await rules.set_rule(conn, Jobs("done"), 2 * DAY)
    assert [rule.keep_seconds for rule in await rules.list_rules(conn)] == [2 * DAY]
    await rules.remove_rule(conn, Jobs("done"))
    with pytest.raises(NotFound, match="no such rule"):
        await rules.remove_rule(conn, Jobs("done"))
    with pytest.raises(InvalidInput, match="do not leave"):
        Jobs("running")
