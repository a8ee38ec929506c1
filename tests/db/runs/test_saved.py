"""Runs without jobs: steps, files and calls that were saved for them, their history and sums."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.errors import Conflict, InvalidInput, NotFound, Refused
from db.pool import Connection, Database, execute, fetch_all, fetch_one
from db.runs import runs
from db.runs.runs import Node, RunStatus
from db.runs.saved import save_artifact, save_step
from db.steps import artifacts
from tests.worker.cli.support import cli_json

CALL: LiteralString = """
insert into jobsworth.llm_calls (
  job_id, run_id, provider, model, request_id, status, settled_at, input_tokens, output_tokens,
  cost)
select %(job_id)s, %(run_id)s, 'p', 'm', gen_random_uuid()::text,
  case when %(open)s then 'started' else 'ok' end::jobsworth.call_status,
  case when not %(open)s then now() end, %(input)s, %(output)s, %(cost)s
"""
STATISTICS: LiteralString = "select * from jobsworth.run_statistics s where s.run_id = %(run_id)s"


async def draft(conn: Connection) -> UUID:
    return (await runs.upsert(conn, trace_id=str(uuid4()), actor="ada")).run_id


async def test_a_step_is_saved_once_and_a_failed_one_may_be_done_again(
    database: Database, conn: Connection
) -> None:
    run = await draft(conn)
    assert await save_step(database, run, "fetch", error="timed out", metadata={"try": 1})
    assert not await save_step(conn, run, "fetch", error="timed out")
    [failed] = await runs.get_steps(conn, run)
    assert (failed.error, failed.failed_at, failed.job_id) == (
        "timed out",
        failed.finished_at,
        None,
    )
    assert await save_step(conn, run, "fetch", {"pages": 2}, input=["a"])
    assert not await save_step(conn, run, "fetch", {"pages": 2}, input=["a"])
    [done] = await runs.get_steps(conn, run)
    assert (done.output, done.input, done.error, done.failed_at) == (
        {"pages": 2},
        ["a"],
        None,
        None,
    )
    with pytest.raises(Conflict, match=f"step fetch of run {run} is saved with another output"):
        await save_step(conn, run, "fetch", {"pages": 3})
    with pytest.raises(Conflict, match="saved with another output"):
        await save_step(conn, run, "fetch", error="no")


async def test_a_file_is_saved_once_and_listed_with_those_of_the_runs_jobs(
    conn: Connection,
) -> None:
    run = (await runs.start(conn, [Node("a", "answer")])).run_id
    made = await save_artifact(conn, run, "a.txt", b"a\0", metadata={"dpi": 1}, step="draw")
    assert await save_artifact(conn, run, "a.txt", b"a\0") == made
    away = await save_artifact(conn, run, "b.png", uri="https://example.org/b")
    file = await artifacts.get(conn, made)
    assert (file.job_id, file.run_id, file.step_name) == (None, run, "draw")
    assert (file.bytes, file.sha256) == (2, hashlib.sha256(b"a\0").hexdigest())
    assert (file.media_type, file.metadata) == ("text/plain", {"dpi": 1})
    assert await artifacts.content(conn, made) == b"a\0"
    await execute(
        conn,
        "insert into jobsworth.artifacts (job_id, effect_key, name, media_type, uri)"
        " select id, 'c', 'c', 'text/plain', 'x:y' from jobsworth.reactive_jobs",
    )
    found = await runs.get_artifacts(conn, run)
    assert [each.name for each in found] == ["a.txt", "b.png", "c"]
    assert found[1].id == away
    with pytest.raises(Conflict, match=f"run {run} has another file a.txt"):
        await save_artifact(conn, run, "a.txt", b"b")


async def test_what_cannot_be_saved_says_why(conn: Connection) -> None:
    run, nobody = await draft(conn), uuid4()
    for save in (save_step(conn, nobody, "a"), save_artifact(conn, nobody, "a", b"")):
        with pytest.raises(NotFound, match=f"there is no run {nobody}"):
            await save
    for content, uri in ((None, None), (b"", "x:y")):
        with pytest.raises(InvalidInput, match="file a needs either content or uri"):
            await save_artifact(conn, run, "a", content, uri=uri)
    with pytest.raises(InvalidInput, match="metadata of a step"):
        await save_step(conn, run, "a", metadata=[1])  # pyright: ignore[reportArgumentType]
    with pytest.raises(Refused, match="artifact_is_of_a_job_or_a_run"):
        await execute(
            conn,
            "insert into jobsworth.artifacts (effect_key, name, media_type, uri)"
            " values ('a', 'a', 'a', 'a:b')",
        )


async def test_each_move_of_a_run_is_kept_and_illegal_ones_are_refused(conn: Connection) -> None:
    run = await draft(conn)
    await save_step(conn, run, "a")
    await save_artifact(conn, run, "a", b"")
    await runs.set_status(conn, run, RunStatus.PLANNING, why="ada asked")
    await runs.set_status(conn, run, RunStatus.EXECUTING)
    with pytest.raises(InvalidInput, match="cannot go from executing to planning"):
        await runs.set_status(conn, run, RunStatus.PLANNING, why="never")
    await runs.set_status(conn, run, RunStatus.FAILED, error="no paper")
    with pytest.raises(InvalidInput, match="cannot go from failed to done"):
        await runs.set_status(conn, run, RunStatus.DONE)
    moves = await runs.transitions(conn, run)
    assert [(one.from_status, one.to_status, one.why) for one in moves] == [
        ("draft", "planning", "ada asked"),
        ("planning", "executing", None),
        ("executing", "failed", "no paper"),
    ]
    assert moves[0].at < moves[1].at < moves[2].at
    changes: tuple[LiteralString, ...] = (
        "delete from jobsworth.run_transitions",
        "update jobsworth.run_transitions set why = ''",
        "truncate jobsworth.run_transitions",
    )
    for change in changes:
        with pytest.raises(InvalidInput, match="run_transitions is append-only"):
            await execute(conn, change)
    await runs.delete(conn, run)
    assert await runs.transitions(conn, run) == []
    left = "select name from jobsworth.saved_steps union all select name from jobsworth.artifacts"
    assert await fetch_all(conn, left) == []


async def test_a_run_that_follows_its_jobs_says_so_in_its_history(conn: Connection) -> None:
    run = (await runs.start(conn, [Node("a", "answer")])).run_id
    await runs.cancel(conn, run, "too late")
    [moved] = await runs.transitions(conn, run)
    assert (moved.from_status, moved.to_status) == ("executing", "canceled")
    assert "too late" in (moved.why or "")
    plain = await draft(conn)
    await runs.cancel(conn, plain, "not wanted")
    assert (await runs.transitions(conn, plain))[0].why == "not wanted"


calls = st.lists(
    st.fixed_dictionaries(
        {
            "of_job": st.booleans(),
            "open": st.booleans(),
            "input": st.integers(0, 1_000_000),
            "output": st.none() | st.integers(0, 1_000_000),
            "cost": st.none() | st.decimals(0, 1_000, places=6),
        }
    ),
    max_size=6,
)


@given(drawn=calls, nodes=st.integers(0, 2))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_the_sums_of_a_run_are_the_same_by_every_path(
    conn: Connection, drawn: list[dict[str, Any]], nodes: int
) -> None:
    run = await run_with(conn, drawn, nodes)
    ended = [one for one in drawn if not one["open"]]
    stats = await runs.stats(conn, run)
    assert (stats.calls, stats.open_calls) == (len(drawn), len(drawn) - len(ended))
    assert stats.input_tokens == sum(one["input"] for one in drawn)
    assert stats.output_tokens == sum(one["output"] or 0 for one in drawn)
    assert stats.cost == sum((one["cost"] or 0 for one in drawn), Decimal(0))
    assert stats.cost_unknown_calls == sum(one["cost"] is None for one in ended)
    assert stats.jobs == ({"queued": nodes} if nodes else {})
    assert len(await runs.get_calls(conn, run)) == len(drawn)
    assert await seen(conn, run) == without_time(stats.model_dump())


async def test_the_command_line_shows_the_same_sums(conn: Connection, database_url: str) -> None:
    drawn = [
        {"of_job": n == 0, "open": False, "input": 7, "output": n, "cost": Decimal("0.25")}
        for n in range(3)
    ]
    run = await run_with(conn, drawn, 1)
    shown = cli_json(database_url, "run", "show", str(run))["stats"]
    stats = (await runs.stats(conn, run)).model_dump(mode="json")
    assert without_time(shown) == without_time(stats)
    assert (shown["calls"], shown["cost"]) == (3, "0.75")


async def run_with(conn: Connection, drawn: list[dict[str, Any]], nodes: int) -> UUID:
    """A run with so many jobs, and these calls of its first job or saved for it."""
    if nodes:
        run = (await runs.start(conn, [Node(f"n{n}", "answer") for n in range(nodes)])).run_id
        job = (await runs.get_jobs(conn, run))[0].id
    else:
        run, job = await draft(conn), None
    for one in drawn:
        values = {**one, "run_id": run, "job_id": job if one["of_job"] else None}
        await execute(conn, CALL, values)
    return run


async def seen(conn: Connection, run: UUID) -> dict[str, Any]:
    """The sums that the SQL view shows."""
    row = await fetch_one(conn, STATISTICS, {"run_id": run})
    assert row is not None
    return without_time({name: row[name] for name in runs.RunStats.model_fields})


def without_time(sums: dict[str, Any]) -> dict[str, Any]:
    """The duration of an open run grows from look to look."""
    return {name: value for name, value in sums.items() if name != "duration_seconds"}
