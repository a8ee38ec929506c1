"""Times that Python does not have are read as the nearest that it has, and hide no other row."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import psycopg
import pytest

from db.documents import Unreadable
from db.loaders import FIRST, LAST
from db.pool import Connection, fetch_all, fetch_rows, fetch_val

LATE = ("infinity", "20000-01-01", "294276-12-31", "10000-01-01")
EARLY = ("-infinity", "4713-01-01 BC", "0001-12-31 BC")
TYPES = {
    "timestamptz": (FIRST, LAST),
    "timestamp": (FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None)),
    "date": (FIRST.date(), LAST.date()),
}

pytestmark = pytest.mark.both


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("name", TYPES)
async def test_a_time_beyond_python_is_the_nearest_one(
    conn: Connection, name: str, binary: bool
) -> None:
    first, last = TYPES[name]
    wanted = dict.fromkeys(EARLY, first) | dict.fromkeys(LATE, last)
    found: dict[str, date] = {}
    for text in wanted:
        cursor = conn.cursor(binary=binary)
        await cursor.execute(f"select %s::text::{name}", [text])  # pyright: ignore[reportArgumentType]
        [(found[text],)] = await cursor.fetchall()
    assert found == wanted
    assert all(type(one) is type(first) for one in found.values())


async def test_such_a_time_can_be_shown_in_any_zone_and_compared(conn: Connection) -> None:
    zones = (timedelta(hours=14), timedelta(hours=-12))
    for bound in (FIRST, LAST):
        for zone in zones:
            assert isinstance((bound + zone).isoformat(), str)
    for zone in ("Pacific/Kiritimati", "Etc/GMT+12"):
        await conn.execute("select set_config('timezone', %s, false)", [zone])
        late = await fetch_val(conn, "select 'infinity'::timestamptz")
        near = await fetch_val(conn, "select '9999-12-31 23:59:59+00'::timestamptz")
        assert isinstance(near, datetime)
        assert late > datetime.now().astimezone()


async def test_an_interval_beyond_python_is_the_longest_one(conn: Connection) -> None:
    longest = await fetch_val(conn, "select interval '170000000 years'")
    shortest = await fetch_val(conn, "select interval '-170000000 years'")
    assert (shortest, longest) == (timedelta.min, timedelta.max)


MIXED = """
select * from (values
  (1, '{"fine": 1}'::jsonb, timestamptz '2030-01-01 00:00:00+00', 1.5),
  (2, '{"n": 1e5000}', 'infinity', 'nan'),
  (3, '{"fine": 3}', '-infinity', 1e400)
) as t (n, document, at, amount) order by n
"""


async def test_an_unreadable_row_hides_no_other(conn: Connection) -> None:
    rows = await fetch_all(conn, MIXED)
    assert [row["n"] for row in rows] == [1, 2, 3]
    assert rows[0]["document"] == {"fine": 1}
    assert isinstance(rows[1]["document"], Unreadable)
    assert rows[1]["at"] == LAST
    in_binary = await fetch_rows(conn, MIXED, None, prepare=False)
    assert [row[:3] for row in in_binary] == [tuple(row.values())[:3] for row in rows]


async def test_a_connection_of_the_users_own_reads_the_same(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as plain:
        rows = await fetch_all(plain, MIXED)
        assert isinstance(rows[1]["document"], Unreadable)
        assert rows[2]["at"] == FIRST
        # Their own statements on it are read as before.
        cursor = await plain.execute("select 12345678901234567890123::text::jsonb")
        assert await cursor.fetchone() == (12345678901234567890123,)
