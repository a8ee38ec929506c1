"""`jobsworth step` and `jobsworth run fork`: what they print, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from db.fence import Lease
from db.pool import Connection
from db.steps import steps
from tests.db import lineage
from tests.db.protocol import done, parked, register, running, settle, state, take
from tests.support import run_cli
from tests.worker.cli.support import cli_json


async def _waiting(conn: Connection) -> Lease:
    lease = await running(conn)
    await steps.begin(conn, lease, "pay", attempt=1, effect="unsafe")
    await settle(conn, parked(lease, "person"))
    return lease


async def _done_run(conn: Connection) -> str:
    nodes: dict[str, Any] = {"draft": ("answer", {"words": 10}), "publish": ("answer", {})}
    run_id = await lineage.start(conn, nodes, {"publish": ("draft",)})
    worker_id = await register(conn)
    for effect in ("unsafe", "idempotent"):
        job, lease = await take(conn, worker_id)
        await steps.record(conn, lease, "fetch", "1", attempt=1)
        await steps.record(conn, lease, f"send {job.node}", "1", attempt=1, effect=effect)
        await settle(conn, done(lease))
    return str(run_id)


async def test_step_done_records_the_output_and_moves_the_job(
    conn: Connection, database_url: str
) -> None:
    lease = await _waiting(conn)
    told = cli_json(
        database_url,
        "step",
        "done",
        str(lease.job_id),
        "pay",
        "--output",
        '{"n": 1}',
        "--by",
        "Ann",
    )
    assert told == {
        "job_id": str(lease.job_id),
        "step": "pay",
        "decision": "done",
        "job_status": "queued",
    }
    [step] = await steps.list_for_job(conn, lease.job_id)
    assert step.output == {"n": 1}


async def test_the_remedy_of_why_works_as_pasted(conn: Connection, database_url: str) -> None:
    lease = await _waiting(conn)
    why = cli_json(database_url, "why", str(lease.job_id))
    command = why["remedy"].partition("if it did not: jobsworth ")[2].split()
    ended = run_cli(*command, url=database_url)
    assert ended.returncode == 0, ended.stderr
    assert "step pay runs again" in ended.stdout
    assert await state(conn, lease.job_id) == ("queued", None)
    again = run_cli(*command, url=database_url)
    assert again.returncode == 4
    assert "is not open" in again.stderr


async def test_an_output_that_is_not_json_is_explained(conn: Connection, database_url: str) -> None:
    lease = await _waiting(conn)
    ended = run_cli("step", "done", str(lease.job_id), "pay", "--output", "paid", url=database_url)
    assert ended.returncode == 2
    assert "the output is not JSON" in ended.stderr
    assert await state(conn, lease.job_id) == ("waiting", "person")


async def test_fork_says_what_it_reads_and_what_runs_again(
    conn: Connection, database_url: str
) -> None:
    run_id = await _done_run(conn)
    ended = run_cli("run", "fork", run_id, "--at", "send draft", "--dry-run", url=database_url)
    assert ended.returncode == 0, ended.stderr
    assert "this is what the fork would do" in ended.stderr
    shown = " ".join(ended.stdout.split())
    assert "reads 1 step, 0 calls, 0 tokens, 0 USD" in shown
    assert "unsafe draft: send draft" in shown
    assert "publish answer runs again, after it" in shown


async def test_fork_makes_a_run_with_changed_input(conn: Connection, database_url: str) -> None:
    run_id = await _done_run(conn)
    told = cli_json(
        database_url,
        *("run", "fork"),
        run_id,
        "--node",
        "draft",
        "--at",
        "fetch",
        "--change",
        'draft:{"words": 5}',
    )
    assert told["parent_run_id"] == run_id
    [draft] = await _payloads(conn, told["run_id"])
    assert draft == {"words": 5}


async def _payloads(conn: Connection, run_id: str) -> list[Any]:
    cursor = await conn.execute(
        "select payload from jobsworth.reactive_jobs where run_id = %s and node = 'draft'", [run_id]
    )
    return [row[0] for row in await cursor.fetchall()]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--at", "fetch"], 2, "several nodes of run"),
        (["--at", "nothing"], 3, "Its nodes: draft, publish"),
        (["--node", "draft", "--at", "nothing"], 3, "Its steps: fetch, send draft"),
        (["--node", "nothing"], 3, "Its nodes: draft, publish"),
        (["--node", "publish", "--change", 'draft:{"n": 1}'], 2, "Fork at that node"),
        (["--node", "draft", "--change", "draft"], 2, "'draft' does not have the form"),
        (["--node", "draft", "--change", 'draft:{"n": }'], 2, "is not JSON"),
    ],
    ids=str,
)
async def test_an_impossible_fork_is_explained(
    conn: Connection, database_url: str, arguments: list[str], code: int, said: str
) -> None:
    run_id = await _done_run(conn)
    ended = run_cli("run", "fork", run_id, *arguments, url=database_url)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_run_that_is_not_there_is_not_found(database_url: str) -> None:
    unknown = "019a9d3e-5b1c-7a42-9c1d-0123456789ab"
    ended = run_cli("run", "fork", unknown, "--at", "x", url=database_url)
    assert ended.returncode == 3
    assert "there is no run 019a9d3e" in ended.stderr
