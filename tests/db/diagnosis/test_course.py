"""What arrived, failed and was asked, by stretches of time, beside a long history."""

from typing import LiteralString

from db.diagnosis import course
from db.diagnosis.course import COUNTED_MAX, STRETCHES
from db.pool import Connection, execute, fetch_all
from tests.db.rows import past_the_guards

OLD_JOBS = 50_000
# Of three months, and 1,500 of this minute; every hundredth failed.
FILL: LiteralString = """
insert into jobsworth.reactive_jobs (id, mode, status, created_at, finished_at, result)
select (lpad(to_hex((extract(epoch from o.at) * 1000)::bigint), 12, '0') || '7'
    || lpad(to_hex(n & 4095), 3, '0') || '8' || lpad(to_hex(n), 15, '0'))::uuid,
  'answer', case when mod(n, 100) = 0 then 'failed' else 'done' end::jobsworth.job_status,
  o.at, o.at, 'null'
from generate_series(1, %(jobs)s) n
cross join lateral (
  select now() - case when n <= 1500 then interval '10 seconds'
    else n * interval '155 seconds' + interval '1 day' end as at) o
"""
EXPLAIN: LiteralString = "explain (analyze, format json) "


async def test_a_stretch_is_counted_by_index_and_up_to_a_bound(conn: Connection) -> None:
    async with past_the_guards(conn):
        await execute(conn, FILL, {"jobs": OLD_JOBS})
    await execute(conn, "analyze jobsworth.reactive_jobs")
    async with conn.transaction():
        found = await course.stretches(conn, 30, 120.0)
        values = {"stretches": 30, "seconds": 120.0, "most": COUNTED_MAX}
        rows = await fetch_all(conn, EXPLAIN + STRETCHES, values)
    assert [each.arrived for each in found] == [0] * 29 + [COUNTED_MAX]
    assert [each.failed for each in found] == [0] * 29 + [15]
    assert [each.calls for each in found] == [0] * 30
    plan = str(rows[0]["QUERY PLAN"])
    assert "Seq Scan" not in plan
    assert "reactive_jobs_pkey" in plan
    assert "jobs_failed" in plan

    [failing] = await course.failing(conn, 3_600.0)
    assert (failing.mode, failing.jobs) == ("answer", 15)
