"""Runs: declared from anywhere, all or nothing, one for each key; drafts, pages and filters."""

from __future__ import annotations

import time
from typing import LiteralString
from uuid import UUID, uuid4

import pytest

from db.errors import Conflict, InvalidInput, NotFound
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob
from db.runs import runs
from db.runs.runs import After, Node, RunStatus
from tests.db.protocol import (
    blocking,
    row,
)
from tests.db.runs.graphs import (
    DIAMOND,
    end,
    id_of,
    nodes_of,
    start,
    status_of,
)
from tests.support import connect

pytestmark = pytest.mark.both

EDGE: LiteralString = """
insert into jobsworth.job_edges (job_id, needs_job_id) values (%(child)s, %(parent)s)
"""


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
    with pytest.raises(InvalidInput, match="'' is not the name of a node"):
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
