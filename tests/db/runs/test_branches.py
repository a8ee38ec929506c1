"""Branches in the database: what a fork makes of any graph, what it refuses, and who it meets."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID, uuid4

import pytest

from db.errors import Conflict, InvalidInput, JobsworthError, NotFound
from db.fence import PINNED, Lease
from db.pool import Connection, Database, begun, execute, fetch_all, fetch_val
from db.runs import branches, runs
from db.runs.branches import Fork
from db.steps import checkpoints, steps
from tests.db import lineage
from tests.db.protocol import (
    blocking,
    breaches,
    cancel,
    done,
    register,
    running,
    settle,
    state,
    take,
)

pytestmark = pytest.mark.both

EDGES = """
select a.node as child, b.node as parent, b.run_id as parent_run, e.on_failure::text
from jobsworth.job_edges e
join jobsworth.reactive_jobs a on a.id = e.job_id
join jobsworth.reactive_jobs b on b.id = e.needs_job_id
where a.run_id = %(run_id)s
"""


async def _run_all(conn: Connection) -> None:
    """Claim and end whatever is queued, until nothing is."""
    worker_id = await register(conn)
    while await fetch_val(
        conn, "select exists (select 1 from jobsworth.reactive_jobs where status = 'queued')"
    ):
        job, lease = await take(conn, worker_id)
        await steps.record(conn, lease, "work", f'"{job.node}"', attempt=job.attempt)
        await settle(conn, done(lease))


async def _chain(conn: Connection) -> UUID:
    """a → b → c, all done, each with a step `work`."""
    nodes: dict[str, Any] = {node: ("answer", {"of": node}) for node in "abc"}
    run_id = await lineage.start(conn, nodes, {"b": ("a",), "c": ("b",)})
    await _run_all(conn)
    return run_id


async def _fork(conn: Connection, run_id: UUID, **options: Any) -> UUID:
    made = await branches.fork(conn, run_id, **options)
    assert made.run_id is not None
    return made.run_id


async def test_a_branch_is_like_its_run_but_for_what_changed(conn: Connection) -> None:
    run_id = await _chain(conn)
    branch = await _fork(conn, run_id, node="b", changes={"b": {"n": 1}, "c": {"of": 0}})
    columns = "actor, request"
    [was] = await fetch_all(
        conn, f"select {columns} from jobsworth.runs where id = %(id)s", {"id": run_id}
    )
    [now] = await fetch_all(
        conn, f"select {columns} from jobsworth.runs where id = %(id)s", {"id": branch}
    )
    assert now == was
    status = "select status::text from jobsworth.runs where id = %(id)s"
    assert await fetch_val(conn, status, {"id": branch}) == "executing"
    payloads = "select node, payload from jobsworth.reactive_jobs where run_id = %(id)s"
    found = {row["node"]: row["payload"] for row in await fetch_all(conn, payloads, {"id": branch})}
    assert found == {"b": {"of": "b", "n": 1}, "c": {"of": 0}}
    row = await branches.get_by_run(conn, branch)
    assert (row.parent_run_id, row.node, row.step_name, row.cut_at) == (run_id, "b", None, None)
    assert row.changes == {"b": {"n": 1}, "c": {"of": 0}}
    assert await branches.list_for_run(conn, run_id) == [row]
    with pytest.raises(NotFound, match="is not a branch"):
        await branches.get_by_run(conn, run_id)


async def test_plain_sql_forks_too(conn: Connection) -> None:
    run_id = await _chain(conn)
    branch = await fetch_val(
        conn, "select jobsworth.fork_run(%(id)s, step => 'work', node => 'c')", {"id": run_id}
    )
    assert set(await lineage.jobs_of(conn, branch)) == {"c"}
    [found] = await branches.list_for_run(conn, run_id)
    assert found.run_id == branch
    assert found.created_by == await fetch_val(conn, "select session_user")


@pytest.mark.parametrize("seed", range(8))
async def test_a_fork_of_any_graph_makes_the_node_and_what_needs_it_and_reads_the_rest(
    conn: Connection, seed: int
) -> None:
    rng = random.Random(seed)
    names = [f"n{n:02}" for n in range(12)]
    edges = {
        name: tuple(rng.sample(names[:n], rng.randint(0, min(3, n))))
        for n, name in enumerate(names)
    }
    nodes: dict[str, Any] = {name: ("answer", {}) for name in names}
    run_id = await lineage.start(conn, nodes, edges)
    await _run_all(conn)
    for _ in range(3):  # a fork, a fork of that, and one of that
        at = rng.choice(names)
        made = await branches.fork(conn, run_id, node=at)
        assert made.run_id is not None
        expected = _downstream(at, edges)
        assert set(await lineage.jobs_of(conn, made.run_id)) == expected
        assert {each.node for each in made.nodes if each.part != "read"} == expected
        assert {each.node for each in made.nodes} == set(names)
        found = await fetch_all(conn, EDGES, {"run_id": made.run_id})
        assert {(row["child"], row["parent"]) for row in found} == {
            (child, parent) for child in expected for parent in edges[child]
        }
        for row in found:
            assert (row["parent_run"] == made.run_id) is (row["parent"] in expected)
            assert row["on_failure"] == "fail"
        await _run_all(conn)
        await _all_done(conn, made)
        run_id = made.run_id
    assert await breaches(conn) == []


def _downstream(at: str, edges: dict[str, tuple[str, ...]]) -> set[str]:
    found = {at}
    for child, parents in edges.items():  # in topological order
        if found & set(parents):
            found.add(child)
    return found


async def _all_done(conn: Connection, made: Fork) -> None:
    assert made.run_id is not None
    for job_id in (await lineage.jobs_of(conn, made.run_id)).values():
        assert await state(conn, job_id) == ("done", None)


async def test_what_failed_elsewhere_runs_again_in_a_branch(conn: Connection) -> None:
    nodes: dict[str, Any] = {node: ("answer", {}) for node in "abcd"}
    run_id = await lineage.start(conn, nodes, {"b": ("a",), "d": ("c",)})
    jobs = await lineage.jobs_of(conn, run_id)
    await cancel(conn, jobs["c"])
    await _run_all(conn)
    assert await state(conn, jobs["d"]) == ("canceled", None)
    made = await branches.fork(conn, run_id, node="a")
    parts = {each.node: each.part for each in made.nodes}
    assert parts == {"a": "fork", "b": "after", "c": "open", "d": "open"}
    await _run_all(conn)
    await _all_done(conn, made)


async def test_a_fork_that_cannot_be_is_refused_with_what_there_is(conn: Connection) -> None:
    run_id = await _chain(conn)
    before = await fetch_val(conn, "select count(*) from jobsworth.runs")

    async def refused(kind: type[JobsworthError], said: str, hint: str, **options: Any) -> None:
        for dry_run in (True, False):
            with pytest.raises(kind, match=said) as error:
                await branches.fork(conn, run_id, dry_run=dry_run, **options)
            assert hint in error.value.remedy

    with pytest.raises(NotFound, match="there is no run"):
        await branches.fork(conn, uuid4())
    await refused(NotFound, "has no node x", "a, b, c", node="x")
    await refused(NotFound, "has no step x", "Its steps: work", node="b", step="x")
    await refused(NotFound, "no node of run .* has a step x", "a, b, c", step="x")
    await refused(InvalidInput, "several nodes .* have a step work", "a, b, c", step="work")
    await refused(InvalidInput, "has several nodes", "a, b, c")
    change: dict[str, Any] = {"a": {"n": 1}}
    with pytest.raises(InvalidInput, match="node a does not run in this fork"):
        await branches.fork(conn, run_id, node="b", changes=change)
    with pytest.raises(NotFound, match="has no node x to change"):
        await branches.fork(conn, run_id, node="b", changes={"x": {}})
    with pytest.raises(InvalidInput, match="is a JSON number"):
        await execute(
            conn,
            "select jobsworth.fork_run(%(id)s, 'b', changes => '{\"b\": 1}')",
            {"id": run_id},
        )
    empty = await lineage.start(conn, {})
    with pytest.raises(Conflict, match="has no jobs to fork"):
        await branches.fork(conn, empty)
    assert await fetch_val(conn, "select count(*) from jobsworth.runs") == before + 1


async def test_a_child_is_forked_where_it_was_spawned(conn: Connection) -> None:
    run_id = await lineage.start(conn, {"a": ("answer", {})})
    worker_id = await register(conn)
    _, lease = await take(conn, worker_id)
    await execute(
        conn,
        "insert into jobsworth.reactive_jobs (mode, parent_id, effect_key, is_child, run_id, node)"
        " values ('answer', %(id)s, 'child#1', true, %(run_id)s, 'a/child#1')",
        {"id": lease.job_id, "run_id": run_id},
    )
    with pytest.raises(InvalidInput, match="is a child") as error:
        await branches.fork(conn, run_id, node="a/child#1")
    assert "Fork where it was spawned: a" in str(error.value)
    # It is not done, and is left to the job that spawns it again.
    branch = await _fork(conn, run_id, node="a")
    assert set(await lineage.jobs_of(conn, branch)) == {"a"}


async def test_a_run_cannot_be_deleted_while_a_branch_reads_it(conn: Connection) -> None:
    run_id = await _chain(conn)
    branch = await _fork(conn, run_id, node="b", step="work")
    with pytest.raises(JobsworthError):
        await execute(conn, "delete from jobsworth.runs where id = %(id)s", {"id": run_id})
    with pytest.raises(JobsworthError):
        await execute(
            conn, "delete from jobsworth.reactive_jobs where run_id = %(id)s", {"id": run_id}
        )
    await execute(conn, "delete from jobsworth.reactive_jobs where run_id = %(id)s", {"id": branch})
    await execute(conn, "delete from jobsworth.runs where id = %(id)s", {"id": branch})
    await execute(conn, "delete from jobsworth.reactive_jobs where run_id = %(id)s", {"id": run_id})
    await execute(conn, "delete from jobsworth.runs where id = %(id)s", {"id": run_id})


async def test_a_fork_that_waits_for_its_runs_removal_is_told_so(
    database: Database, conn: Connection
) -> None:
    """The node it forks lies further back, so no job of the removed run is in its way."""
    branch = await _fork(conn, await _chain(conn), node="c")
    await _run_all(conn)
    async with database.connection() as other:
        await other.execute("begin")
        await runs.delete(other, branch)
        late = branches.fork(conn, branch, node="a")
        async with blocking(database, conn, late) as result:
            await other.execute("commit")
    assert isinstance(result[0], NotFound)
    assert f"there is no run {branch}" in str(result[0])


async def test_a_removal_that_waits_for_a_fork_is_refused(
    database: Database, conn: Connection
) -> None:
    branch = await _fork(conn, await _chain(conn), node="c")
    await _run_all(conn)
    async with database.connection() as other:
        await other.execute("begin")
        last = await _fork(other, branch, node="a")
        async with blocking(database, conn, runs.delete(conn, branch)) as result:
            await other.execute("commit")
    assert isinstance(result[0], Conflict)
    assert f"is read by its branch {last}" in str(result[0])


async def test_two_forks_at_once_are_two_branches(database: Database, conn: Connection) -> None:
    run_id = await _chain(conn)
    async with database.connection() as other:
        await other.execute("begin")
        first = await _fork(other, run_id, node="b", step="work")
        second = branches.fork(conn, run_id, node="b", step="work")
        async with blocking(database, conn, second) as result:
            await other.execute("commit")
    assert isinstance(result[0], Fork)
    assert {each.run_id for each in await branches.list_for_run(conn, run_id)} == {
        first,
        result[0].run_id,
    }
    await _run_all(conn)
    assert await breaches(conn) == []


async def _held(conn: Connection) -> tuple[UUID, Lease]:
    """A run whose only job is running and has saved three checkpoints."""
    run_id = await lineage.start(conn, {"a": ("answer", {})})
    _, lease = await take(conn, await register(conn))
    for n in range(3):
        await steps.record(conn, lease, f"page {n}", str(n), attempt=1, kind="checkpoint")
    return run_id, lease


async def test_a_prune_that_waits_for_a_fork_leaves_what_that_reads(
    database: Database, conn: Connection
) -> None:
    run_id, lease = await _held(conn)

    async def prune() -> int:
        async with begun(conn, PINNED):
            return await checkpoints.prune(conn, lease, keep=1)

    async with database.connection() as other:
        await other.execute("begin")
        branch = await _fork(other, run_id, step="page 1")
        async with blocking(database, conn, prune()) as result:
            await other.execute("commit")
    assert result == [0]
    found = await checkpoints.list_for_run(conn, branch)
    assert [one.state for one in found] == [0, 1]


async def test_a_fork_that_waits_for_a_prune_is_told_that_its_checkpoint_is_gone(
    database: Database, conn: Connection
) -> None:
    run_id, lease = await _held(conn)
    async with database.connection() as other:
        await other.execute("begin")
        assert await checkpoints.prune(other, lease, keep=1) == 2
        fork = branches.fork(conn, run_id, step="page 1")
        async with blocking(database, conn, fork) as result:
            await other.execute("commit")
    assert isinstance(result[0], Conflict)
    assert "page 1 of node a was pruned" in str(result[0])
    assert await branches.list_for_run(conn, run_id) == []


async def test_what_is_recorded_after_a_fork_is_not_read_by_it(conn: Connection) -> None:
    nodes: dict[str, Any] = {"a": ("answer", {}), "b": ("answer", {})}
    run_id = await lineage.start(conn, nodes)
    worker_id = await register(conn)
    _, first = await take(conn, worker_id)
    _, second = await take(conn, worker_id)
    await steps.record(conn, first, "early", "1", attempt=1)
    branch = await _fork(conn, run_id, node="b")
    await steps.record(conn, first, "late", "1", attempt=1)
    jobs = await lineage.jobs_of(conn, branch)
    assert [each.name for each in await steps.list_readable(conn, jobs["a"])] == ["early"]
    assert await steps.list_readable(conn, jobs["b"]) == []
    await settle(conn, done(first), done(second))


async def test_the_phases_of_a_deployment_are_not_read(conn: Connection) -> None:
    run_id = await lineage.start(conn, {"a": ("answer", {})})
    _, lease = await take(conn, await register(conn))
    await steps.record(conn, lease, "sha", '"abc"', attempt=1)
    await steps.record(conn, lease, "build", "{}", attempt=1, kind="phase")
    await steps.record(conn, lease, "after", "1", attempt=1)
    branch = await _fork(conn, run_id, step="after")
    jobs = await lineage.jobs_of(conn, branch)
    assert [each.name for each in await steps.list_readable(conn, jobs["a"])] == ["sha"]


async def test_a_job_of_no_branch_reads_its_own_steps_alone(conn: Connection) -> None:
    lease = await running(conn)
    await steps.record(conn, lease, "mine", "1", attempt=1)
    assert await steps.list_readable(conn, lease.job_id) == await steps.list_for_job(
        conn, lease.job_id
    )
