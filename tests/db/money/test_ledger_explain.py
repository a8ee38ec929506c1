"""Sums over a long ledger read what they need: closed days from their sums, the rest by index.

As in `test_explain`, what counts is the blocks that were asked for; statistics are missing or true.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import pytest

from db.diagnosis import health
from db.money import call_texts, days, ledger, limits, repricing
from db.pool import Connection, begun, execute, fetch_all, fetch_val

pytestmark = pytest.mark.both

ENTRIES = 100_000
DAYS = 200

LOAD: LiteralString = """
insert into jobsworth.token_ledger (
  call_id, run_id, entry, mode, provider, model, input_tokens, cost, occurred_at)
select lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(n / 50), 32, '0')::uuid, 'settle',
  (array['answer', 'plan'])[1 + n %% 2], 'acme', (array['large', 'small'])[1 + n %% 2], 10, 0.1,
  now() - interval '1 second' * (%(entries)s - n) * (86400.0 * %(days)s / %(entries)s)
from generate_series(1, %(entries)s) n
"""
LOAD_CALLS: LiteralString = """
insert into jobsworth.llm_calls (
  id, provider, model, request_id, status, input_tokens, output_tokens, cost, settled_at)
select l.call_id, l.provider, l.model, l.call_id::text, 'ok', 10, 0, 0.1, l.occurred_at
from jobsworth.token_ledger l
where l.occurred_at > now() - interval '20 days'
"""
# As old as the ledger: they must not be read each time.
LOAD_CORRECTIONS: LiteralString = """
insert into jobsworth.token_ledger (
  call_id, entry, provider, model, cost, reprices, occurred_at)
select l.call_id, 'adjust', l.provider, l.model, 0.1, true, l.occurred_at
from jobsworth.token_ledger l
where l.occurred_at < now() - interval '1 day' and l.input_tokens = 10
limit 20000
"""
LOAD_TEXTS: LiteralString = """
with sent as (
  insert into jobsworth.llm_calls (job_id, provider, model, request_id)
  select lpad(to_hex(n / 5), 32, '0')::uuid, 'acme', 'large', 'r' || n
  from generate_series(1, 20000) n
  returning id, job_id
), kept as (
  insert into jobsworth.call_records (call_id, day, asked)
  select s.id, current_date - mod(n, 20)::int, array[decode(md5(n::text), 'hex')]
  from (select id, row_number() over () as n from sent) s
)
insert into jobsworth.call_texts (day, hash, text)
select current_date - mod(n, 20)::int, decode(md5(n::text), 'hex'), repeat('text ', 20)
from generate_series(1, 20000) n
"""
# Autovacuum would read their blocks while they are counted.
QUIET: LiteralString = """
alter table jobsworth.token_ledger set (autovacuum_enabled = false);
alter table jobsworth.llm_calls set (autovacuum_enabled = false)
"""
QUIET_TEXTS: LiteralString = """
alter table jobsworth.llm_calls set (autovacuum_enabled = false);
alter table jobsworth.call_records set (autovacuum_enabled = false);
alter table jobsworth.call_texts set (autovacuum_enabled = false)
"""
HEAP_BLOCKS: LiteralString = "select pg_relation_size('jobsworth.token_ledger') / 8192"
TOUCHED: LiteralString = """
select sum(coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0)
  + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0))::bigint
from pg_statio_all_tables
where schemaname = 'jobsworth' and relname like any(%(tables)s)
"""
BOOKS = ("token_ledger", "llm_calls")


async def blocks(conn: Connection, statement: LiteralString, values: dict[str, Any]) -> int:
    [row] = await fetch_all(
        conn, "explain (analyze, buffers, timing off, format json) " + statement, values
    )
    top = row["QUERY PLAN"][0]["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"]


async def close_all(conn: Connection) -> date:
    through = (await days.look(conn)).closable
    while True:
        async with begun(conn, "begin"):
            if await days.close_day(conn, through) == through:
                return through


@pytest.mark.parametrize("analyzed", [False, True])
async def test_sums_of_a_long_ledger_read_little(conn: Connection, analyzed: bool) -> None:
    await execute(conn, QUIET)
    await execute(conn, "set session_replication_role = replica")
    await execute(conn, LOAD, {"entries": ENTRIES, "days": DAYS})
    await execute(conn, "set session_replication_role = origin")
    if analyzed:
        await execute(conn, "vacuum analyze jobsworth.token_ledger")
    whole = await fetch_val(conn, HEAP_BLOCKS)
    now, nobody = datetime.now(UTC), {"team_id": None, "until": None}
    sums: dict[str, tuple[LiteralString, dict[str, Any], int]] = {
        "today": (ledger.DAILY_USAGE, nobody | {"day": None}, 120),
        "a day": (ledger.DAILY_USAGE, nobody | {"day": (now - timedelta(days=9)).date()}, 120),
        "stats of 30 days": (ledger.STATS, nobody | {"days_back": 30}, 200),
        "by mode, ever": (ledger.USAGE_BY, nobody | {"by": "mode", "since": None}, 200),
        "by job, a day": (
            ledger.USAGE_BY_ENTRIES,
            nobody | {"by": "job", "since": now - timedelta(days=1)},
            120,
        ),
    }
    assert whole > 10 * max(limit for _, _, limit in sums.values()) / 2
    open_days = {name: await blocks(conn, text, values) for name, (text, values, _) in sums.items()}
    assert open_days["by mode, ever"] >= whole
    assert open_days["today"] <= sums["today"][2]

    await close_all(conn)
    if analyzed:
        await execute(conn, "analyze jobsworth.ledger_days")
    read = {name: await blocks(conn, text, values) for name, (text, values, _) in sums.items()}
    over = {name: found for name, found in read.items() if found > sums[name][2]}
    assert not over, f"{over} of {whole} blocks; all: {read}"


async def test_old_corrections_cost_a_look_at_the_books_nothing(conn: Connection) -> None:
    await execute(conn, QUIET)
    await execute(conn, "set session_replication_role = replica")
    await execute(conn, LOAD, {"entries": ENTRIES // 2, "days": DAYS})
    await execute(conn, LOAD_CALLS)
    await execute(conn, LOAD_CORRECTIONS)
    await execute(conn, "set session_replication_role = origin")
    await execute(conn, "analyze")
    # Of the other tables, which are empty, each plan reads the first block of each index.
    before = await _touched(conn, *BOOKS)
    assert await health.count_violations(conn) == {}
    assert await _touched(conn, *BOOKS) - before < 250


async def test_holding_calls_to_correct_them_reads_a_few_blocks_for_each(conn: Connection) -> None:
    await execute(conn, QUIET)
    await execute(conn, "set session_replication_role = replica")
    await execute(conn, LOAD, {"entries": ENTRIES // 2, "days": DAYS})
    await execute(conn, LOAD_CALLS)
    await execute(conn, "set session_replication_role = origin")
    since = datetime.now(UTC) - timedelta(days=19)
    before = await _touched(conn)
    async with begun(conn, repricing.CORRECTING):
        page = await repricing.page(
            conn, since, None, after_id=None, provider=None, model=None, most=500
        )
        assert page is not None
        held, calls = await repricing.lock_calls(conn, page.call_ids)
    assert held == len(calls) == 500
    assert (await _touched(conn) - before) / held < 30


async def _touched(conn: Connection, *tables: str) -> int:
    await conn.execute("select pg_stat_force_next_flush()")
    await conn.execute("select pg_stat_clear_snapshot()")
    return await fetch_val(conn, TOUCHED, {"tables": list(tables or "%")})


async def test_texts_of_calls_are_read_and_forgotten_by_index(conn: Connection) -> None:
    await execute(conn, QUIET_TEXTS)
    await execute(conn, LOAD_TEXTS)
    job = UUID(int=7)
    read: dict[str, tuple[LiteralString, dict[str, Any]]] = {
        "read": (call_texts.READ, {"job_id": job}),
        "forget": (call_texts.FORGET, {"days": 7, "most": 10}),
        "forget nothing": (call_texts.FORGET, {"days": 900, "most": 10}),
    }
    for analyzed in (False, True):
        if analyzed:
            await execute(conn, "analyze jobsworth.call_texts, jobsworth.call_records")
        for name, (text, values) in read.items():
            assert await blocks(conn, text, values) < 150, (name, analyzed)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_the_refusals_of_a_request_are_found_by_its_job(
    conn: Connection, analyzed: bool
) -> None:
    await execute(conn, LOAD_TEXTS)
    if analyzed:
        await execute(conn, "vacuum analyze jobsworth.llm_calls")
    values = {"job_id": UUID(int=77), "step_name": "s", "provider": "acme", "model": "large"}
    assert await blocks(conn, limits.REFUSALS, values) < 40
