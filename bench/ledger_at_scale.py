"""`python -m bench.ledger_at_scale [ENTRIES]`: the cost of sums over a long ledger.

In: the number of entries (10 million by default), spread over a year, half of them reservations.
Out: for each sum, with and without the sums of closed days, the blocks that the server read and the
milliseconds that it took, the best of three. It runs on a temporary server of its own.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, cast

from psycopg.sql import SQL, Identifier

from bench.server import CONFIG
from db.migrate import migrate
from db.money import days as ledger_days
from db.money import ledger
from db.pool import Connection, begun
from db.schema import DEFAULT_SCHEMA
from db.server.embedded import start

CHUNK = 500_000
RUNS = 3
# A sum that takes longer is run once.
SLOW_MILLISECONDS = 5_000
INDEXES = (
    *("token_ledger_once", "token_ledger_time", "token_ledger_job", "token_ledger_run"),
    "token_ledger_adjusted",
)
# Two entries for each call; teams, agents, modes and models as a busy installation has them.
LOAD: LiteralString = """
insert into jobsworth.token_ledger (
  id, team_id, call_id, job_id, run_id, agent_id, entry, scope, mode, provider, model,
  input_tokens, output_tokens, cache_read_tokens, cost, occurred_at)
select lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(n / 2 %% 5), 32, '0')::uuid,
  ('1' || lpad(to_hex(n / 2), 31, '0'))::uuid, ('2' || lpad(to_hex(n / 6), 31, '0'))::uuid,
  ('3' || lpad(to_hex(n / 60), 31, '0'))::uuid, ('4' || lpad(to_hex(n / 2 %% 10), 31, '0'))::uuid,
  case when n %% 2 = 0 then 'reserve' else 'settle' end::jobsworth.ledger_entry, 'reactive',
  (array['classify', 'answer', 'plan', 'execute'])[1 + n / 2 %% 4], 'openai',
  (array['large', 'small', 'tiny'])[1 + n / 2 %% 3], 1000 + n %% 500, 100 + n %% 50, n %% 200,
  (n %% 1000) / 100000.0,
  now() - interval '365 days' + n * (interval '365 days' / %(entries)s)
from generate_series(%(first)s::bigint, %(last)s::bigint) n
"""


async def main(entries: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="jobsworth-bench-", dir="/tmp"))
    try:
        with start(directory, 18, CONFIG | {"synchronous_commit": "off"}) as server:
            migrate(server.url, DEFAULT_SCHEMA)
            async with await Connection.connect(server.url, autocommit=True) as conn:
                conn.statement_seconds = 3600
                await measure(conn, entries)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def measure(conn: Connection, entries: int) -> None:
    """Load, then measure before and after the days are closed."""
    began = time.monotonic()
    await load(conn, entries)
    say(f"{entries:,} entries in {time.monotonic() - began:,.0f} s; {await size(conn)}")
    await report(conn, "every entry")
    began = time.monotonic()
    days = await close_all(conn)
    say(f"{days:,} days closed in {time.monotonic() - began:,.0f} s")
    await conn.execute("vacuum analyze jobsworth.ledger_days")
    await report(conn, "closed days")


async def load(conn: Connection, entries: int) -> None:
    definitions: list[str] = []
    for name in INDEXES:
        cursor = await conn.execute("select pg_get_indexdef(%s::regclass)", [f"jobsworth.{name}"])
        definitions += [row[0] for row in await cursor.fetchall()]
        await conn.execute(SQL("drop index jobsworth.{}").format(Identifier(name)))
    await conn.execute("set session_replication_role = replica")
    for first in range(0, entries, CHUNK):
        last = min(first + CHUNK, entries) - 1
        await conn.execute(LOAD, {"entries": entries, "first": first, "last": last})
    for definition in definitions:
        await conn.execute(cast(LiteralString, definition))
    await conn.execute("vacuum analyze jobsworth.token_ledger")


async def close_all(conn: Connection) -> int:
    through, days = (await ledger_days.look(conn)).closable, 0
    while True:
        async with begun(conn, "begin"):
            closed = await ledger_days.close_day(conn, through)
        days += 1
        if closed is None or closed >= through:
            return days


async def report(conn: Connection, reading: str) -> None:
    for name, statement, values in sums():
        found = [await explained(conn, statement, values)]
        while len(found) < RUNS and found[0][1] < SLOW_MILLISECONDS:
            found.append(await explained(conn, statement, values))
        blocks, milliseconds = min(found, key=lambda each: each[1])
        say(f"{reading:12}  {name:24} {blocks:>10,} blocks {milliseconds:>10,.1f} ms")


def sums() -> list[tuple[str, LiteralString, dict[str, Any]]]:
    now = datetime.now(UTC)
    nobody: dict[str, Any] = {"team_id": None, "until": None}
    year, month = now - timedelta(days=364), now - timedelta(days=30)
    return [
        ("usage of today", ledger.DAILY_USAGE, nobody | {"day": None}),
        ("usage of a day last month", ledger.DAILY_USAGE, nobody | {"day": month.date()}),
        ("stats of 30 days", ledger.STATS, nobody | {"days_back": 30}),
        ("by mode, a year", ledger.USAGE_BY, nobody | {"by": "mode", "since": year}),
        ("by day, everything", ledger.USAGE_BY, nobody | {"by": "day", "since": None}),
        (
            "by run, a day",
            ledger.USAGE_BY_ENTRIES,
            nobody | {"by": "run", "since": now - timedelta(days=1)},
        ),
    ]


async def explained(
    conn: Connection, statement: LiteralString, values: dict[str, Any]
) -> tuple[int, float]:
    """The blocks read, cached or not, and the milliseconds."""
    text = "explain (analyze, buffers, timing off, format json) " + statement
    cursor = await conn.execute(text, values)
    [(plan,)] = await cursor.fetchall()
    top = plan[0]["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"], plan[0]["Execution Time"]


async def size(conn: Connection) -> str:
    cursor = await conn.execute(
        "select pg_size_pretty(pg_table_size('jobsworth.token_ledger')) || ', indexes '"
        " || pg_size_pretty(pg_indexes_size('jobsworth.token_ledger'))"
    )
    [(text,)] = await cursor.fetchall()
    return text


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000))
