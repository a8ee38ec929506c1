"""Rows are found by the beginning and by the end of their id."""

from uuid import UUID

import pytest

from db.diagnosis import lookup
from db.pool import Connection

TWINS = [UUID(f"01234567-89ab-7000-8000-000000{n}abcd") for n in (11, 22)]
LOWEST, HIGHEST = UUID(int=0), UUID(int=2**128 - 1)
INSERT = "insert into jobsworth.reactive_jobs (id, mode) values (%s, 'greet')"


async def _insert(conn: Connection) -> None:
    for twin in TWINS:
        await conn.execute(INSERT, [twin])


async def test_a_range_of_ids_is_found_newest_first(conn: Connection) -> None:
    await _insert(conn)
    within = await lookup.jobs_within(conn, LOWEST, HIGHEST, 10)
    assert [each.id for each in within] == TWINS[::-1]
    assert [each.what for each in within] == ["greet", "greet"]
    assert await lookup.jobs_within(conn, HIGHEST, HIGHEST, 10) == []


async def test_an_end_is_found_near_and_far(conn: Connection) -> None:
    await _insert(conn)
    for far in (False, True):
        [found] = await lookup.jobs_ending(conn, "000011abcd", 10, far=far)
        assert found.id == TWINS[0]
        both = await lookup.jobs_ending(conn, "abcd", 10, far=far)
        assert [each.id for each in both] == TWINS[::-1]
        assert len(await lookup.jobs_ending(conn, "abcd", 1, far=far)) == 1
        assert await lookup.jobs_ending(conn, "000000000000", 10, far=far) == []


@pytest.mark.usefixtures("unguarded")
async def test_a_job_that_waits_or_failed_long_ago_is_found_once(conn: Connection) -> None:
    await _insert(conn)
    await conn.execute(
        "update jobsworth.reactive_jobs set status = 'failed', finished_at = now() where id = %s",
        [TWINS[0]],
    )
    await conn.execute(
        "update jobsworth.reactive_jobs set status = 'waiting', waiting_for = 'person'"
        " where id = %s",
        [TWINS[1]],
    )
    both = await lookup.jobs_ending(conn, "abcd", 10, far=True)
    assert [each.id for each in both] == TWINS[::-1]


async def test_runs_and_approvals_are_found_too(conn: Connection) -> None:
    await conn.execute("insert into jobsworth.runs (id, actor) values (%s, 'ada')", [TWINS[0]])
    await conn.execute(
        "insert into jobsworth.approvals (id, proposal_text, shown_hash)"
        " values (%s, 'May I?', '0')",
        [TWINS[1]],
    )
    for table, whole, what in (
        (lookup.RUNS, TWINS[0], "ada"),
        (lookup.APPROVALS, TWINS[1], "May I?"),
    ):
        [begins] = await table.within(conn, LOWEST, HIGHEST, 10)
        [ends] = await table.ending(conn, str(whole)[-12:], 10, far=False)
        [far] = await table.ending(conn, str(whole)[-12:], 10, far=True)
        assert begins == ends == far
        assert (begins.id, begins.what) == (whole, what)
