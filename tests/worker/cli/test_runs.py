"""`jobsworth run`: runs are started from a file, listed, shown as a tree and canceled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import pytest

from db.runs.runs import Edge, Graph, GraphNode
from tests.support import connect, run_cli
from tests.worker.cli.support import cli_json
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.views.run_tree import SHOWN_MAX, rows_of

DIAMOND = [
    {"node": "fetch", "mode": "read"},
    {"node": "left", "mode": "read", "after": ["fetch"]},
    {"node": "right", "mode": "read", "after": [{"node": "fetch", "on_failure": "skip"}]},
    {"node": "join", "mode": "write", "after": ["left", "right"]},
]

SPEND: LiteralString = """
insert into jobsworth.llm_calls (job_id, run_id, provider, model, request_id, status, settled_at,
  input_tokens, output_tokens, cost)
select j.id, j.run_id, 'p', 'm', 'r', 'ok', now(), 1000, 234, 0.5
from jobsworth.reactive_jobs j where j.node = 'fetch'
"""


METRICS: LiteralString = """
insert into jobsworth.run_metrics (run_id, job_id, effect_key, name, value)
select j.run_id, j.id, 'metric#' || m.n, 'score', m.value
from jobsworth.reactive_jobs j, (values (1, 0.5), (2, 4), (3, 2)) as m (n, value)
where j.node = 'fetch'
"""


def declared(tmp_path: Path, document: object) -> str:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    return str(path)


def test_a_file_starts_a_run_and_the_run_is_shown_as_a_tree(
    database_url: str, tmp_path: Path
) -> None:
    document = {"nodes": DIAMOND, "actor": "ada", "request": {"ask": "all"}}
    ended = run_cli("run", "start", declared(tmp_path, document), url=database_url)
    assert ended.returncode == 0, ended.stderr
    run_id = ended.stdout.strip()
    with connect(database_url) as conn:
        conn.execute(SPEND)
    shown = run_cli("run", "show", run_id[:18], url=database_url).stdout
    assert f"run {run_id}  executing" in shown
    assert "1: 1,000 tokens in, 234 out, cost 0.5" in shown
    rows = [line.split() for line in shown.split("Jobs\n")[1].splitlines()]
    assert rows[0][:2] == ["NODE", "STATUS"]
    fetch = str(cli_json(database_url, "run", "show", run_id)["graph"]["nodes"][0]["id"])
    assert rows[1] == ["fetch", "queued", fetch, "read", "1,234", "0.5"]
    assert rows[2][:3] == ["left", "waiting:", "parents"]
    assert rows[4][-3:] == ["after", "left,", "right"]


def test_programs_get_a_run_whole(database_url: str, tmp_path: Path) -> None:
    started = cli_json(database_url, "run", "start", declared(tmp_path, DIAMOND), "--key", "k")
    again = cli_json(database_url, "run", "start", declared(tmp_path, DIAMOND), "--key", "k")
    assert (started["created"], again) == (True, {"id": started["id"], "created": False})
    run = cli_json(database_url, "run", "show", started["id"])
    assert run["run"]["status"] == "executing"
    assert run["stats"]["jobs"] == {"queued": 1, "waiting": 3}
    assert [node["node"] for node in run["graph"]["nodes"]] == ["fetch", "left", "right", "join"]
    assert {edge["on_failure"] for edge in run["graph"]["edges"]} == {"fail", "skip"}


def test_runs_are_listed_by_filter(database_url: str, tmp_path: Path) -> None:
    for actor in ("ada", "bob"):
        document = {"nodes": DIAMOND, "actor": actor}
        run_cli("run", "start", declared(tmp_path, document), url=database_url)
    everyone = cli_json(database_url, "run")
    assert [run["actor"] for run in everyone] == ["bob", "ada"]
    assert len(cli_json(database_url, "run", "--actor", "ada", "--status", "executing")) == 1
    assert cli_json(database_url, "run", "list", "--status", "failed") == []
    text = run_cli("run", "--actor", "ada", url=database_url).stdout
    assert text.splitlines()[0].split() == ["ID", "STATUS", "AGE", "TOOK", "ACTOR", "DETAIL"]
    assert "executing" in text


def test_a_run_is_canceled_once(database_url: str, tmp_path: Path) -> None:
    run_id = cli_json(database_url, "run", "start", declared(tmp_path, DIAMOND))["id"]
    ended = run_cli("run", "cancel", run_id, url=database_url)
    assert ended.stdout == f"run {run_id} is canceled\n"
    again = run_cli("run", "cancel", run_id, url=database_url)
    assert again.returncode == ExitCode.CONFLICT
    assert "is canceled already" in again.stderr


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not JSON"),
        ("3", "does not declare a run"),
        ('{"nodes": [], "actr": "ada"}', "unknown options: actr"),
        ("[]", "at least one node"),
        ('[{"node": "a", "mode": "m", "after": ["b"]}]', "a comes after b, which is not a node"),
        (
            '[{"node": "a", "mode": "m", "after": ["b"]}, {"node": "b", "mode": "m",'
            ' "after": ["a"]}]',
            "in a circle: a → b → a",
        ),
    ],
)
def test_a_file_that_does_not_declare_a_run_is_refused(
    database_url: str, tmp_path: Path, document: str, message: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(document)
    ended = run_cli("run", "start", str(path), url=database_url)
    assert ended.returncode != 0
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_file_that_is_not_there_is_named(database_url: str) -> None:
    ended = run_cli("run", "start", "/nowhere/run.json", url=database_url)
    assert "/nowhere/run.json cannot be read" in ended.stderr


def test_an_unknown_run_is_not_found(database_url: str) -> None:
    ended = run_cli("run", "show", "0123456789", url=database_url)
    assert "there is no run 0123456789" in ended.stderr


# The tree.


def node(number: int, **columns: Any) -> GraphNode:
    values: dict[str, Any] = {
        "id": UUID(int=number),
        "node": f"n{number}",
        "mode": "m",
        "status": "done",
        "parent_id": None,
        "is_child": False,
        "calls": 0,
        "tokens": 0,
        "attempt": 1,
    }
    unset = dict.fromkeys(
        ("waiting_for", "waiting_detail", "error", "started_at", "finished_at", "cost")
    )
    return GraphNode.model_validate({**unset, **values, **columns})


def edge(child: int, parent: int) -> Edge:
    return Edge(job_id=UUID(int=child), needs_job_id=UUID(int=parent), on_failure="fail")


def test_a_long_chain_stays_at_one_level() -> None:
    chain = Graph(
        nodes=[node(n) for n in range(5_000)], edges=[edge(n, n - 1) for n in range(1, 5_000)]
    )
    rows = rows_of(chain)
    assert {row.level for row in rows} == {0}
    assert [row.name for row in rows[:3]] == ["n0", "n1", "n2"]
    assert len(rows) == 5_000


def test_a_node_stands_below_the_deepest_node_it_comes_after() -> None:
    graph = Graph(
        nodes=[node(0), node(1), node(2), node(3)],
        edges=[edge(1, 0), edge(2, 1), edge(3, 0), edge(3, 2)],
    )
    assert [(row.name, row.after) for row in rows_of(graph)] == [
        ("n0", ()),
        ("n1", ("n0",)),
        ("n2", ("n1",)),
        ("n3", ("n0", "n2")),
    ]


def test_one_row_counts_the_children_left_out() -> None:
    children = [node(n, parent_id=UUID(int=0), is_child=True) for n in range(1, 1_001)]
    rows = rows_of(Graph(nodes=[node(0), *children], edges=[]))
    assert len(rows) == 1 + SHOWN_MAX + 1
    assert (rows[-1].name, len(rows[-1].more), rows[-1].level) == ("… 990 more", 990, 1)


def test_of_many_siblings_the_failed_and_unfinished_ones_are_shown() -> None:
    """Siblings that were declared are left out too, except those that other nodes come after."""
    beside = [node(n, status={500: "failed", 700: "running"}.get(n, "done")) for n in range(1_000)]
    join = node(1_000, status="waiting")
    rows = rows_of(Graph(nodes=[*beside, join], edges=[edge(1_000, n) for n in range(1_000)]))
    names = [row.name for row in rows]
    assert {"n500", "n700", "n999", "n1000"} < set(names)
    assert names[-3:] == [f"… {1_000 - SHOWN_MAX - 1} more", "n999", "n1000"]
    assert len(rows) == SHOWN_MAX + 3


def test_a_failed_run_shows_the_command_that_retries_it(database_url: str, tmp_path: Path) -> None:
    run_id = cli_json(database_url, "run", "start", declared(tmp_path, DIAMOND))["id"]
    active = run_cli("run", "retry", run_id, url=database_url)
    assert active.returncode == ExitCode.CONFLICT
    assert "is not over" in active.stderr
    run_cli("run", "cancel", run_id, url=database_url)
    retry = f"jobsworth run retry {run_id}"
    assert retry in run_cli("run", "show", run_id, url=database_url).stdout
    again = cli_json(database_url, *retry.split()[1:])
    assert again == {"id": run_id, "status": "executing", "jobs": 4}
    run_cli("run", "cancel", run_id, url=database_url)
    told = run_cli("run", "retry", run_id, url=database_url)
    assert told.stdout == f"run {run_id} is executing: 4 jobs run again\n"


def test_a_finished_run_is_deleted(database_url: str, tmp_path: Path) -> None:
    run_id = cli_json(database_url, "run", "start", declared(tmp_path, DIAMOND))["id"]
    active = run_cli("run", "delete", run_id, url=database_url)
    assert active.returncode == ExitCode.CONFLICT
    assert f"jobsworth run cancel {run_id}" in active.stderr
    run_cli("run", "cancel", run_id, url=database_url)
    assert cli_json(database_url, "run", "delete", run_id) == {"id": run_id, "deleted": True}
    assert cli_json(database_url, "run") == []


def test_a_run_shows_its_metrics_and_what_it_was_forked_off(
    database_url: str, tmp_path: Path
) -> None:
    run_id = cli_json(database_url, "run", "start", declared(tmp_path, DIAMOND))["id"]
    with connect(database_url) as conn:
        conn.execute(METRICS)
    branch = cli_json(database_url, "run", "fork", run_id, "--node", "left")["run_id"]
    shown = run_cli("run", "show", run_id, url=database_url).stdout
    assert ["score", "3", "2", "0.5", "4"] in [line.split() for line in shown.splitlines()]
    assert f"branches  {branch}" in shown
    assert f"run {run_id}, node left" in run_cli("run", "show", branch, url=database_url).stdout
    assert cli_json(database_url, "run", "show", branch)["branch_of"]["parent_run_id"] == run_id
