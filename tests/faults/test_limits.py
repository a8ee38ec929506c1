"""Limits while daemons are killed and frozen: counted by the handlers, outside the database.

Every kind of limit, four of them on each job, in a plain queue and in a fair one.
`JOBSWORTH_FAULT_LIMIT_SECONDS` sets how long (a few seconds by default; two minutes in
`make limits`), `JOBSWORTH_FAULT_LIMIT_DAEMONS` how many daemons, and `JOBSWORTH_FAULT_SEED` draws
other faults. What a frozen process does when it goes on, before it notices, is the fence's matter
and does not count (see `spans`).
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from typing import Any, LiteralString
from uuid import UUID

import pytest

from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import VIOLATIONS
from tests.faults.lanes import Span, spans
from tests.faults.limits import Limit, beyond_rate, most_at_once
from tests.support import until_sync

pytestmark = pytest.mark.chaos

SECONDS = float(os.environ.get("JOBSWORTH_FAULT_LIMIT_SECONDS", "8"))
DAEMONS = int(os.environ.get("JOBSWORTH_FAULT_LIMIT_DAEMONS", "3"))
SEED = int(os.environ.get("JOBSWORTH_FAULT_SEED", "1"))
LONG = SECONDS >= 60
FAULT_EVERY_SECONDS = 5.0 if LONG else 2.5
# Longer than it takes to be rescued.
FROZEN_SECONDS = 5.0
# So many that jobs wait at every limit.
OPEN_JOBS = 60
KEYS = ("a", "b", "c", None)
TEAMS = tuple(UUID(int=n) for n in range(1, 4))
AGENTS = tuple(UUID(int=n) for n in range(11, 15))
WEIGHT_MAX = 4

SLOTS = "limits.slots"
PACE = "limits.pace"
LIMITS = (
    Limit("queue", SLOTS, queue="slots", slots=8),
    Limit("mode", SLOTS, slots=7),
    Limit("key", SLOTS, per="key", column="limit_key", slots=2, burst=3),
    Limit("team", SLOTS, per="team", column="team_id", slots=3),
    Limit("pace", PACE, queue="pace", rate=30, burst=12),
    Limit("key pace", PACE, per="key", column="limit_key", rate=10, burst=4),
    Limit("pace slots", PACE, slots=6),
    Limit("agent", PACE, per="agent", column="agent_id", slots=2),
)

SET: LiteralString = """
select jobsworth.set_job_limit(%(name)s, queue => %(queue)s, mode => %(mode)s, per => %(per)s,
  slots => %(slots)s, rate => %(rate)s, per_seconds => %(per_seconds)s, burst => %(burst)s)
"""
# One of the queues starts its jobs in turns of their teams.
FAIR: LiteralString = "select jobsworth.set_fair('pace', true)"
OPEN: LiteralString = """
select count(*) from jobsworth.reactive_jobs where finished_at is null and mode = %(mode)s
"""
JOBS: LiteralString = """
select j.id::text, j.mode, j.limit_key, j.team_id::text, j.agent_id::text,
  coalesce(j.limit_weight, 1) as weight, j.status::text
from jobsworth.reactive_jobs j
"""
ROOM: LiteralString = "select jobsworth.room_at(%(name)s, %(key)s) as room"
RUNS: LiteralString = "select count(*) from jobsworth.reactive_jobs where status = 'running'"
ENV = {
    "JOBSWORTH_HANDLERS": "tests.faults.limit_handlers",
    # Deaths are charged to jobs; here they are not the jobs' fault.
    "JOBSWORTH_CRASHES_MAX": "1000",
    # So many daemons on two processors can be late by a second without having been hurt.
    "JOBSWORTH_LEASE_STOP_SECONDS": "2",
    "JOBSWORTH_RESCUE_SECONDS": "4",
}


class Crowd:
    """Daemons that die and stand still, on work that limits hold."""

    def __init__(self, scene: Scene, draw: random.Random) -> None:
        self.scene = scene
        self.draw = draw
        self.stops: defaultdict[int, list[int]] = defaultdict(list)
        scene.conn.execute(FAIR)
        for limit in LIMITS:
            scene.conn.execute(SET, _as_set(limit))
        self.feed()
        self.daemons = [scene.start(ENV) for _ in range(DAEMONS)]
        self.frozen: list[tuple[float, Daemon]] = []

    def feed(self) -> None:
        for mode, queue in ((SLOTS, "slots"), (PACE, "pace")):
            for _ in range(OPEN_JOBS - self.scene.value(OPEN, {"mode": mode})):
                self.scene.enqueue(
                    mode,
                    {"seconds": self.draw.uniform(0.02, 0.3)},
                    queue=queue,
                    limit_key=self.draw.choice(KEYS),
                    limit_weight=self.draw.choice((None, 1, WEIGHT_MAX)),
                    team_id=self.draw.choice(TEAMS),
                    agent_id=self.draw.choice(AGENTS),
                    priority=self.draw.choice((2, 3)),
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


def _as_set(limit: Limit) -> dict[str, Any]:
    return {
        "name": limit.name.replace(" ", "-"),
        "queue": limit.queue,
        "mode": None if limit.queue else limit.mode,
        "per": limit.per,
        "slots": limit.slots,
        "rate": limit.rate,
        "per_seconds": limit.rate and 1,
        "burst": limit.burst,
    }


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
    jobs = {row["id"]: row for row in scene.rows(JOBS)}
    assert {job["status"] for job in jobs.values()} == {"done"}
    beyond = {limit.name: limit.worst(attempts, jobs, FROZEN_SECONDS) for limit in LIMITS}
    faults = sum(map(len, crowd.stops.values()))
    print(f"{SECONDS:g} s, {DAEMONS} daemons, {len(attempts)} attempts, {faults} kills and freezes")
    print(f"beyond limits: {beyond}")
    assert max(beyond.values()) <= 0
    # That slots were all taken shows that the test can fail. In a short time not all of them are.
    reached = [limit.name for limit in LIMITS if limit.slots and beyond[limit.name] == 0]
    assert "mode" in reached
    assert not LONG or len(reached) >= 5
    # None of the slots is lost.
    for limit in LIMITS:
        for key in limit.by_key(attempts, jobs) if limit.slots else ():
            asked = {"name": limit.name.replace(" ", "-"), "key": key}
            assert scene.value(ROOM, asked) == limit.most, asked
    until_sync(lambda: scene.rows(VIOLATIONS) == [], 60)


def test_it_sees_what_is_too_much() -> None:
    attempts = [Span(1, 10, "a", 1, 1), Span(2, 5, "b", 1, 1), Span(5, 9, "c", 1, 1)]
    assert most_at_once(attempts) == 2
    jobs = {
        job: {"mode": SLOTS, "limit_key": key, "weight": 1}
        for job, key in (("a", "x"), ("b", "y"), ("c", None))
    }
    assert Limit("all", SLOTS, slots=1).worst(attempts, jobs, 0) == 1
    assert Limit("key", SLOTS, per="key", column="limit_key", slots=1).worst(attempts, jobs, 0) == 0
    starts = [(n * 500_000_000, 1) for n in range(10)]
    assert beyond_rate(starts, 2, 1, 0) == 0
    assert beyond_rate([*starts, starts[-1]], 2, 1, 0) == 1
    assert beyond_rate([*starts[:-1], (starts[-1][0], 3)], 2, 1, 1) == 0
