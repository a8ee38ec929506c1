"""`python -m bench.disk [JOBS]`: what ended jobs take on the disk, and their table under load.

In: the number of jobs (50,000 by default). Out: the bytes of an ended job with its indexes and of
what hangs on it, and what a year at a million a day comes to; then, for each way of autovacuum, how
fast a drain is and how large the table of jobs has become. On a temporary server of its own.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import LiteralString
from uuid import uuid4

import orjson

from bench.server import running_server
from db.fence import Lease
from db.migrate import migrate
from db.pool import Connection, Database, execute, fetch_all
from db.queue import claim, finish
from db.queue.enqueue_many import enqueue_many
from db.queue.finish import Finish
from db.queue.new_job import NewJob
from db.schema import DEFAULT_SCHEMA

BATCH = 200
YEAR_JOBS = 365 * 1_000_000
PAYLOAD = {"text": "a question of two hundred characters " * 5, "user": str(uuid4())}
RESULT = orjson.dumps({"text": "an answer of four hundred characters, or so " * 9}).decode()

REGISTER: LiteralString = """
insert into jobsworth.workers (id, host, pid, version, modes, queues, slots)
values (%(id)s, 'bench', 1, '0', '{plain}', '{default}', 1)
"""
# What an agent's job of three steps and two calls leaves, with outputs of 1.5 kB.
STEPS: LiteralString = """
insert into jobsworth.steps (job_id, name, kind, effect, input_hash, input, output, attempt,
  started_at, finished_at)
select j.id, 'agent/request ' || n, 'call', 'idempotent', md5(n::text), '[["search"], {}]',
  jsonb_build_object('text', (
    select string_agg(md5(j.id::text || k::text || n::text), ' ') from generate_series(1, 45) k)),
  1, now(), now()
from jobsworth.reactive_jobs j cross join generate_series(1, 3) n
"""
CALLS: LiteralString = """
insert into jobsworth.llm_calls (job_id, lease_no, request_id, step_name, provider, model, status,
  input_tokens, output_tokens, cost, settled_at)
select j.id, 1, gen_random_uuid(), 'agent/request ' || n, 'openai', 'gpt-large', 'ok', 900, 120,
  0.0042, now()
from jobsworth.reactive_jobs j cross join generate_series(1, 2) n
"""
LEDGER: LiteralString = """
insert into jobsworth.token_ledger (call_id, job_id, entry, scope, mode, provider, model,
  input_tokens, output_tokens, cost)
select c.id, c.job_id, e.entry::jobsworth.ledger_entry, 'reactive', 'answer', c.provider, c.model,
  c.input_tokens, c.output_tokens, c.cost
from jobsworth.llm_calls c cross join (values ('reserve'), ('settle')) e (entry)
"""
SIZES: LiteralString = """
select c.relname as table, pg_table_size(c.oid)::bigint as rows_bytes,
  pg_indexes_size(c.oid)::bigint as index_bytes
from pg_class c
where c.relnamespace = 'jobsworth'::regnamespace and c.relkind = 'r'
  and c.relname in ('reactive_jobs', 'steps', 'llm_calls', 'token_ledger')
order by 1
"""
DEAD: LiteralString = """
select pg_table_size('jobsworth.reactive_jobs')::bigint as rows_bytes,
  pg_indexes_size('jobsworth.reactive_jobs')::bigint as index_bytes,
  pg_relation_size('jobsworth.jobs_ready')::bigint as ready_bytes,
  (select s.n_dead_tup from pg_stat_user_tables s
   where s.relid = 'jobsworth.reactive_jobs'::regclass) as dead
"""
WAYS: dict[str, LiteralString] = {
    "no autovacuum": "alter table jobsworth.reactive_jobs set (autovacuum_enabled = off)",
    "PostgreSQL's own settings": "alter table jobsworth.reactive_jobs reset "
    "(autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor)",
    "ours": "select 1",
    "ours, without a cost delay": "alter table jobsworth.reactive_jobs set "
    "(autovacuum_vacuum_cost_delay = 0)",
}


async def main(jobs: int) -> None:
    with running_server() as server:
        url = server.database("disk")
        migrate(url, DEFAULT_SCHEMA)
        async with opened(url) as conn:
            await conn.execute("alter system set autovacuum_naptime = '5s'")
            await execute(conn, "select pg_reload_conf()")
            await sizes(conn, jobs)
        for way, setting in WAYS.items():
            url = server.database("vacuum")
            migrate(url, DEFAULT_SCHEMA)
            async with opened(url) as conn:
                await execute(conn, setting)
                await vacuumed(conn, way, jobs)


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Connection]:
    """A connection whose statements may take long."""
    async with Database(url, pool_min=1, pool_max=1) as database, database.connection() as conn:
        conn.statement_seconds = 600
        yield conn


async def sizes(conn: Connection, jobs: int) -> None:
    """The bytes of a job that has ended, alone and with what an agent leaves."""
    await drain(conn, jobs)
    for statement in (STEPS, CALLS, LEDGER):
        await execute(conn, statement)
    for table in ("reactive_jobs", "steps", "llm_calls", "token_ledger"):
        await conn.execute(f"vacuum full jobsworth.{table}")
    total = 0.0
    for row in await fetch_all(conn, SIZES):
        each = (row["rows_bytes"] + row["index_bytes"]) / jobs
        total += each
        say(
            f"{row['table']}: {row['rows_bytes'] / jobs:,.0f} bytes a job and "
            f"{row['index_bytes'] / jobs:,.0f} of indexes; a year at a million jobs a day: "
            f"{each * YEAR_JOBS / 2**30:,.0f} GiB"
        )
    say(f"together {total:,.0f} bytes a job, {total * YEAR_JOBS / 2**30:,.0f} GiB a year")


async def vacuumed(conn: Connection, way: str, jobs: int) -> None:
    """A drain, five times over the same table."""
    began = time.monotonic()
    for _ in range(5):
        await drain(conn, jobs // 5)
    took = time.monotonic() - began
    await asyncio.sleep(6)
    [row] = await fetch_all(conn, DEAD)
    say(
        f"{way}: {jobs / took:,.0f} jobs/s; rows {row['rows_bytes'] / jobs:,.0f} bytes a job, "
        f"indexes {row['index_bytes'] / jobs:,.0f}; "
        f"the claim's index {row['ready_bytes']:,} bytes; {row['dead']:,} dead rows left"
    )


async def drain(conn: Connection, jobs: int) -> None:
    """Enqueue, claim and finish them."""
    worker_id = uuid4()
    await execute(conn, REGISTER, {"id": worker_id})
    await enqueue_many(conn, (NewJob("plain", PAYLOAD) for _ in range(jobs)))
    position = claim.FIRST
    for _ in range(jobs // BATCH + 1):
        claimed = await claim.claim(
            conn,
            worker_id=worker_id,
            probes=[("default", 3, position)],
            modes=["plain"],
            wanted=BATCH,
            crashes_max=5,
            suspect_wanted=True,
            alone=True,
        )
        if not claimed.jobs:
            return
        position = claimed.positions[("default", 3)]
        leases = [Lease(job.id, job.lease_no, worker_id) for job in claimed.jobs]
        await finish.finish(
            conn,
            [Finish(lease, "done", result=RESULT) for lease in leases],
        )


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 50_000))
