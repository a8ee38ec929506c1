"""Limits while daemons are killed and frozen: counted by the handlers, outside the database.

`JOBSWORTH_LIMIT_SECONDS` sets how long (a few seconds by default), `JOBSWORTH_LIMIT_DAEMONS` how
many daemons, and `JOBSWORTH_FAULT_SEED` draws other faults. What a frozen process does when it goes
on, before it notices, is the fence's matter and does not count (see `spans`).
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from typing import LiteralString

import pytest

from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import VIOLATIONS
from tests.faults.lanes import Span, spans
from tests.faults.limits import beyond_rate, most_at_once, worst_at_once
from tests.support import until_sync

pytestmark = pytest.mark.chaos

SECONDS = float(os.environ.get("JOBSWORTH_LIMIT_SECONDS", "8"))
DAEMONS = int(os.environ.get("JOBSWORTH_LIMIT_DAEMONS", "3"))
SEED = int(os.environ.get("JOBSWORTH_FAULT_SEED", "1"))
FAULT_EVERY_SECONDS = 2.5 if SECONDS < 60 else 5.0
# Longer than it takes to be rescued.
FROZEN_SECONDS = 3.0
OPEN_JOBS = 60
ALL, EACH, BURST = 6, 2, 3
RATE, RATE_BURST = 20, 10
KEYS = ("a", "b", "c", "d")

LIMITS: LiteralString = """
select jobsworth.set_job_limit('all', mode => 'limits.work', slots => %(all)s),
  jobsworth.set_job_limit('each', mode => 'limits.work', per => 'key', slots => %(each)s,
    burst => %(burst)s),
  jobsworth.set_job_limit('pace', mode => 'limits.work', rate => %(rate)s, per_seconds => 1,
    burst => %(rate_burst)s)
"""
OPEN: LiteralString = "select count(*) from jobsworth.reactive_jobs where finished_at is null"
KEY_OF: LiteralString = "select j.id::text, j.limit_key from jobsworth.reactive_jobs j"
ROOM: LiteralString = """
select jobsworth.room_at('all', '') as all, array(
  select jobsworth.room_at('each', k.key) from unnest(%(keys)s::text[]) as k (key)) as each
"""
RUNS: LiteralString = "select count(*) from jobsworth.reactive_jobs where status = 'running'"
# Deaths are charged to jobs; here they are not the jobs' fault.
ENV = {"JOBSWORTH_HANDLERS": "tests.faults.limit_handlers", "JOBSWORTH_CRASHES_MAX": "1000"}


class Crowd:
    """Daemons that die and stand still, on work that three limits hold."""

    def __init__(self, scene: Scene, draw: random.Random) -> None:
        self.scene = scene
        self.draw = draw
        self.stops: defaultdict[int, list[int]] = defaultdict(list)
        scene.conn.execute(
            LIMITS,
            {
                "all": ALL,
                "each": EACH,
                "burst": BURST,
                "rate": RATE,
                "rate_burst": RATE_BURST,
            },
        )
        self.feed()
        self.daemons = [scene.start(ENV) for _ in range(DAEMONS)]
        self.frozen: list[tuple[float, Daemon]] = []

    def feed(self) -> None:
        for _ in range(OPEN_JOBS - self.scene.value(OPEN)):
            self.scene.enqueue(
                "limits.work",
                {"seconds": self.draw.uniform(0.02, 0.3)},
                limit_key=self.draw.choice(KEYS),
            )

    def hurt(self) -> None:
        """Kill a daemon, or let it stand still."""
        self.thaw()
        daemon = self.draw.choice(self.daemons)
        if self.draw.random() < 0.5:
            daemon.kill()
            self.stops[daemon.pid].append(time.monotonic_ns())
            self.daemons[self.daemons.index(daemon)] = self.scene.start(ENV)
        elif daemon not in [frozen for _, frozen in self.frozen]:
            daemon.pause()
            self.stops[daemon.pid].append(time.monotonic_ns())
            self.frozen.append((time.monotonic() + FROZEN_SECONDS, daemon))

    def thaw(self, *, everyone: bool = False) -> None:
        for entry in list(self.frozen):
            if everyone or time.monotonic() >= entry[0]:
                self.frozen.remove(entry)
                if entry[1] in self.daemons:
                    entry[1].resume()


def test_no_limit_is_exceeded_and_no_slot_is_lost(scene: Scene) -> None:
    crowd = Crowd(scene, random.Random(SEED))
    until_sync(lambda: scene.value(RUNS) > 0, 60)
    end = time.monotonic() + SECONDS
    hurt_at = time.monotonic() + FAULT_EVERY_SECONDS / 2
    while time.monotonic() < end:
        crowd.feed()
        crowd.thaw()
        if time.monotonic() >= hurt_at:
            crowd.hurt()
            hurt_at += FAULT_EVERY_SECONDS
        time.sleep(0.05)
    crowd.thaw(everyone=True)
    scene.until_all_ended(120)

    attempts = spans(scene.diary(), crowd.stops)
    keys = {row["id"]: row["limit_key"] for row in scene.rows(KEY_OF)}
    worst = worst_at_once(attempts, keys)
    assert worst[""] <= ALL
    assert max(worst[key] for key in KEYS) <= BURST
    began = [span.began_ns for span in attempts]
    assert beyond_rate(began, RATE, RATE_BURST, FROZEN_SECONDS) <= 0
    # That the limits were reached shows that the test can fail.
    assert worst[""] == ALL
    # None of the slots is lost.
    room = scene.rows(ROOM, {"keys": list(KEYS)})[0]
    assert room == {"all": ALL, "each": [BURST] * len(KEYS)}
    until_sync(lambda: scene.rows(VIOLATIONS) == [], 60)
    print(f"{len(attempts)} attempts, at once {dict(worst)}, {len(crowd.stops)} daemons hurt")


def test_it_sees_what_is_too_much() -> None:
    attempts = [Span(1, 10, "a", 1, 1), Span(2, 5, "b", 1, 1), Span(5, 9, "c", 1, 1)]
    assert most_at_once(attempts) == 2
    assert worst_at_once(attempts, {"a": "x", "b": "y", "c": "y"}) == {"": 2, "x": 1, "y": 1}
    starts = [n * 500_000_000 for n in range(10)]
    assert beyond_rate(starts, 2, 1, 0) <= 0
    assert beyond_rate([*starts, starts[-1]], 2, 1, 0) == 1
