"""The scene in which hot statements are measured: many finished jobs, and the blocks they cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, LiteralString
from uuid import UUID

from db.fence import Lease
from db.pool import Connection, execute, fetch_val
from tests.db.protocol import (
    claim,
    lease_of,
)
from tests.support import connect

FINISHED = 50_000
CHURNED = 10_000
QUEUED = 5_000

LOAD_FINISHED: LiteralString = """
insert into jobsworth.reactive_jobs (mode, worker_id, lease_no)
select 'answer', %(worker_id)s::uuid, n from generate_series(1, %(most)s) n
"""
END: LiteralString = """
update jobsworth.reactive_jobs set status = 'done', finished_at = now() where status = 'queued'
"""
RUN: LiteralString = "update jobsworth.reactive_jobs set status = 'running' where status = 'queued'"
END_RUNNING: LiteralString = """
update jobsworth.reactive_jobs set status = 'done', finished_at = now() where status = 'running'
"""
LOAD_QUEUED: LiteralString = """
insert into jobsworth.reactive_jobs (mode, priority)
select 'answer', 3 from generate_series(1, %(most)s)
"""
LOAD_TIMERS: LiteralString = """
insert into jobsworth.reactive_jobs (mode, run_at)
select 'answer', now() + interval '1 hour' * case when n <= 100 then 0.0001 else 1 end
from generate_series(1, 2000) n
"""
LOAD_APPROVALS: LiteralString = """
insert into jobsworth.approvals (proposal_text, shown_hash, status, chosen_option, closed_at)
select 'may I?', '', 'approved', 'approve', now() from generate_series(1, 20000)
"""

OPEN_APPROVALS: LiteralString = """
insert into jobsworth.approvals (proposal_text, shown_hash, job_id)
select 'may I?', '', j.id from jobsworth.reactive_jobs j
where j.status = 'waiting' and j.run_at > now() + interval '30 minutes'
"""

LOAD_CALLS: LiteralString = """
insert into jobsworth.llm_calls (provider, model, request_id)
select 'openai', 'gpt', gen_random_uuid() from generate_series(1, %(most)s)
"""
SETTLE_CALLS: LiteralString = """
update jobsworth.llm_calls set status = 'ok', settled_at = now() where status = 'started'
"""
LOAD_STEPS: LiteralString = """
insert into jobsworth.steps (job_id, name, attempt)
select j.id, 'draft', 1 from jobsworth.reactive_jobs j limit %(most)s
"""

# Everything the schema's tables and indexes were asked for, in memory or not.
TOUCHED: LiteralString = """
select sum(coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0)
  + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0))::bigint as blocks
from pg_statio_all_tables where schemaname = 'jobsworth'
"""

Work = Callable[[], Awaitable[Any]]


# What autovacuum reads would be counted too.
QUIET: LiteralString = """
do $$
declare t text;
begin
  for t in select format('%I.%I', schemaname, tablename) from pg_tables
    where schemaname = 'jobsworth'
  loop
    execute 'alter table ' || t || ' set (autovacuum_enabled = false)';
  end loop;
end $$
"""


class Meter:
    """Runs work on one connection with generic plans, and tells what it touched."""

    def __init__(self, conn: Connection, url: str) -> None:
        self.conn = conn
        self._url = url
        with connect(url) as other:
            other.execute(QUIET)

    async def touched(self, work: Work) -> int:
        await self._flush()
        before = self._blocks()
        await work()
        await self._flush()
        return self._blocks() - before

    async def _flush(self) -> None:
        await self.conn.execute("select pg_stat_force_next_flush()", prepare=False)

    def _blocks(self) -> int:
        with connect(self._url) as other:
            row = other.execute(TOUCHED).fetchone()
            assert row is not None
            return row["blocks"]


class Scene:
    """A table with a history: 50,000 finished rows and 5,000 queued ones."""

    def __init__(self, meter: Meter, worker_id: UUID) -> None:
        self.meter = meter
        self.conn = meter.conn
        self.worker_id = worker_id
        self.beyond = 0
        self.leases: list[Lease] = []

    async def load(self) -> None:
        values = {"worker_id": self.worker_id}
        await execute(self.conn, LOAD_FINISHED, {**values, "most": FINISHED - CHURNED})
        await execute(self.conn, END)
        await execute(self.conn, LOAD_FINISHED, {**values, "most": CHURNED})
        await execute(self.conn, RUN)
        await execute(self.conn, END_RUNNING)
        self.beyond = await fetch_val(
            self.conn, "select max(position) from jobsworth.reactive_jobs"
        )
        await execute(self.conn, LOAD_CALLS, {"most": CHURNED})
        await execute(self.conn, SETTLE_CALLS)
        await execute(self.conn, LOAD_STEPS, {"most": CHURNED})
        await execute(self.conn, LOAD_QUEUED, {"most": QUEUED})
        await execute(self.conn, LOAD_TIMERS)
        await execute(self.conn, LOAD_APPROVALS)
        await execute(self.conn, OPEN_APPROVALS)

    async def claim(self, wanted: int, *, rescan: bool = False) -> None:
        got = await claim(self.conn, self.worker_id, wanted, beyond=0 if rescan else self.beyond)
        assert len(got.jobs) == wanted
        self.beyond = max(self.beyond, *got.positions.values())
        self.leases += [lease_of(job, self.worker_id) for job in got.jobs]

    def leased(self, count: int) -> list[Lease]:
        taken, self.leases = self.leases[:count], self.leases[count:]
        assert len(taken) == count
        return taken
