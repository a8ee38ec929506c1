"""What the installation's facts say beside many open jobs."""

from __future__ import annotations

from typing import LiteralString

from db.diagnosis import checkup
from db.diagnosis.checkup import COUNTED_MAX, QUEUES, UNKNOWN_MAX, UNKNOWN_MODES
from db.pool import Connection, execute, fetch_all
from tests.db.protocol import register
from tests.db.rows import past_the_guards

FLOOD: LiteralString = """
insert into jobsworth.reactive_jobs (mode, status, queue, position)
select case when n <= 5 then 'strange' else 'answer' end, 'queued'::jobsworth.job_status, 'flood', n
from generate_series(1, %(jobs)s) n
union all select 'odd', 'queued'::jobsworth.job_status, 'small', 1
"""
EXPLAIN: LiteralString = "explain (analyze, buffers, format json) "
BLOCKS_MAX = 1_000


async def test_a_flood_of_open_jobs_costs_the_facts_little(conn: Connection) -> None:
    await register(conn, ["answer"])
    async with past_the_guards(conn):
        await execute(conn, FLOOD, {"jobs": COUNTED_MAX + 5_000})
    await execute(conn, "analyze jobsworth.reactive_jobs")
    found = await checkup.unknown_modes(conn, 60)
    assert [(each.mode, each.jobs) for each in found] == [("strange", 5), ("odd", 1)]
    queues = {each.name: each for each in await checkup.queues(conn)}
    assert queues["flood"].more_queued
    assert not queues["flood"].more_waiting
    assert COUNTED_MAX - 1 <= queues["flood"].queued <= COUNTED_MAX
    values = {"alive_seconds": 60, "each": UNKNOWN_MAX, "most": COUNTED_MAX}
    for explained in (EXPLAIN + UNKNOWN_MODES, EXPLAIN + QUEUES):
        [row] = await fetch_all(conn, explained, values)
        plan = row["QUERY PLAN"][0]["Plan"]
        blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        assert blocks < BLOCKS_MAX, blocks
