"""What hangs on a run is read from its own jobs alone, and a look at a run costs the same however
many of its jobs have ended."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID, uuid4

import pytest

from db.pool import Connection, execute
from db.runs import runs
from db.runs.runs import Node
from tests.db.queue.plans.test_explain import ANALYZE, Meter

pytestmark = pytest.mark.both

RUNS, JOBS = 20, 1_000

LOAD_RUNS: LiteralString = """
insert into jobsworth.runs (id, status)
select lpad(n::text, 32, '0')::uuid, 'executing' from generate_series(1, %(runs)s) n
"""
LOAD_JOBS: LiteralString = """
insert into jobsworth.reactive_jobs (mode, run_id, node)
select 'answer', lpad(r::text, 32, '0')::uuid, 'n' || n
from generate_series(1, %(runs)s) r cross join generate_series(1, %(jobs)s) n
"""
END_MOST: LiteralString = """
update jobsworth.reactive_jobs set status = 'done', finished_at = now() where node <> 'n1'
"""
LOAD_CALLS: LiteralString = """
insert into jobsworth.llm_calls (job_id, run_id, provider, model, request_id, status, settled_at,
  input_tokens, output_tokens, cost)
select j.id, j.run_id, 'p', 'm', j.id, 'ok', now(), 10, 5, case when j.node <> 'n2' then 0.5 end
from jobsworth.reactive_jobs j
"""
LOOK: LiteralString = "select jobsworth.move_runs(array[%(id)s]::uuid[])"

# Blocks for one look at a run, and for each job of which something is summed up.
LOOK_MAX, JOB_MAX = 60, 10

RUN_ID = UUID(f"{7:032d}")


async def load(conn: Connection) -> None:
    await execute(conn, LOAD_RUNS, {"runs": RUNS})
    await execute(conn, LOAD_JOBS, {"runs": RUNS, "jobs": JOBS})
    await execute(conn, LOAD_CALLS)
    await execute(conn, END_MOST)


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("statistics", ["missing", "true"])
async def test_a_look_and_the_sums_of_a_run_stay_on_their_indexes(
    conn: Connection, database_url: str, statistics: str
) -> None:
    meter = Meter(conn, database_url)
    await execute(conn, "set plan_cache_mode = force_generic_plan")
    await load(conn)
    if statistics == "true":
        await execute(conn, ANALYZE)
        await execute(conn, "analyze jobsworth.runs, jobsworth.llm_calls")
    values = {"id": RUN_ID}
    await execute(conn, LOOK, values)
    assert await meter.touched(lambda: execute(conn, LOOK, values)) < LOOK_MAX
    assert await meter.touched(lambda: runs.last_beat(conn, RUN_ID)) < LOOK_MAX
    assert await meter.touched(lambda: runs.stats(conn, RUN_ID)) < JOB_MAX * JOBS
    assert await meter.touched(lambda: runs.get_graph(conn, RUN_ID)) < 2 * JOB_MAX * JOBS


@pytest.mark.usefixtures("unguarded")
async def test_the_sums_of_a_run_are_those_of_its_calls(conn: Connection) -> None:
    await load(conn)
    stats = await runs.stats(conn, RUN_ID)
    assert stats.jobs == {"queued": 1, "done": JOBS - 1}
    assert (stats.calls, stats.open_calls, stats.cost_unknown_calls) == (JOBS, 0, 1)
    assert (stats.input_tokens, stats.output_tokens) == (10 * JOBS, 5 * JOBS)
    assert stats.cost == (JOBS - 1) / 2
    assert stats.duration_seconds is not None
    assert len(await runs.get_calls(conn, RUN_ID)) == JOBS


async def test_a_run_without_calls_sums_up_to_nothing(conn: Connection) -> None:
    run_id = (await runs.start(conn, [Node("a", "answer", delay=60)])).run_id
    stats = await runs.stats(conn, run_id)
    assert (stats.jobs, stats.calls, stats.cost) == ({"waiting": 1}, 0, 0)
    unknown = await runs.stats(conn, uuid4())
    assert (unknown.jobs, unknown.duration_seconds) == ({}, None)


async def test_steps_of_a_run_are_listed_over_all_its_jobs(conn: Connection) -> None:
    run_id = (await runs.start(conn, [Node("a", "answer"), Node("b", "answer")])).run_id
    add = """
    insert into jobsworth.steps (job_id, name, attempt, output, finished_at)
    select j.id, 'fetch', 1, '1', now() from jobsworth.reactive_jobs j
    """
    await execute(conn, add)
    found = await runs.get_steps(conn, run_id)
    assert [step.name for step in found] == ["fetch", "fetch"]
    assert len({step.job_id for step in found}) == 2
