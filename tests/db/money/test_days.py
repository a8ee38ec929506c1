"""Days are closed once, and whatever comes late; their sums are those of their entries."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from psycopg import IsolationLevel

from db.errors import Contended
from db.money import days as ledger_days
from db.money import ledger
from db.money.ledger import Dimension
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from tests.support import until

pytestmark = pytest.mark.both

DIMENSIONS: list[Dimension] = [
    *("day", "model", "mode", "provider", "scope", "agent", "team", "run"),
]
FIRST = date(2026, 3, 1)
DAYS = 6
TEAMS = [None, uuid4(), uuid4()]

ENTER: LiteralString = """
insert into jobsworth.token_ledger (
  team_id, entry, scope, mode, agent_id, provider, model, input_tokens, output_tokens,
  cache_read_tokens, cache_write_tokens, cost, unknown_costs, run_id, occurred_at)
values (
  %(team_id)s, %(entry)s, %(scope)s, %(mode)s, %(agent_id)s, %(provider)s, %(model)s,
  %(input_tokens)s, %(output_tokens)s, %(cache_read_tokens)s, %(cache_write_tokens)s, %(cost)s,
  %(unknown_costs)s, %(run_id)s, %(occurred_at)s)
"""
ALL: LiteralString = """
select l.entry::text, l.team_id, l.scope::text, l.mode, l.agent_id, l.provider, l.model,
  l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost,
  l.occurred_at, l.run_id, l.unknown_costs
from jobsworth.token_ledger l
where l.entry in ('settle', 'adjust')
"""
ROLLED: LiteralString = "select count(*) from jobsworth.ledger_days where day = %(day)s"
CLOSED: LiteralString = "select closed_through from jobsworth.ledger_closing"
AT: LiteralString = (
    "insert into jobsworth.token_ledger (entry, provider, model, input_tokens, occurred_at)"
    " values ('settle', 'acme', 'large', 1, %(at)s)"
)
OPEN: LiteralString = "begin; set local lock_timeout = '20s'"


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


async def enter(conn: psycopg.AsyncConnection[Any], day: date) -> None:
    await execute(conn, AT, {"at": noon(day)})


async def close_through(database: Database, day: date) -> None:
    while True:
        async with database.transaction() as conn:
            if await ledger_days.close_day(conn, day) == day:
                return


async def closed_through(conn: Connection) -> date | None:
    return await fetch_val(conn, CLOSED)


# The same numbers.


def random_entry(dice: random.Random) -> dict[str, Any]:
    second = dice.randrange(DAYS * 86_400)
    midnight = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    entry = dice.choice(["reserve", "settle", "settle", "settle", "adjust", "release"])
    least = -500 if entry == "adjust" else 0
    return {
        "team_id": dice.choice(TEAMS),
        "entry": entry,
        "scope": dice.choice(["proactive", "reactive"]),
        "mode": dice.choice([None, "answer", "plan"]),
        "agent_id": dice.choice([None, UUID(int=1)]),
        "provider": dice.choice(["acme", "other"]),
        "model": dice.choice(["large", "small"]),
        "input_tokens": dice.randrange(1000),
        "output_tokens": dice.randrange(1000),
        "cache_read_tokens": dice.randrange(100),
        "cache_write_tokens": dice.randrange(100),
        "cost": dice.choice([None, Decimal(dice.randrange(least, 5000)) / 1000]),
        "unknown_costs": dice.choice([None, None, None, -1, 0]),
        "run_id": dice.choice([None, UUID(int=2), UUID(int=3)]),
        # Midnight and its neighbours among them.
        "occurred_at": midnight
        + dice.choice(
            [
                timedelta(seconds=second),
                timedelta(days=second // 86_400),
                timedelta(days=second // 86_400, microseconds=-1),
            ]
        ),
    }


def key_of(entry: dict[str, Any], by: Dimension) -> str | None:
    if by == "day":
        return entry["occurred_at"].astimezone(UTC).date().isoformat()
    if by == "model":
        return f"{entry['provider']}:{entry['model']}"
    key = entry[f"{by}_id" if by in ("agent", "team", "run") else by]
    return None if key is None else str(key)


def expected(
    entries: list[dict[str, Any]],
    by: Dimension,
    since: datetime | None,
    until_: datetime | None,
    team_id: UUID | None,
) -> dict[str | None, tuple[Any, ...]]:
    sums: dict[str | None, list[dict[str, Any]]] = {}
    for entry in entries:
        within = (since is None or entry["occurred_at"] >= since) and (
            until_ is None or entry["occurred_at"] < until_
        )
        if within and team_id in (None, entry["team_id"]):
            sums.setdefault(key_of(entry, by), []).append(entry)
    return {key: summed(found) for key, found in sums.items()}


def summed(found: list[dict[str, Any]]) -> tuple[Any, ...]:
    known = [entry["cost"] for entry in found if entry["cost"] is not None]
    return (
        len(found),
        sum(entry["input_tokens"] for entry in found),
        sum(entry["output_tokens"] for entry in found),
        sum(entry["cache_read_tokens"] for entry in found),
        sum(entry["cache_write_tokens"] for entry in found),
        sum(known) if known else None,
        sum(
            entry["cost"] is None and entry["entry"] != "adjust"
            if entry["unknown_costs"] is None
            else entry["unknown_costs"]
            for entry in found
        ),
    )


def numbers(spent: ledger.Spent) -> tuple[Any, ...]:
    return (
        *(spent.entries, spent.input_tokens, spent.output_tokens),
        *(spent.cache_read_tokens, spent.cache_write_tokens),
        *(spent.cost, spent.unknown_cost_entries),
    )


def spans(dice: random.Random) -> Iterator[tuple[datetime | None, datetime | None]]:
    midnight = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    instants = [
        midnight + timedelta(days=dice.randrange(-1, DAYS + 2), seconds=dice.choice([0, 0, 1, 5e4]))
        for _ in range(4)
    ]
    yield None, None
    yield instants[0], None
    yield None, instants[1]
    yield instants[2], instants[3]
    yield midnight + timedelta(days=1), midnight + timedelta(days=4)


@pytest.mark.parametrize("seed", range(4))
async def test_sums_of_closed_days_are_those_of_all_entries(
    database: Database, conn: Connection, seed: int
) -> None:
    dice = random.Random(seed)
    await execute(conn, "set timezone to 'Asia/Tokyo'")
    for _ in range(4):
        for _ in range(60):
            await execute(conn, ENTER, random_entry(dice))
        if dice.random() < 0.8:
            await close_through(database, FIRST + timedelta(days=dice.randrange(-1, DAYS)))
        entries = await fetch_all(conn, ALL)
        for since, until_ in spans(dice):
            by = dice.choice(DIMENSIONS)
            team_id = dice.choice(TEAMS)
            found = await ledger.usage_by(conn, by, since, until=until_, team_id=team_id)
            assert {each.key: numbers(each) for each in found} == expected(
                entries, by, since, until_, team_id
            ), (by, since, until_, team_id)
        for day in range(DAYS):
            usage = await ledger.get_daily_usage(conn, FIRST + timedelta(days=day))
            of_day = expected(entries, "day", None, None, None).get(usage.day.isoformat())
            assert numbers(usage) == (of_day or (0, 0, 0, 0, 0, 0, 0))


async def test_stats_reach_back_into_closed_days(database: Database, conn: Connection) -> None:
    today = datetime.now(UTC).date()
    for days in (0, 1, 2, 5):
        await enter(conn, today - timedelta(days=days))
    before = await ledger.get_stats(conn, 30)
    await close_through(database, today - timedelta(days=2))
    assert await ledger.get_stats(conn, 30) == before
    assert before[0].entries == 4
    # That a closed day is not read from its entries shows when its sum is another.
    await execute(
        conn,
        "update jobsworth.ledger_days set entries = 100 where day = %s",
        [today - timedelta(days=5)],
    )
    assert (await ledger.get_stats(conn, 30))[0].entries == 103
    assert (await ledger.get_stats(conn, 3))[0].entries == 3


# Closing.


async def test_days_without_entries_are_closed_at_once(
    database: Database, conn: Connection
) -> None:
    await enter(conn, FIRST)
    await enter(conn, FIRST + timedelta(days=400))
    through = FIRST + timedelta(days=1000)
    for expected_day in (FIRST, FIRST + timedelta(days=400), through, through):
        async with database.transaction() as other:
            assert await ledger_days.close_day(other, through) == expected_day
    assert await closed_through(conn) == through


async def test_of_two_who_close_one_does_and_the_other_passes(
    database: Database, conn: Connection
) -> None:
    await enter(conn, FIRST)
    async with database.transaction() as one, database.transaction() as other:
        assert await ledger_days.close_day(one, FIRST) == FIRST
        assert await ledger_days.close_day(other, FIRST) is None
    async with database.transaction() as again:
        assert await ledger_days.close_day(again, FIRST) == FIRST
    assert await fetch_val(conn, ROLLED, {"day": FIRST}) == 1


async def test_who_dies_while_closing_has_closed_nothing(
    database: Database, conn: Connection
) -> None:
    await enter(conn, FIRST)
    async with database.connection() as other:
        await other.execute("begin")
        assert await ledger_days.close_day(other, FIRST) == FIRST
        await other.close()
    assert await closed_through(conn) is None
    assert await fetch_val(conn, ROLLED, {"day": FIRST}) == 0


async def test_a_late_entry_opens_its_day_and_those_after_it(
    database: Database, conn: Connection
) -> None:
    for day in range(3):
        await enter(conn, FIRST + timedelta(days=day))
    await close_through(database, FIRST + timedelta(days=2))
    await enter(conn, FIRST + timedelta(days=1))
    assert await closed_through(conn) == FIRST
    usage = await ledger.get_daily_usage(conn, FIRST + timedelta(days=1))
    assert usage.entries == 2
    await close_through(database, FIRST + timedelta(days=2))
    assert (await ledger.get_daily_usage(conn, FIRST + timedelta(days=1))).entries == 2


async def test_an_erased_entry_opens_its_day(database: Database, conn: Connection) -> None:
    await enter(conn, FIRST)
    await close_through(database, FIRST)
    async with database.transaction() as other:
        erase = (
            "select set_config('jobsworth.erase', string_agg(l.id::text, ','), true)"
            " from jobsworth.token_ledger l"
        )
        await fetch_val(other, erase)
        await execute(other, "delete from jobsworth.token_ledger")
    assert (await ledger.get_daily_usage(conn, FIRST)).entries == 0


async def test_who_closes_passes_while_a_late_entry_is_not_committed(
    database: Database, conn: Connection
) -> None:
    await enter(conn, FIRST)
    async with database.transaction() as late:
        await enter(late, FIRST)
        async with database.transaction() as other:
            assert await ledger_days.close_day(other, FIRST) is None
    await close_through(database, FIRST)
    assert (await ledger.get_daily_usage(conn, FIRST)).entries == 2


async def test_a_late_entry_waits_for_who_closes_its_day_and_opens_it_again(
    database: Database, conn: Connection
) -> None:
    await enter(conn, FIRST)
    async with (
        database.connection() as late,
        anyio.create_task_group() as tasks,
        database.transaction() as closer,
    ):
        assert await ledger_days.close_day(closer, FIRST) == FIRST
        tasks.start_soon(enter, late, FIRST)
        pid = late.info.backend_pid
        await until(lambda: fetch_val(conn, BLOCKED, {"pid": pid}))
    assert await closed_through(conn) == FIRST - timedelta(days=1)
    assert (await ledger.get_daily_usage(conn, FIRST)).entries == 2


BLOCKED: LiteralString = "select cardinality(pg_blocking_pids(%(pid)s)) > 0"


async def test_a_late_entry_of_an_old_snapshot_fails_rather_than_being_missed(
    database: Database, conn: Connection
) -> None:
    await enter(conn, FIRST)
    other = await psycopg.AsyncConnection.connect(database.url)
    async with other:
        await other.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await other.execute("select 1 from jobsworth.token_ledger")
        await close_through(database, FIRST)
        with pytest.raises(Contended):
            await enter(other, FIRST)
        await other.rollback()
    assert (await ledger.get_daily_usage(conn, FIRST)).entries == 1


async def test_a_look_sees_everybody_who_is_writing_into_the_ledger(
    database: Database, conn: Connection
) -> None:
    assert (await ledger_days.look(conn)).writers == []
    async with database.transaction() as writer:
        await execute(writer, AT, {"at": datetime.now(UTC)})
        first = await ledger_days.look(conn)
        assert len(first.writers) == 1
        async with database.transaction() as reader:
            await fetch_val(reader, "select count(*) from jobsworth.token_ledger")
            assert (await ledger_days.look(conn)).writers == first.writers
    assert (await ledger_days.look(conn)).writers == []


async def test_what_may_be_closed_ends_an_hour_and_five_minutes_ago(conn: Connection) -> None:
    found = await ledger_days.look(conn)
    now = await fetch_val(conn, "select clock_timestamp()")
    assert found.closable == (now - timedelta(minutes=65)).astimezone(UTC).date() - timedelta(
        days=1
    )
    assert not found.is_done()


async def test_only_what_is_an_hour_late_pays_for_a_lock(
    database: Database, conn: Connection
) -> None:
    now = datetime.now(UTC)
    async with database.transaction() as closer:
        await ledger_days.close_day(closer, FIRST)
        await execute(conn, AT, {"at": now - timedelta(minutes=59)})
        await execute(conn, "set lock_timeout = '50ms'")
        with pytest.raises(Contended):
            await execute(conn, AT, {"at": now - timedelta(minutes=61)})
