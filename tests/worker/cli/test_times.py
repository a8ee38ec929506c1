"""Times as people type and read them."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import InvalidInput
from worker.cli.terminal.times import (
    UNITS,
    age,
    ago,
    duration,
    parse_duration,
    parse_instant,
    parse_since,
    span,
)

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("90s", 90),
        ("250ms", 0.25),
        ("10m", 600),
        ("10 min", 600),
        ("1h30m", 5_400),
        ("1h 30m 5s", 5_405),
        ("2D", 172_800),
        ("1w", 604_800),
    ],
)
def test_spans_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text, "--delay") == seconds


@pytest.mark.parametrize("text", ["", " ", "soon", "-5", "5 x", "1h30", "h", "1e3", "5s5", "٣x"])
def test_a_wrong_span_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match="--delay"):
        parse_duration(text, "--delay")


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)))
def test_a_number_and_a_unit_are_their_product(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}", "it") == number * UNITS[unit]


@given(st.text())
def test_any_text_is_a_span_or_refused(text: str) -> None:
    with suppress(InvalidInput):
        assert parse_duration(text, "it") >= 0


def test_instants_keep_their_zone() -> None:
    instant = parse_instant("2026-02-01T09:00+01:00", "--run-at")
    assert instant.astimezone(UTC) == datetime(2026, 2, 1, 8, tzinfo=UTC)


def test_an_instant_without_zone_is_refused_with_both_readings() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_instant("2026-02-01T09:00", "--run-at")
    assert "no time zone" in refused.value.message
    assert "2026-02-01T09:00:00Z for UTC" in refused.value.remedy


def test_a_wrong_instant_is_refused_with_an_example() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_instant("tomorrow", "--run-at")
    assert "'tomorrow'" in refused.value.message
    assert refused.value.remedy.startswith("write it like 2")


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("today", datetime(2026, 2, 3, tzinfo=UTC)),
        ("yesterday", datetime(2026, 2, 2, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-01-31T10:00Z", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_beginnings_are_read(text: str, instant: datetime) -> None:
    assert parse_since(text, "--since", NOW) == instant


@pytest.mark.parametrize("text", ["once", "2026-13-01", "2026-01-31T10:00", "999999999w"])
def test_a_wrong_beginning_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--since"):
        parse_since(text, "--since", NOW)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "just now"),
        (42, "42 s ago"),
        (180, "3 min ago"),
        (7_200, "2 h ago"),
        (259_200, "3 days ago"),
        (-600, "in 10 min"),
    ],
)
def test_instants_are_told_as_distances(seconds: float, words: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == words


def test_a_missing_instant_is_an_empty_text() -> None:
    assert ago(None, NOW) == ""


def test_an_age_leaves_ago_out() -> None:
    assert age(NOW - timedelta(minutes=3), NOW) == "3 min"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0.0254, "25 ms"), (2.5, "2.5 s"), (12, "12 s"), (240, "4 min")],
)
def test_spans_are_told_in_their_unit(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5s"), (90, "1m30s"), (5400, "1h30m"), (172800, "2d"), (1.5, "1.5s"), (0, "0s")],
)
def test_a_period_is_said_as_it_is_typed(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert parse_duration(text, "it") == seconds
