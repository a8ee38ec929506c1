"""Schedules while clocks change and daemons die: real daemons, a server whose clock is set."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import LiteralString

import pytest

from db.server.embedded import Embedded
from tests.chaos.scene import Scene
from tests.faults.clock import Clock, reachable
from tests.support import until_sync

pytestmark = [pytest.mark.chaos, pytest.mark.own_server]

ADD: LiteralString = """
select jobsworth.schedule(%(name)s, 'report', cron => %(cron)s, time_zone => 'Europe/Berlin',
  missed => %(missed)s, overlap => 'queue')
"""
NOW: LiteralString = "select clock_timestamp()"
WAITS: LiteralString = """
select exists (
  select from jobsworth.schedules s
  where s.next_at is null or s.next_at <= clock_timestamp() - interval '1 second')
"""
FIRED: LiteralString = """
select f.at from jobsworth.schedule_firings f
join jobsworth.schedules s on s.id = f.schedule_id and s.name = %(name)s
where f.outcome = 'fired'
order by f.at
"""
MISSED: LiteralString = """
select coalesce(sum(f.missed + (f.outcome = 'missed')::int), 0) from jobsworth.schedule_firings f
join jobsworth.schedules s on s.id = f.schedule_id and s.name = %(name)s
"""
JOBS_WITHOUT_A_FIRING: LiteralString = """
select j.id from jobsworth.reactive_jobs j
where j.mode = 'report' and not exists (
  select from jobsworth.schedule_firings f where f.job_id = j.id)
"""
JOBS: LiteralString = "select count(*) from jobsworth.reactive_jobs j where j.mode = 'report'"
ALL_FIRED: LiteralString = """
select count(*) from jobsworth.schedule_firings f where f.outcome = 'fired'
"""
HALF_AN_HOUR = timedelta(minutes=30)
DAEMONS = 3


class Night:
    """Three daemons on a server whose clock is set again and again."""

    def __init__(self, scene: Scene, server: Embedded, clock: Clock, begin: datetime) -> None:
        self.scene = scene
        self._clock = clock
        self._offset = 0
        scene.conn.close()
        self.set(begin)
        clock.restart(server)
        for _ in range(DAEMONS):
            scene.start()

    def set(self, moment: datetime) -> None:
        """Set the server's clock forward to this moment."""
        self._clock.set_off(round((moment - datetime.now(UTC)).total_seconds()))

    def add(self, name: str, cron: str, missed: str = "once") -> None:
        self.scene.conn.execute(ADD, {"name": name, "cron": cron, "missed": missed})

    def until_handled(self) -> None:
        """Until the daemons have dealt with whatever is due."""
        until_sync(lambda: not self.scene.value(WAITS), 60)

    def fired(self, name: str) -> list[datetime]:
        return [row["at"] for row in self.scene.rows(FIRED, {"name": name})]


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(reachable(tmp_path))


@pytest.mark.parametrize(
    ("begin", "half_past_two"),
    [
        # The hour from 2 to 3 comes twice.
        (datetime(2026, 10, 24, 22, 50, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        # It is left out: the first instant after it.
        (datetime(2027, 3, 27, 23, 50, tzinfo=UTC), datetime(2027, 3, 28, 1, 0, tzinfo=UTC)),
    ],
    ids=["autumn", "spring"],
)
def test_each_time_of_a_night_fires_once_while_the_clocks_change_and_daemons_die(
    scene: Scene, server: Embedded, clock: Clock, begin: datetime, half_past_two: datetime
) -> None:
    night, draw = Night(scene, server, clock, begin), random.Random(7)
    night.add("fixed", "30 2 * * *")
    night.add("halves", "*/30 * * * *")
    night.until_handled()
    moments = [begin + n * HALF_AN_HOUR for n in range(1, 8)]
    for moment in moments:
        night.set(moment)
        draw.choice(scene.daemons[-DAEMONS:]).kill()
        scene.start()
        night.until_handled()
    assert night.fired("fixed") == [half_past_two]
    first = begin + timedelta(minutes=10)
    assert night.fired("halves") == [first + n * HALF_AN_HOUR for n in range(len(moments))]
    assert scene.rows(JOBS_WITHOUT_A_FIRING) == []
    assert scene.value(JOBS) == scene.value(ALL_FIRED) == 1 + len(moments)


def test_after_an_outage_of_two_hours_each_policy_makes_up_for_what_it_says(
    scene: Scene, server: Embedded, clock: Clock
) -> None:
    begin = datetime(2026, 10, 24, 22, 50, tzinfo=UTC)
    night = Night(scene, server, clock, begin)
    for policy in ("once", "skip", "all"):
        night.add(policy, "*/30 * * * *", policy)
    night.until_handled()
    for daemon in scene.daemons:
        daemon.kill()
    night.set(begin + timedelta(hours=2))
    for _ in range(DAEMONS):
        scene.start()
    night.until_handled()
    times = [begin + timedelta(minutes=10) + n * HALF_AN_HOUR for n in range(4)]
    assert {name: night.fired(name) for name in ("once", "skip", "all")} == {
        "once": times[-1:],
        "skip": [],
        "all": times,
    }
    missed = {name: scene.value(MISSED, {"name": name}) for name in ("once", "skip", "all")}
    assert missed == {"once": 3, "skip": 4, "all": 0}
    assert scene.rows(JOBS_WITHOUT_A_FIRING) == []
