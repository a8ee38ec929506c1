"""Runs: a DAG is declared in one call, its edges say what a failed parent means, and the run's
status follows from its jobs."""

from __future__ import annotations

import time
from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest

from db.errors import Conflict, InvalidInput, NotFound, Refused
from db.fence import Lease
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import promote
from db.queue.enqueue_many import enqueue_many
from db.queue.finish import Finish
from db.queue.new_job import NewJob
from db.runs import runs
from db.runs.runs import After, Node, RunStatus
from tests.db.protocol import (
    blocking,
    breaches,
    cancel,
    claim,
    done,
    failed,
    finish,
    lease_of,
    parked,
    register,
    resolve,
    retry,
    row,
    settle,
)
from tests.support import connect

pytestmark = pytest.mark.both

Names = dict[str, tuple[str, str | None]]

NODES: LiteralString = """
select j.id, j.node, j.status::text as status, j.waiting_for::text as waiting_for
from jobsworth.reactive_jobs j where j.run_id = %(id)s
"""

EDGE: LiteralString = """
insert into jobsworth.job_edges (job_id, needs_job_id) values (%(child)s, %(parent)s)
"""

DIAMOND = [
    Node("fetch", "answer"),
    Node("left", "answer", after=["fetch"]),
    Node("right", "answer", after=["fetch"]),
    Node("join", "answer", after=["left", "right"]),
]


@pytest.fixture
async def worker_id(conn: Connection) -> UUID:
    return await register(conn)


async def start(conn: Connection, nodes: list[Node], **options: Any) -> UUID:
    return (await runs.start(conn, nodes, **options)).run_id


async def nodes_of(conn: Connection, run_id: UUID) -> Names:
    return {
        one["node"]: (one["status"], one["waiting_for"])
        for one in await fetch_all(conn, NODES, {"id": run_id})
    }


async def id_of(conn: Connection, run_id: UUID, node: str) -> UUID:
    [found] = [one for one in await fetch_all(conn, NODES, {"id": run_id}) if one["node"] == node]
    return found["id"]


async def take_all(conn: Connection, worker_id: UUID) -> dict[str, Lease]:
    """Everything that is queued, claimed; by node."""
    got = await claim(conn, worker_id, 2_000)
    return {str(job.node): lease_of(job, worker_id) for job in got.jobs}


async def end(conn: Connection, worker_id: UUID, **endings: str) -> None:
    """Claim what is queued and end it: all done, but for those named."""
    finishes: list[Finish] = []
    for node, lease in (await take_all(conn, worker_id)).items():
        ending = endings.get(node, "done")
        finishes.append(failed(lease) if ending == "failed" else done(lease, f'"{node}"'))
    await settle(conn, *finishes)


async def status_of(conn: Connection, run_id: UUID) -> str:
    return str((await runs.get(conn, run_id)).status)


# Declared in one call.


async def test_a_run_starts_with_all_its_jobs_and_what_each_needs(conn: Connection) -> None:
    thread_id, agent_id, other = uuid4(), uuid4(), uuid4()
    run_id = await start(
        conn,
        [*DIAMOND, Node("last", "plan", {"n": 1}, after=["join"], agent_id=other, priority=1)],
        request={"ask": "all of it"},
        actor="ada",
        thread_id=thread_id,
        agent_id=agent_id,
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )
    run = await runs.get(conn, run_id)
    assert (run.actor, run.request, run.status) == ("ada", {"ask": "all of it"}, "executing")
    assert await nodes_of(conn, run_id) == {
        "fetch": ("queued", None),
        "left": ("waiting", "parents"),
        "right": ("waiting", "parents"),
        "join": ("waiting", "parents"),
        "last": ("waiting", "parents"),
    }
    last = await row(conn, await id_of(conn, run_id, "last"))
    assert (last["agent_id"], last["thread_id"], last["priority"]) == (other, thread_id, 1)
    assert last["payload"] == {"n": 1}
    fetch = await row(conn, await id_of(conn, run_id, "fetch"))
    assert (fetch["agent_id"], fetch["lane"]) == (agent_id, None)
    assert fetch["trace_parent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    graph = await runs.get_graph(conn, run_id)
    assert len(graph.edges) == 5
    assert {edge.on_failure for edge in graph.edges} == {"fail"}


async def test_a_run_is_declared_from_sql_and_from_a_blocking_connection(
    conn: Connection, database_url: str
) -> None:
    statement = """
    select jobsworth.start_run('[{"node": "a", "mode": "answer", "lane": "x", "delay": 60},
      {"node": "b", "mode": "answer", "after": [{"node": "a", "on_failure": "run"}]}]')
    """
    run_id = await fetch_val(conn, statement)
    assert await nodes_of(conn, run_id) == {"a": ("waiting", "timer"), "b": ("waiting", "parents")}
    assert await status_of(conn, run_id) == "waiting"
    with connect(database_url) as plain:
        started = runs.start_sync(plain, [Node("only", "answer")])
    assert await nodes_of(conn, started.run_id) == {"only": ("queued", None)}


async def test_an_idempotency_key_starts_one_run_in_each_team(conn: Connection) -> None:
    team = uuid4()
    first = await runs.start(conn, DIAMOND, idempotency_key="k")
    again = await runs.start(conn, [Node("other", "answer")], idempotency_key="k")
    assert (first.created, again.created, again.run_id) == (True, False, first.run_id)
    theirs = await runs.start(conn, DIAMOND, idempotency_key="k", team_id=team)
    assert theirs.created
    assert len(await nodes_of(conn, first.run_id)) == 4


async def test_two_starts_with_one_key_at_the_same_moment_make_one_run(
    database: Database, conn: Connection
) -> None:
    async with database.connection() as first, database.connection() as second:
        await first.execute("begin")
        one = await runs.start(first, DIAMOND, idempotency_key="k")
        start_two = runs.start(second, DIAMOND, idempotency_key="k")
        async with blocking(database, second, start_two) as result:
            await first.execute("commit")
        assert result == [runs.RunStarted(one.run_id, created=False)]
    assert await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs") == 4


async def test_a_repeated_start_with_its_own_id_adds_nothing(conn: Connection) -> None:
    run_id = uuid4()
    assert await runs.start(conn, DIAMOND, id=run_id) == runs.RunStarted(run_id, created=True)
    assert (await runs.start(conn, DIAMOND, id=run_id)).run_id == run_id
    assert len(await nodes_of(conn, run_id)) == 4


async def test_a_trace_id_that_another_run_has_is_refused(conn: Connection) -> None:
    await start(conn, DIAMOND, trace_id="t")
    with pytest.raises(Conflict, match="another run has the trace id t"):
        await start(conn, DIAMOND, trace_id="t")


async def test_a_run_whose_transaction_is_rolled_back_never_was(
    database: Database, conn: Connection
) -> None:
    async with database.connection() as open_one:
        await open_one.execute("begin")
        await runs.start(open_one, DIAMOND)
        await open_one.execute("rollback")
    assert await runs.count(conn) == 0
    assert await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs") == 0


@pytest.mark.parametrize(
    ("needs", "circle"),
    [
        ({"a": ["c"], "b": ["a"], "c": ["b"]}, "a → b → c → a"),
        ({"a": ["a"]}, "a → a"),
        ({"start": [], "x": ["start", "z"], "y": ["x"], "z": ["y"]}, "x → y → z → x"),
        ({"x": ["y"], "y": ["x", "free"], "free": []}, "x → y → x"),
    ],
)
async def test_a_circle_is_refused_by_name(
    conn: Connection, needs: dict[str, list[str]], circle: str
) -> None:
    nodes = [Node(name, "answer", after=after) for name, after in needs.items()]
    with pytest.raises(InvalidInput, match=f"in a circle: {circle} ") as refused:
        await start(conn, nodes)
    assert "Take one of these out" in refused.value.remedy
    assert await runs.count(conn) == 0


async def test_nodes_may_be_declared_in_any_order(conn: Connection) -> None:
    chain = [Node(f"n{n}", "answer", after=[f"n{n + 1}"]) for n in range(2_000)]
    run_id = await start(conn, [*chain, Node("n2000", "answer")])
    assert (await nodes_of(conn, run_id))["n2000"] == ("queued", None)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("[]", "at least one node"),
        ("{}", "at least one node"),
        ("null", "at least one node"),
        ('["a"]', "node 1 is not an object"),
        ('[{"mode": "answer"}]', "node 1 has no name"),
        ('[{"node": "a"}]', "node a has no mode"),
        ('[{"node": "a", "mode": "m", "afer": ["b"]}]', "node a has an unknown option afer"),
        ('[{"node": "a", "mode": "m", "after": "b"}]', 'node a has an "after" that is not a list'),
        (
            '[{"node": "a", "mode": "m", "payload": 3}]',
            "node a has a payload that is not an object",
        ),
        ('[{"node": "a", "mode": "m", "delay": -1}]', "node a has a delay that is negative"),
        ('[{"node": "a", "mode": "m", "priority": 9}]', "node a has a priority that is not 1 to 4"),
        ('[{"node": "a", "mode": "m"}, {"node": "a", "mode": "m"}]', "two nodes are named a"),
        (
            '[{"node": "a", "mode": "m", "after": ["b"]}]',
            "node a comes after b, which is not a node",
        ),
        ('[{"node": "a", "mode": "m", "after": [{"on_failure": "run"}]}]', "without a name"),
        (
            '[{"node": "a", "mode": "m", "after": ["b", "b"]}, {"node": "b", "mode": "m"}]',
            'node a names b twice in "after"',
        ),
        (
            '[{"node": "a", "mode": "m", "after": [{"node": "b", "on_failure": "die"}]},'
            ' {"node": "b", "mode": "m"}]',
            "node a says on_failure die of b",
        ),
    ],
)
async def test_a_declaration_that_makes_no_sense_is_refused_with_a_hint(
    conn: Connection, nodes: str, message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await fetch_val(conn, "select jobsworth.start_run(%(nodes)s::jsonb)", {"nodes": nodes})
    assert message in refused.value.message
    assert refused.value.remedy


def test_a_node_checks_its_own_options() -> None:
    with pytest.raises(InvalidInput, match="priority 9"):
        Node("a", "answer", priority=9)
    with pytest.raises(InvalidInput, match="is not a list"):
        Node("a", "answer", after="b")
    with pytest.raises(InvalidInput, match="on_failure 'die'"):
        After("a", "die")
    with pytest.raises(InvalidInput, match="name ''"):
        Node("", "answer")


@pytest.mark.parametrize("name", ["fetch/child:one", "fetch/job#1", "a\nb", "\x1b[2J"])
async def test_a_node_has_no_name_that_a_started_job_may_have_or_a_terminal_obeys(
    conn: Connection, name: str
) -> None:
    """Its child would not be made, and its parent would look for it for ever."""
    with pytest.raises(InvalidInput, match="has a name like|has a control character"):
        await start(conn, [Node("fetch", "answer"), Node(name, "answer")])


async def test_a_node_may_have_any_other_name(conn: Connection) -> None:
    names = ["a b", "search/web", "Ж 'q' \\ \"", "child:1", "🙂", "%s {x} $1"]
    run_id = await start(
        conn, [Node(name, "answer", after=names[:n]) for n, name in enumerate(names)]
    )
    assert set(await nodes_of(conn, run_id)) == set(names)


async def test_a_thousand_nodes_and_their_fan_in_start_quickly(
    conn: Connection, worker_id: UUID
) -> None:
    names = [f"n{n}" for n in range(1_000)]
    nodes = [Node("first", "answer")]
    nodes += [Node(name, "answer", after=["first"]) for name in names]
    began = time.monotonic()
    run_id = await start(conn, [*nodes, Node("last", "answer", after=names)])
    assert time.monotonic() - began < 3
    began = time.monotonic()
    await end(conn, worker_id)
    await end(conn, worker_id)
    await end(conn, worker_id)
    assert time.monotonic() - began < 10
    assert await status_of(conn, run_id) == "done"


async def test_an_edge_to_a_job_that_is_there_already_is_refused(conn: Connection) -> None:
    run_id = await start(conn, [Node("a", "answer"), Node("b", "answer")])
    values = {"child": await id_of(conn, run_id, "b"), "parent": await id_of(conn, run_id, "a")}
    with pytest.raises(InvalidInput, match="was there before this edge"):
        await execute(conn, EDGE, values)


async def test_a_job_that_is_enqueued_again_keeps_the_edges_it_has(conn: Connection) -> None:
    first, second = NewJob("answer", id=uuid4()), NewJob("answer", id=uuid4())
    child = NewJob("answer", id=uuid4(), after=[first.id or uuid4()])
    again = NewJob("answer", id=child.id, after=[second.id or uuid4()])
    assert await enqueue_many(conn, [first, second, child]) == 3
    assert await enqueue_many(conn, [again]) == 0
    edges = await fetch_all(conn, "select e.needs_job_id from jobsworth.job_edges e")
    assert [edge["needs_job_id"] for edge in edges] == [first.id]


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
    assert "jobsworth retry JOB" in refused.value.remedy
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
    await execute(conn, add, {"id": run_id})
    await execute(conn, add, {"id": uuid4()})
    await execute(conn, "update jobsworth.runs set finished_at = now() - interval '1 minute'")
    found = await fetch_all(conn, "select v.invariant from jobsworth.violations v order by 1")
    assert [one["invariant"] for one in found] == [
        "ended run with an open job",
        "job of a run that is not there",
    ]


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


# Upsert, list, count.


async def test_an_upsert_makes_a_draft_once_and_changes_what_is_given(conn: Connection) -> None:
    first = await runs.upsert(conn, idempotency_key="k", actor="ada", request={"n": 1})
    again = await runs.upsert(conn, idempotency_key="k", metadata={"m": 2})
    assert (first.created, again) == (True, runs.RunStarted(first.run_id, created=False))
    run = await runs.get(conn, first.run_id)
    assert (run.status, run.actor, run.request, run.metadata) == (
        "draft",
        "ada",
        {"n": 1},
        {"m": 2},
    )
    other = await runs.upsert(conn, trace_id="t", actor="bob")
    assert other.created
    assert (await runs.upsert(conn, trace_id="t")).run_id == other.run_id


async def test_an_upsert_without_a_key_or_of_an_ended_run_is_refused(conn: Connection) -> None:
    with pytest.raises(InvalidInput, match="which run is meant"):
        await runs.upsert(conn, actor="ada")
    run_id = (await runs.upsert(conn, idempotency_key="k", actor="ada")).run_id
    await runs.set_status(conn, run_id, RunStatus.DONE)
    assert not (await runs.upsert(conn, idempotency_key="k", actor="ada")).created
    with pytest.raises(Conflict, match="what it was asked stays"):
        await runs.upsert(conn, idempotency_key="k", actor="bob")


async def test_a_draft_is_started_by_its_key_once(conn: Connection) -> None:
    draft = await runs.upsert(conn, idempotency_key="k", request={"n": 1})
    started = await runs.start(conn, DIAMOND, idempotency_key="k")
    assert started.run_id == draft.run_id
    await runs.start(conn, DIAMOND, idempotency_key="k")
    run = await runs.get(conn, draft.run_id)
    assert (run.status, run.request) == ("executing", {"n": 1})
    assert len(await nodes_of(conn, draft.run_id)) == 4


async def test_the_jobs_of_a_draft_belong_to_what_the_draft_belongs_to(conn: Connection) -> None:
    team, thread, agent, project = uuid4(), uuid4(), uuid4(), uuid4()
    trace = "0af7651916cd43dd8448eb211c80319c"
    draft = await runs.upsert(
        conn, idempotency_key="k", team_id=team, thread_id=thread, agent_id=agent, trace_id=trace
    )
    nodes = [Node("a", "answer")]
    await runs.start(conn, nodes, idempotency_key="k", team_id=team, project_id=project)
    job = await row(conn, await id_of(conn, draft.run_id, "a"))
    assert (job["team_id"], job["thread_id"], job["agent_id"]) == (team, thread, agent)
    assert job["lane"] is None
    assert job["trace_parent"].split("-")[1] == trace
    run = await runs.get(conn, draft.run_id)
    assert (run.thread_id, run.project_id) == (thread, project)


async def test_runs_are_listed_by_page_and_filter(conn: Connection) -> None:
    agent_id, thread_id = uuid4(), uuid4()
    ids = [
        await start(conn, [Node("a", "answer")], actor=("ada", "bob")[n % 2], agent_id=agent_id)
        for n in range(5)
    ]
    await runs.cancel(conn, ids[0])
    mine = await start(conn, [Node("a", "answer")], thread_id=thread_id)
    page = await runs.list_runs(conn, actor="ada", limit=2)
    assert [run.id for run in page] == [ids[4], ids[2]]
    rest = await runs.list_runs(conn, actor="ada", limit=2, before_id=page[-1].id)
    assert [run.id for run in rest] == [ids[0]]
    assert [run.id for run in await runs.list_runs(conn, status=RunStatus.CANCELED)] == [ids[0]]
    assert [run.id for run in await runs.list_runs(conn, thread_id=thread_id)] == [mine]
    assert await runs.count(conn, agent_id=agent_id) == 5
    assert await runs.count(conn, actor="bob", status=RunStatus.EXECUTING) == 2
    with pytest.raises(InvalidInput, match="limit 0"):
        await runs.list_runs(conn, limit=0)
    with pytest.raises(NotFound):
        await runs.get(conn, uuid4())


@pytest.mark.parametrize("option", ['"delay": "soon"', '"priority": "high"', '"failures_max": []'])
async def test_a_number_that_is_none_is_refused_with_its_node(
    conn: Connection, option: str
) -> None:
    nodes = f'[{{"node": "a", "mode": "m", {option}}}]'
    with pytest.raises(InvalidInput, match="node a has a priority, delay, timeout or bound that"):
        await fetch_val(conn, "select jobsworth.start_run(%(nodes)s::jsonb)", {"nodes": nodes})


async def test_a_bad_number_in_a_declaration_is_refused(conn: Connection) -> None:
    nodes = '[{"node": "a", "mode": "m", "failures_max": 0}]'
    with pytest.raises(Refused):
        await fetch_val(conn, "select jobsworth.start_run(%(nodes)s::jsonb)", {"nodes": nodes})
