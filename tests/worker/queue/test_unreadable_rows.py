"""A row that Python cannot read costs its own job, and no neighbour, worker or list."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import pytest

from db.pool import execute
from db.queue import jobs
from db.steps import steps
from jobsworth import Job, handler
from tests.chaos.scene import Scene
from tests.support import run_cli, until_sync
from tests.worker.job_api import JobApi

DIGITS = '{"n": 1e5000}'
NESTING = '{"n": ' + "[" * 3000 + "]" * 3000 + "}"
UNREADABLE = pytest.mark.parametrize("document", [DIGITS, NESTING], ids=["digits", "nesting"])

ENQUEUE_ALL: LiteralString = """
insert into jobsworth.reactive_jobs (mode, payload)
select 'end.return', case when n = 5 then %(document)s::jsonb else jsonb_build_object('n', n) end
from generate_series(1, 9) as n
"""


ENDED: LiteralString = """
select count(*) from jobsworth.reactive_jobs where finished_at is not null
"""

HOW_THEY_ENDED: LiteralString = """
select status::text, attempt, crashes, error from jobsworth.reactive_jobs order by position
"""


@UNREADABLE
def test_a_job_that_cannot_be_read_fails_alone(scene: Scene, document: str) -> None:
    """One claim takes all nine; its neighbours are charged nothing, and `jobs` shows them all."""
    scene.conn.execute(ENQUEUE_ALL, {"document": document})
    ids: list[UUID] = [
        row["id"] for row in scene.rows("select id from jobsworth.reactive_jobs order by position")
    ]
    daemon = scene.start({"JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings"})
    until_sync(lambda: scene.value(ENDED) == len(ids), 60)
    ended = scene.rows(HOW_THEY_ENDED)
    assert [one["status"] for one in ended] == ["done"] * 4 + ["failed"] + ["done"] * 4
    assert all((one["attempt"], one["crashes"]) == (1, 0) for one in ended)
    assert "the payload cannot be read: " in ended[4]["error"]
    assert daemon.running
    listed = run_cli("jobs", url=scene.url)
    assert (listed.returncode, listed.stdout.count("end.return")) == (0, 9), listed.stderr
    shown = run_cli("job", "show", str(ids[4]), url=scene.url)
    assert shown.returncode == 0, shown.stderr
    assert "unreadable" in shown.stdout


STORE_STEP: LiteralString = """
insert into jobsworth.steps (job_id, name, kind, output, attempt, finished_at)
values (%(job_id)s, 'fetch', 'step', %(document)s::jsonb, 1, now())
"""


@UNREADABLE
async def test_a_step_that_cannot_be_read_fails_its_job(api: JobApi, document: str) -> None:
    @handler("replay", failures_max=1)
    async def replay(job: Job) -> str:
        return await job.step("fetch", lambda: "again")

    job_id = await api.enqueue("replay")
    async with api.database.connection() as conn:
        await execute(conn, STORE_STEP, {"job_id": job_id, "document": document})
        await api.work()
        failed = await jobs.get_by_id(conn, job_id)
        [step] = await steps.list_for_job(conn, job_id)
    assert failed.status == "failed"
    assert "what step 'fetch' returned cannot be read: " in (failed.error or "")
    assert "unreadable" in step.output


# By the trigger of another client: each result of a child becomes one that cannot be read.
BREAK_RESULTS: tuple[LiteralString, ...] = (
    "create table public.broken (result jsonb)",
    """
create function public.break_result() returns trigger language plpgsql as $$
begin
  new.result := (select b.result from public.broken b);
  return new;
end $$""",
    """
create trigger break_result before update on jobsworth.reactive_jobs for each row
when (new.mode = 'child' and new.status = 'done') execute function public.break_result()""",
)


@UNREADABLE
async def test_a_signal_a_child_and_a_parent_that_cannot_be_read_fail_who_reads_them(
    api: JobApi, document: str
) -> None:
    @handler("waits", failures_max=1)
    async def waits(job: Job) -> Any:
        return await job.wait("go", timeout_seconds=60)

    @handler("child")
    async def child() -> None: ...

    @handler("gathers", failures_max=1)
    async def gathers(job: Job) -> Any:
        return await job.gather(job.spawn("child", name="one"))

    @handler("follows", failures_max=1)
    async def follows(job: Job) -> Any:
        return dict(await job.parents())

    signaled = await api.enqueue("waits")
    before = await api.enqueue("child")
    after = await api.enqueue("follows", after=[before])
    parent = await api.enqueue("gathers")
    async with api.database.connection() as conn:
        values = {"id": signaled, "document": document}
        await execute(conn, "select jobsworth.send_signal(%(id)s, 'go', %(document)s)", values)
        for statement in BREAK_RESULTS:
            await execute(conn, statement)
        await execute(conn, "insert into public.broken values (%s::jsonb)", [document])
        await api.work()
        found = {one: await jobs.get_by_id(conn, one) for one in (signaled, parent, after, before)}
    assert [one.status for one in found.values()] == ["failed", "failed", "failed", "done"]
    assert "the payload of signal 'go' cannot be read" in (found[signaled].error or "")
    assert "the result of child 'child:one' cannot be read" in (found[parent].error or "")
    assert "cannot be read" in (found[after].error or "")
