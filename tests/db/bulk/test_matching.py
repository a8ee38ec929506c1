"""The jobs that a filter matches, found in stretches."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import pytest

from db.bulk import matching
from db.bulk.filters import JobFilter
from db.bulk.matching import ANY, FAILED, LOOK, MATCHING, WAITING, Page, list_matching
from db.pool import Connection, execute, fetch_all, fetch_val
from tests.db.protocol import add
from tests.db.rows import past_the_guards

SPOILED: LiteralString = """
update jobsworth.reactive_jobs j
set status = 'failed', finished_at = now(), attempt = 1, failures = 1, error = 'boom',
  waiting_for = null, waiting_detail = null
where mod(get_byte(uuid_send(j.id), 15), 3) = 0
"""
OLD_JOBS = 20_000
# Every thousandth failed.
FILL: LiteralString = """
insert into jobsworth.reactive_jobs (id, mode, status, created_at, finished_at, result)
select (lpad(to_hex(n), 12, '0') || '7000' || '8' || lpad(to_hex(n), 15, '0'))::uuid, 'answer',
  case when mod(n, 1000) = 0 then 'failed' else 'done' end::jobsworth.job_status,
  now(), now(), 'null'
from generate_series(1, %(jobs)s) n
"""


async def _all(conn: Connection, which: JobFilter, **options: Any) -> list[UUID]:
    """The ids of all pages."""
    found: list[UUID] = []
    before_id = None
    for _ in range(1_000):
        page: Page = await list_matching(conn, which, before_id=before_id, **options)
        found += [job.id for job in page.jobs]
        before_id = page.looked_to
        if before_id is None:
            return found
    pytest.fail("it never ends")


async def test_the_pages_hold_each_job_that_matches_once(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "FIRST_STRETCH", 2)
    monkeypatch.setattr(matching, "LONGEST_STRETCH", 4)
    for n in range(40):
        await add(conn, "plan" if n % 2 else "answer", lane=f"lane {n % 3}" if n % 5 else None)
    async with past_the_guards(conn):
        await execute(conn, SPOILED)
    for given, condition in (
        ({"error": "BOOM"}, "j.error = 'boom'"),
        ({"status": "failed", "mode": "plan"}, "j.status = 'failed' and j.mode = 'plan'"),
        ({"status": "waiting"}, "j.status = 'waiting'"),
        ({"waiting_for": "lane", "mode": "plan"}, "j.waiting_for = 'lane' and j.mode = 'plan'"),
        ({"lane": "lane 1"}, "j.lane = 'lane 1'"),
        ({"mode": "nobody"}, "false"),
    ):
        which = JobFilter.model_validate(given)
        wanted: list[UUID] = await fetch_val(
            conn,
            "select array(select j.id from jobsworth.reactive_jobs j where "  # pyright: ignore[reportArgumentType]
            + condition
            + " order by j.id desc)",
        )
        for limit in (1, 3, 100):
            for seconds in (0.0, 60.0):
                found = await _all(conn, which, limit=limit, look_seconds=seconds)
                assert found == wanted, (given, limit, seconds)


async def test_what_comes_in_beside_it_hides_and_doubles_nothing(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "FIRST_STRETCH", 4)
    monkeypatch.setattr(matching, "LONGEST_STRETCH", 4)
    before = [await add(conn) for _ in range(10)]
    look = matching._look  # pyright: ignore[reportPrivateUsage]

    async def look_and_add(*given: Any) -> Any:
        passed = await look(*given)
        for _ in range(3):
            await add(conn)
        return passed

    monkeypatch.setattr(matching, "_look", look_and_add)
    found = await _all(conn, JobFilter(mode="answer"), limit=100, look_seconds=60.0)
    assert found[-10:] == before[::-1]
    assert len(found) == len(set(found))


async def test_rare_jobs_are_found_by_their_index(conn: Connection) -> None:
    async with past_the_guards(conn):
        await execute(conn, FILL, {"jobs": OLD_JOBS})
    await execute(conn, "analyze jobsworth.reactive_jobs")
    page = await list_matching(conn, JobFilter.model_validate({"status": "failed"}), limit=50)
    assert (len(page.jobs), page.looked, page.looked_to) == (20, 20, None)
    assert "jobs_failed_ids" in await _plan(conn, LOOK.replace("{source}", FAILED))
    assert "jobs_waiting" in await _plan(conn, LOOK.replace("{source}", WAITING))
    assert "reactive_jobs_pkey" in await _plan(conn, MATCHING.replace("{source}", ANY))


async def _plan(conn: Connection, query: LiteralString) -> str:
    values = {"before_id": None, "last_id": UUID(int=0), "stretch": 8_000, "limit": 50}
    values |= JobFilter(mode="nobody").values()
    plan = str((await fetch_all(conn, "explain (analyze, format json) " + query, values))[0])
    assert "Seq Scan" not in plan
    return plan
