"""A lost database is one line with its cause and remedy, and again once a minute."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from db.errors import Refused, Unavailable
from worker import events, log, outages

AWAY = Unavailable("connection refused", "start PostgreSQL")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [1000.0]
    monkeypatch.setattr(outages, "monotonic", lambda: at[0])
    return at


class Lines:
    def __init__(self) -> None:
        self._stream = io.BytesIO()
        log.configure_logging("info", "json", self._stream)
        self.log: Any = log.get_logger()

    def new(self) -> list[Any]:
        written = self._stream.getvalue().splitlines()
        self._stream.seek(0)
        self._stream.truncate()
        return [json.loads(line) for line in written]


@pytest.fixture
def lines() -> Any:
    return Lines()


def fail_everywhere(lines: Lines) -> None:
    for _ in range(3):
        lines.log.warning(events.CLAIM_FAILED, error=AWAY)
        lines.log.warning(events.UPKEEP_FAILED, part="rescue", error=AWAY)
        lines.log.warning(events.UPKEEP_FAILED, part="sweep", error=AWAY)
        lines.log.warning(events.BATCH_RETRIED, jobs=3, tries=1, error=AWAY)
        lines.log.warning(events.HEARTBEAT_MISSED, error=AWAY, age_seconds=3.0)
        logging.getLogger("psycopg.pool").warning("error connecting in 'pool-1'")


def test_parts_that_cannot_reach_the_database_are_one_line(
    clock: list[float], lines: Lines
) -> None:
    fail_everywhere(lines)
    # The first part may have lost its own connection only.
    first, lost = lines.new()
    assert (first["event"], lost["event"]) == (events.CLAIM_FAILED, events.DATABASE_LOST)
    assert (lost["error"], lost["remedy"]) == ("connection refused", "start PostgreSQL")
    for _ in range(20):
        clock[0] += 5
        fail_everywhere(lines)
    again = [line["event"] for line in lines.new()]
    assert again == [events.DATABASE_LOST]
    lines.log.info(events.DATABASE_RECOVERED)
    lines.log.info(events.DATABASE_RECOVERED)
    [recovered] = lines.new()
    assert (recovered["event"], recovered["lost_seconds"]) == (events.DATABASE_RECOVERED, 100.0)
    # The next outage is another one.
    fail_everywhere(lines)
    assert [line["event"] for line in lines.new()] == [events.CLAIM_FAILED, events.DATABASE_LOST]


def test_a_cut_connection_of_one_part_is_no_lost_database(clock: list[float], lines: Lines) -> None:
    for _ in range(3):
        lines.log.warning(events.LISTEN_LOST, error=AWAY)
        clock[0] += outages.TOGETHER_SECONDS + 1
        lines.log.warning(events.CLAIM_FAILED, error=AWAY)
        clock[0] += outages.TOGETHER_SECONDS + 1
    lines.log.info(events.DATABASE_RECOVERED)
    assert [line["event"] for line in lines.new()] == [events.LISTEN_LOST, events.CLAIM_FAILED] * 3


def test_an_error_of_another_kind_is_said_during_an_outage(
    clock: list[float], lines: Lines
) -> None:
    fail_everywhere(lines)
    lines.new()
    lines.log.warning(events.UPKEEP_FAILED, part="sweep", error=Refused("no such column"))
    [other] = lines.new()
    assert (other["event"], other["error"]) == (events.UPKEEP_FAILED, "no such column")
