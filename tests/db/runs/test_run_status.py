"""The status of a run follows from its jobs, also when several of them end at once."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from db.errors import InvalidInput, NotFound
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import promote
from db.runs import runs
from db.runs.runs import After, Node, RunStatus
from tests.db import rows
from tests.db.protocol import (
    breaches,
    cancel,
    done,
    finish,
    parked,
    resolve,
    retry,
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


# What a failed parent means.


@pytest.mark.parametrize(
    ("edges", "child", "run"),
    [
        (("fail", "fail"), "failed", "failed"),
        (("skip", "skip"), "canceled", "done"),
        (("run", "run"), "done", "done"),
        (("skip", "run"), "canceled", "done"),
        (("run", "skip"), "done", "done"),
        (("fail", "skip"), "failed", "failed"),
        (("run", "fail"), "done", "done"),
    ],
)
async def test_each_edge_says_what_its_parents_failure_means(
    conn: Connection, worker_id: UUID, edges: tuple[str, str], child: str, run: str
) -> None:
    """The first parent fails, the second is done."""
    after = [After("bad", edges[0]), After("good", edges[1])]
    run_id = await start(
        conn, [Node("bad", "answer"), Node("good", "answer"), Node("child", "answer", after=after)]
    )
    await end(conn, worker_id, bad="failed")
    await end(conn, worker_id)
    assert (await nodes_of(conn, run_id))["child"] == (child, None)
    assert await status_of(conn, run_id) == run
    assert await breaches(conn) == []


@pytest.mark.parametrize("edge", ["skip", "run"])
async def test_a_run_in_which_nothing_was_done_has_failed(
    conn: Connection, worker_id: UUID, edge: str
) -> None:
    """A failure is tolerated where something of the run was done without it."""
    nodes = [
        Node("real", "answer"),
        Node("later", "answer", after=[After("real", edge)]),
        Node("last", "answer", after=[After("later", "skip")]),
    ]
    run_id = await start(conn, nodes)
    await end(conn, worker_id, real="failed")
    await end(conn, worker_id, later="failed")
    run = await runs.get(conn, run_id)
    assert run.status == "failed"
    assert "real: " in (run.error or "")
    assert await breaches(conn) == []

    alone = await start(conn, nodes)
    await end(conn, worker_id, real="failed")
    await end(conn, worker_id)
    await end(conn, worker_id)
    assert await status_of(conn, alone) == ("failed" if edge == "skip" else "done")


async def test_failing_wins_over_being_left_out(conn: Connection, worker_id: UUID) -> None:
    after = [After("one", "skip"), After("two", "fail")]
    run_id = await start(
        conn, [Node("one", "answer"), Node("two", "answer"), Node("child", "answer", after=after)]
    )
    await end(conn, worker_id, one="failed", two="failed")
    child = await row(conn, await id_of(conn, run_id, "child"))
    assert child["status"] == "failed"
    assert "one (" in child["error"]
    assert "two (" in child["error"]


async def test_a_failure_goes_down_a_chain_and_names_each_parent(
    conn: Connection, worker_id: UUID
) -> None:
    chain = [Node(f"n{n}", "answer", after=[f"n{n - 1}"] if n else []) for n in range(1_000)]
    run_id = await start(conn, chain)
    await end(conn, worker_id, n0="failed")
    assert set((await nodes_of(conn, run_id)).values()) == {("failed", None)}
    assert "n998 (" in (await row(conn, await id_of(conn, run_id, "n999")))["error"]
    run = await runs.get(conn, run_id)
    assert run.status == "failed"
    assert (run.error or "").startswith("n0: it broke; n1: a job it needs did not end well: n0 (")


async def test_what_needs_a_job_that_a_person_canceled_is_canceled_with_it(
    conn: Connection,
) -> None:
    run_id = await start(conn, DIAMOND)
    await cancel(conn, await id_of(conn, run_id, "fetch"))
    assert set((await nodes_of(conn, run_id)).values()) == {("canceled", None)}
    assert await status_of(conn, run_id) == "canceled"


async def test_a_job_left_out_fails_those_that_cannot_do_without_it(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(
        conn,
        [
            Node("a", "answer"),
            Node("b", "answer", after=[After("a", "skip")]),
            Node("c", "answer", after=["b"]),
        ],
    )
    await end(conn, worker_id, a="failed")
    assert await nodes_of(conn, run_id) == {
        "a": ("failed", None),
        "b": ("canceled", None),
        "c": ("failed", None),
    }
    assert await status_of(conn, run_id) == "failed"


# The run's status follows.


async def test_a_run_goes_from_executing_to_done_with_the_result_of_its_only_end(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, DIAMOND)
    for _ in range(3):
        assert await status_of(conn, run_id) == "executing"
        await end(conn, worker_id)
    run = await runs.get(conn, run_id)
    assert (run.status, run.result, run.error) == ("done", "join", None)
    assert run.started_at is not None
    assert run.finished_at is not None


async def test_a_run_with_several_ends_has_their_results_by_node(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, DIAMOND[:3])
    await end(conn, worker_id)
    await end(conn, worker_id)
    assert (await runs.get(conn, run_id)).result == {"left": "left", "right": "right"}


async def test_results_too_large_together_are_left_with_their_jobs(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, [Node("a", "answer"), Node("b", "answer")])
    leases = await take_all(conn, worker_id)
    texts = [f'"{"".join(str(uuid4()) for _ in range(20_000))}"' for _ in leases]
    await settle(
        conn, *(done(lease, text) for lease, text in zip(leases.values(), texts, strict=True))
    )
    run = await runs.get(conn, run_id)
    assert (run.status, run.result) == ("done", None)


async def test_a_run_waits_while_all_its_open_jobs_do_and_goes_on_when_one_may(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, [Node("a", "answer"), Node("b", "answer", after=["a"])])
    lease = (await take_all(conn, worker_id))["a"]
    asking = "insert into jobsworth.approvals (job_id, proposal_text, shown_hash) "
    asked = await fetch_val(
        conn, asking + "values (%(id)s, 'may I?', '') returning id", {"id": lease.job_id}
    )
    await settle(conn, parked(lease, "approval"))
    assert await status_of(conn, run_id) == "waiting"
    await resolve(conn, asked)
    assert await status_of(conn, run_id) == "executing"


async def test_a_run_of_timers_waits_until_the_first_is_due(conn: Connection) -> None:
    run_id = await start(conn, [Node("a", "answer", delay=3600)])
    assert await status_of(conn, run_id) == "waiting"
    await execute(conn, "update jobsworth.reactive_jobs set run_at = now()")
    assert await promote.promote_due(conn, 10) == 1
    assert await status_of(conn, run_id) == "executing"


async def test_planning_lasts_until_its_first_job_has_ended(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(
        conn, [Node("plan", "plan"), Node("do", "answer", after=["plan"])], status="planning"
    )
    assert await status_of(conn, run_id) == "planning"
    await end(conn, worker_id)
    assert await status_of(conn, run_id) == "executing"


async def test_a_retried_job_reopens_its_run(conn: Connection, worker_id: UUID) -> None:
    run_id = await start(conn, [Node("a", "answer")])
    await end(conn, worker_id, a="failed")
    assert await status_of(conn, run_id) == "failed"
    await retry(conn, await id_of(conn, run_id, "a"))
    run = await runs.get(conn, run_id)
    assert (run.status, run.error, run.finished_at) == ("executing", None, None)
    await end(conn, worker_id)
    assert await status_of(conn, run_id) == "done"


async def test_a_job_that_was_retried_and_ended_unseen_still_changes_its_runs_end(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    """Somebody held the run's row all the while."""
    run_id = await start(conn, [Node("a", "answer")])
    await end(conn, worker_id, a="failed")
    async with database.transaction() as holder:
        await execute(holder, "update jobsworth.runs set actor = 'somebody'")
        await retry(conn, await id_of(conn, run_id, "a"))
        lease = (await take_all(conn, worker_id))["a"]
        await finish(conn, done(lease))
        again = await promote.unblock(conn, [lease.job_id])
        assert again == [lease.job_id]
    assert await promote.unblock(conn, again) == []
    assert await status_of(conn, run_id) == "done"


@pytest.mark.parametrize(
    ("now", "to"), [("executing", "planning"), ("executing", "draft"), ("waiting", "draft")]
)
async def test_an_illegal_move_is_refused_by_name_with_the_legal_ones(
    conn: Connection, now: str, to: str
) -> None:
    run_id = (await runs.upsert(conn, idempotency_key="k")).run_id
    await runs.set_status(conn, run_id, RunStatus(now))
    with pytest.raises(InvalidInput, match=f"cannot go from {now} to {to}") as refused:
        await runs.set_status(conn, run_id, RunStatus(to))
    assert "done, failed, canceled" in refused.value.remedy


async def test_a_run_without_jobs_is_moved_by_hand_and_stays_where_it_ended(
    conn: Connection,
) -> None:
    run_id = (await runs.upsert(conn, trace_id="t")).run_id
    for status in ("planning", "executing", "waiting", "executing"):
        await runs.set_status(conn, run_id, RunStatus(status))
    await runs.set_status(conn, run_id, RunStatus.DONE, result='{"n": 1}')
    assert (await runs.get(conn, run_id)).result == {"n": 1}
    for status in ("executing", "failed", "draft"):
        with pytest.raises(InvalidInput, match=f"cannot go from done to {status}"):
            await runs.set_status(conn, run_id, RunStatus(status))
    with pytest.raises(NotFound):
        await runs.set_status(conn, uuid4(), RunStatus.DONE)


async def test_a_run_does_not_end_while_a_job_is_open(conn: Connection) -> None:
    run_id = await start(conn, DIAMOND)
    with pytest.raises(InvalidInput, match="cannot be done: its job"):
        await runs.set_status(conn, run_id, RunStatus.DONE)


@pytest.mark.parametrize("ending", ["done", "failed"])
async def test_what_somebody_else_has_come_after_a_run_does_not_change_its_end(
    conn: Connection, worker_id: UUID, ending: str
) -> None:
    """A job outside the run needs its last one, and would do without it."""
    run_id = await start(conn, [Node("a", "answer")])
    after = "select jobsworth.enqueue('answer', after => array[%(id)s::uuid])"
    await execute(conn, after, {"id": await id_of(conn, run_id, "a")})
    await end(conn, worker_id, a=ending)
    run = await runs.get(conn, run_id)
    assert run.status == ending
    assert run.result == ("a" if ending == "done" else None)


# Several at once.


async def test_two_jobs_that_end_at_the_same_moment_wait_for_nobody(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    """The one that finds the run's row held says so, and finds it free when it looks again."""
    run_id = await start(conn, [Node("a", "answer"), Node("b", "answer")])
    leases = await take_all(conn, worker_id)
    await finish(conn, done(leases["a"]))
    async with database.transaction() as first:
        await finish(conn, done(leases["b"]))
        assert await promote.unblock(first, [leases["a"].job_id]) == []
        again = await promote.unblock(conn, [leases["b"].job_id])
        assert again == [leases["b"].job_id]
    assert await promote.unblock(conn, again) == []
    assert await status_of(conn, run_id) == "done"


async def test_the_last_of_two_ends_is_seen_whoever_looks_first(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    """The first looks while the second's end is not committed; the second looks after."""
    run_id = await start(conn, [Node("a", "answer"), Node("b", "answer")])
    leases = await take_all(conn, worker_id)
    async with database.connection() as second:
        await second.execute("begin")
        await finish(second, done(leases["b"]))
        await settle(conn, done(leases["a"]))
        assert await status_of(conn, run_id) == "executing"
        await second.execute("commit")
        await promote.unblock(second, [leases["b"].job_id])
    assert await status_of(conn, run_id) == "done"


async def test_a_run_that_waits_goes_on_although_its_label_changed_at_the_same_moment(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    """One job parks; another is let go on by somebody who sees the run executing still."""
    run_id = await start(conn, [Node("a", "answer"), Node("b", "answer")])
    leases = await take_all(conn, worker_id)
    a, b = leases["a"].job_id, leases["b"].job_id
    await settle(conn, parked(leases["b"], "signal", "go"))
    await finish(conn, parked(leases["a"], "signal", "go"))
    async with database.transaction() as sender:
        await execute(sender, "select jobsworth.send_signal(%(id)s, 'go')", {"id": b})
        again = await promote.unblock(conn, [a])
        assert await status_of(conn, run_id) == "waiting"
    assert again == [a]
    assert await promote.unblock(conn, again) == []
    assert await status_of(conn, run_id) == "executing"


async def test_runs_are_locked_in_one_order_and_never_waited_for(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    first, second = await start(conn, [Node("a", "answer")]), await start(conn, [Node("b", "plan")])
    leases = await take_all(conn, worker_id)
    await finish(conn, *(done(lease) for lease in leases.values()))
    ids = [lease.job_id for lease in leases.values()]
    async with database.transaction() as one, database.transaction() as other:
        await promote.unblock(one, ids[:1])
        assert await promote.unblock(other, ids) == ids[:1]
        assert await promote.unblock(one, ids) == ids[1:]
    assert {await status_of(conn, first), await status_of(conn, second)} == {"done"}


async def test_a_run_that_a_crash_left_open_is_found_by_the_sweep(
    conn: Connection, worker_id: UUID
) -> None:
    run_id = await start(conn, [Node("a", "answer")])
    await finish(conn, done((await take_all(conn, worker_id))["a"]))
    assert await status_of(conn, run_id) == "executing"
    assert await promote.sweep_runs(conn, UUID(int=0), 10) is None
    assert await status_of(conn, run_id) == "done"


async def test_a_run_that_nobody_moved_is_a_violation(conn: Connection, worker_id: UUID) -> None:
    run_id = await start(conn, [Node("a", "answer")])
    await finish(conn, done((await take_all(conn, worker_id))["a"]))
    of_runs = "select v.invariant, v.subject_id from jobsworth.violations v"
    assert await fetch_all(conn, of_runs) == []
    await execute(
        conn, "update jobsworth.reactive_jobs set finished_at = now() - interval '1 minute'"
    )
    assert await fetch_all(conn, of_runs) == [
        {"invariant": "open run whose jobs have all ended", "subject_id": run_id}
    ]


async def test_an_open_job_of_an_ended_run_is_a_violation(conn: Connection) -> None:
    run_id = (await runs.upsert(conn, trace_id="t")).run_id
    await runs.set_status(conn, run_id, RunStatus.DONE)
    add = "insert into jobsworth.reactive_jobs (mode, run_id) values ('answer', %(id)s)"
    async with rows.past_the_guards(conn):
        await execute(conn, add, {"id": run_id})
        await execute(conn, add, {"id": uuid4()})
        await execute(conn, "update jobsworth.runs set finished_at = now() - interval '1 minute'")
    found = await fetch_all(conn, "select v.invariant from jobsworth.violations v order by 1")
    assert [one["invariant"] for one in found] == [
        "ended run with an open job",
        "job of a run that is not there",
    ]
