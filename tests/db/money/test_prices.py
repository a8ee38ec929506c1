"""Own prices: kept by row, and the one that applies chosen by team, model and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import psycopg
import pytest

from db.errors import InvalidInput
from db.money import prices
from db.money.prices import OwnPrice, choose
from db.pool import Connection, fetch_one

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ONE, TWO = Decimal(1), Decimal(2)


def price(model: str = "large", **more: object) -> OwnPrice:
    values = {
        "id": uuid4(),
        "team_id": None,
        "provider": "acme",
        "model": model,
        "input": ONE,
        "output": TWO,
        "cache_read": None,
        "cache_write": None,
        "valid_from": None,
        "note": None,
        "created_at": NOW,
    }
    return OwnPrice.model_validate(values | more)


async def test_a_price_set_again_takes_the_place_of_the_other_under_a_new_id(
    conn: Connection,
) -> None:
    first = await prices.set_price(conn, "acme", "large", input=ONE, output=TWO, note="contract")
    second = await prices.set_price(conn, "acme", "large", input=TWO, output=TWO)
    assert second.id != first.id
    assert (first.note, second.note) == ("contract", None)
    assert await prices.list_prices(conn) == [second]


async def test_prices_of_other_teams_and_times_stand_side_by_side(conn: Connection) -> None:
    team_id = uuid4()
    ever = await prices.set_price(conn, "acme", "large", input=ONE, output=TWO)
    later = await prices.set_price(conn, "acme", "large", input=ONE, output=TWO, valid_from=NOW)
    theirs = await prices.set_price(conn, "acme", "large", input=ONE, output=ONE, team_id=team_id)
    assert await prices.list_prices(conn) == [ever, later, theirs]
    assert await prices.remove_price(conn, "acme", "large", team_id=team_id) == [theirs]
    assert len(await prices.remove_price(conn, "acme", "large")) == 2
    assert await prices.remove_price(conn, "acme", "large") == []


@pytest.mark.parametrize(
    ("model", "rate"),
    [("la*ge", "1"), ("", "1"), ("large", "-1"), ("large", "NaN"), ("large", "1e10")],
)
async def test_what_is_no_price_is_refused_by_us_and_by_the_table(
    conn: Connection, model: str, rate: str
) -> None:
    with pytest.raises(InvalidInput):
        await prices.set_price(conn, "acme", model, input=Decimal(rate), output=ONE)
    with pytest.raises(psycopg.errors.CheckViolation):
        await conn.execute(
            "insert into jobsworth.prices (provider, model, input, output)"
            " values ('acme', %s, %s, 1)",
            [model, Decimal(rate)],
        )


async def test_anybody_sets_a_price_by_sql(conn: Connection) -> None:
    await fetch_one(
        conn,
        "insert into jobsworth.prices (provider, model, input, output)"
        " values ('acme', 'large', 1, 2) returning id",
    )
    [found] = await prices.list_prices(conn)
    assert (found.input, found.output, found.cache_read) == (ONE, TWO, None)


def test_the_exact_model_goes_before_the_longest_pattern() -> None:
    anything, larger, exact = price("*"), price("lar*"), price("large")
    known = [exact, anything, larger]
    assert choose(known, "acme", "large", NOW, None) is exact
    assert choose(known, "acme", "larger", NOW, None) is larger
    assert choose(known, "acme", "small", NOW, None) is anything
    assert choose(known, "other", "large", NOW, None) is None


def test_a_teams_price_goes_before_everybodys_and_is_nobody_elses() -> None:
    team_id = uuid4()
    theirs, ours = price("*", team_id=team_id), price("large")
    assert choose([ours, theirs], "acme", "large", NOW, team_id) is theirs
    assert choose([ours, theirs], "acme", "large", NOW, uuid4()) is ours
    assert choose([theirs], "acme", "large", NOW, None) is None


def test_of_prices_of_one_model_the_last_one_valid_applies() -> None:
    ever, new = price(), price(valid_from=NOW)
    future = price(valid_from=NOW + timedelta(days=1))
    known = [future, new, ever]
    assert choose(known, "acme", "large", NOW - timedelta(seconds=1), None) is ever
    assert choose(known, "acme", "large", NOW, None) is new
