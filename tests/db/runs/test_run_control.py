"""Runs that a person retries, cancels or deletes."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID, uuid4

import pytest

from db.errors import Conflict, NotFound
from db.pool import Connection, Database, execute, fetch_val
from db.queue import promote
from db.queue.finish import Finish
from db.runs import runs
from db.runs.runs import After, Node, RunStatus
from tests.db.protocol import (
    blocking,
    breaches,
    done,
    failed,
    finish,
    row,
    settle,
)
from tests.db.runs.graphs import (
    DIAMOND,
    end,
    id_of,
    nodes_of,
    start,
    status_of,
    take_all,
)

pytestmark = pytest.mark.both


async def test_a_run_that_is_retried_does_again_what_did_not_end_well_and_nothing_else(
    conn: Connection, worker_id: UUID
) -> None:
    """The nodes are declared backwards: each still waits for those that it needs."""
    run_id = await start(conn, [Node("alone", "answer"), *reversed(DIAMOND)])
    await end(conn, worker_id)
    await end(conn, worker_id, left="failed")
    assert await status_of(conn, run_id) == "failed"
    assert (await nodes_of(conn, run_id))["join"] == ("failed", None)
    assert await runs.retry(conn, run_id) == 2
    run = await runs.get(conn, run_id)
    assert (run.status, run.error, run.finished_at) == ("executing", None, None)
    assert await nodes_of(conn, run_id) == {
        "alone": ("done", None),
        "fetch": ("done", None),
        "left": ("queued", None),
        "right": ("done", None),
        "join": ("waiting", "parents"),
    }
    left = await row(conn, await id_of(conn, run_id, "left"))
    assert (left["failures"], left["error"], left["attempt"]) == (0, None, 1)
    await end(conn, worker_id)
    await end(conn, worker_id)
    assert await status_of(conn, run_id) == "done"
    assert await breaches(conn) == []


async def test_a_canceled_run_is_retried_from_where_it_was(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, DIAMOND)
    await end(conn, worker_id)
    await runs.cancel(conn, run_id)
    assert await runs.retry(conn, run_id) == 3
    run = await runs.get(conn, run_id)
    assert (run.status, run.cancel_requested) == ("executing", False)
    await end(conn, worker_id)
    await end(conn, worker_id)
    assert await status_of(conn, run_id) == "done"


CHILD: LiteralString = """
insert into jobsworth.reactive_jobs (mode, run_id, node, parent_id, is_child, effect_key)
values ('answer', %(run)s, %(parent)s || '/child:' || %(name)s, %(job)s, true, 'child:' || %(name)s)
"""


async def test_children_run_again_with_their_parent_and_not_without_it(
    conn: Connection, worker_id: UUID
) -> None:
    """One that its parent did without has been judged."""
    run_id = await start(conn, [Node("bad", "answer"), Node("good", "answer")])
    leases = await take_all(conn, worker_id)
    for node, names in (("bad", "xy"), ("good", "z")):
        for name in names:
            values = {"run": run_id, "parent": node, "job": leases[node].job_id, "name": name}
            await execute(conn, CHILD, values)
    children = await take_all(conn, worker_id)
    await settle(
        conn,
        done(children["bad/child:x"]),
        failed(children["bad/child:y"]),
        failed(children["good/child:z"]),
    )
    await settle(conn, failed(leases["bad"]), done(leases["good"]))
    assert await runs.retry(conn, run_id) == 2
    names = await nodes_of(conn, run_id)
    again = {node for node, (status, _) in names.items() if status == "queued"}
    assert again == {"bad", "bad/child:y"}


async def test_a_run_that_goes_on_or_ended_well_is_not_retried(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, [Node("a", "answer")])
    with pytest.raises(Conflict, match="is not over: its job") as refused:
        await runs.retry(conn, run_id)
    assert "jobsworth job retry JOB" in refused.value.remedy
    await end(conn, worker_id)
    with pytest.raises(Conflict, match="is done: there is nothing of it to run again"):
        await runs.retry(conn, run_id)
    well = await start(
        conn, [Node("a", "answer"), Node("b", "answer", after=[After("a", on_failure="run")])]
    )
    await end(conn, worker_id, a="failed")
    await end(conn, worker_id)
    with pytest.raises(Conflict, match="is done: there is nothing of it to run again"):
        await runs.retry(conn, well)
    with pytest.raises(NotFound):
        await runs.retry(conn, uuid4())


async def test_of_two_retries_at_once_one_is_refused(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, DIAMOND)
    await end(conn, worker_id, fetch="failed")
    async with database.connection() as first, database.connection() as second:
        await first.execute("begin")
        assert await runs.retry(first, run_id) == 4
        async with blocking(database, second, runs.retry(second, run_id)) as result:
            await first.execute("commit")
        assert isinstance(result[0], Conflict)
        assert "is not over" in result[0].message
    await end(conn, worker_id)
    assert await status_of(conn, run_id) == "executing"


async def test_a_retry_sees_the_job_that_ends_just_now(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    """It failed, and nobody has looked at its run since."""
    run_id = await start(conn, [Node("a", "answer"), Node("b", "answer")])
    leases = await take_all(conn, worker_id)
    await settle(conn, failed(leases["a"]))
    async with database.connection() as finisher, database.connection() as second:
        await finisher.execute("begin")
        await finish(finisher, failed(leases["b"]))
        async with blocking(database, second, runs.retry(second, run_id)) as result:
            await finisher.execute("commit")
        assert result == [2]
        await promote.unblock(finisher, [leases["b"].job_id])
    assert set((await nodes_of(conn, run_id)).values()) == {("queued", None)}
    assert await status_of(conn, run_id) == "executing"


# Cancel and delete.


async def test_a_canceled_run_takes_all_its_jobs_along(conn: Connection, worker_id: UUID) -> None:
    run_id = await start(conn, [*DIAMOND, Node("alone", "answer", delay=60)])
    lease = (await take_all(conn, worker_id))["fetch"]
    assert await runs.cancel(conn, run_id, "no longer needed") == "executing"
    names = await nodes_of(conn, run_id)
    assert names.pop("fetch") == ("running", None)
    assert set(names.values()) == {("canceled", None)}
    await settle(conn, Finish(lease, "canceled", error="stopped"))
    run = await runs.get(conn, run_id)
    assert (run.status, run.cancel_requested) == ("canceled", True)
    with pytest.raises(NotFound):
        await runs.cancel(conn, uuid4())


async def test_a_run_that_only_waits_is_canceled_at_once(conn: Connection) -> None:
    run_id = await start(conn, DIAMOND)
    assert await runs.cancel(conn, run_id) == "canceled"
    assert await runs.cancel(conn, run_id) == "canceled"
    draft = (await runs.upsert(conn, trace_id="t")).run_id
    assert await runs.cancel(conn, draft) == "canceled"


async def test_what_a_job_still_adds_to_a_canceled_run_ends_with_it(
    conn: Connection, worker_id: UUID
) -> None:
    """It was done with its work when the cancel came, and enqueued a follow-up."""
    run_id = await start(conn, [Node("a", "answer")])
    lease = (await take_all(conn, worker_id))["a"]
    await runs.cancel(conn, run_id)
    follow = "insert into jobsworth.reactive_jobs (mode, run_id, node, parent_id, effect_key) "
    async with conn.transaction():
        await finish(conn, done(lease))
        await execute(
            conn,
            follow + "values ('answer', %(run)s, 'a/job:1', %(job)s, 'job:1')",
            {"run": run_id, "job": lease.job_id},
        )
    await promote.unblock(conn, [lease.job_id])
    assert (await nodes_of(conn, run_id))["a/job:1"] == ("canceled", None)
    assert await status_of(conn, run_id) == "canceled"


async def test_a_cancel_that_waits_for_a_job_finds_what_came_meanwhile(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, [Node("a", "answer")])
    lease = (await take_all(conn, worker_id))["a"]
    follow = "insert into jobsworth.reactive_jobs (mode, run_id, node) values "
    async with database.connection() as first, database.connection() as second:
        await first.execute("begin")
        await finish(first, done(lease))
        await execute(first, follow + "('answer', %(run)s, 'late')", {"run": run_id})
        async with blocking(database, second, runs.cancel(second, run_id)) as result:
            await first.execute("commit")
        assert result == [RunStatus.CANCELED]
    assert (await nodes_of(conn, run_id))["late"] == ("canceled", None)


async def test_a_deleted_run_leaves_whole_and_the_books_stay(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, DIAMOND)
    ledger = (
        "insert into jobsworth.token_ledger (job_id, entry, provider, model) "
        "values (%(id)s, 'settle', 'p', 'm')"
    )
    await execute(conn, ledger, {"id": await id_of(conn, run_id, "fetch")})
    with pytest.raises(Conflict, match="is not over: its job"):
        await runs.delete(conn, run_id)
    await runs.cancel(conn, run_id)
    await runs.delete(conn, run_id)
    assert await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs") == 0
    assert await fetch_val(conn, "select count(*) from jobsworth.job_edges") == 0
    assert await fetch_val(conn, "select count(*) from jobsworth.token_ledger") == 1
    with pytest.raises(NotFound):
        await runs.delete(conn, run_id)


BRANCH: LiteralString = """
insert into jobsworth.branches (run_id, parent_run_id, node, cut_at)
values (%(run)s, %(parent)s, 'a', now())
"""


async def test_a_run_is_not_deleted_while_a_branch_reads_it(
    database: Database, conn: Connection
) -> None:
    """Nor while one is being made: the deletion waits for it, and then sees it."""
    parent, run = await start(conn, [Node("a", "answer")]), await start(conn, [Node("a", "answer")])
    await runs.cancel(conn, parent)
    async with database.connection() as first, database.connection() as second:
        await first.execute("begin")
        await execute(first, BRANCH, {"run": run, "parent": parent})
        async with blocking(database, second, runs.delete(second, parent)) as result:
            await first.execute("commit")
        assert isinstance(result[0], Conflict)
        assert f"is read by its branch {run}" in result[0].message
    await runs.cancel(conn, run)
    await runs.delete(conn, run)
    await runs.delete(conn, parent)
