"""Daemons are killed at random instants under load, again and again; nobody can tell.

`JOBSWORTH_CHAOS_SEEDS` sets how many (a tenth as many on PostgreSQL 16); each kill is a seed,
and a failure lists them.
"""

from __future__ import annotations

import os
import random
import time
from uuid import UUID

import pytest

from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.verdict import check_everything, check_lanes
from tests.support import POLL_SECONDS

pytestmark = [pytest.mark.chaos, pytest.mark.both]

SEEDS = int(os.environ.get("JOBSWORTH_CHAOS_SEEDS", "10"))
LANES = 16
OPEN_JOBS = 100
WORK_SECONDS = 20
RARELY = 0.05
END_SECONDS = 120
# Kills are charged to jobs as crashes; here they are not the jobs' fault.
PATIENT = {"JOBSWORTH_CRASHES_MAX": "1000", "JOBSWORTH_RETRY_MAX_SECONDS": "0.1"}


class Carnage:
    """Three daemons, their work, and whom each seed kills.

    The first is killed seldom, so that somebody lives long enough to rescue.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.daemons = [scene.start(PATIENT) for _ in range(3)]
        self.killed_at_ns: dict[int, int] = {}
        self.story: list[str] = []
        self._youngest = 2
        self._threads = [scene.thread() for _ in range(LANES)]
        self._numbers = dict.fromkeys(self._threads, 0)

    def kill(self, seed: int) -> None:
        """Kill a daemon some time after it has reported work, and put another in its place."""
        draw = random.Random(seed)
        others = [place for place in range(3) if place != self._youngest]
        place = draw.choices(others, [RARELY if place == 0 else 1 for place in others])[0]
        delay = draw.uniform(0.03, 0.4)
        self._until_works(self.daemons[place], draw)
        time.sleep(delay)  # no synchronisation: the instant of the kill is what the seed chooses
        victim = self.daemons[place]
        victim.kill()
        self.killed_at_ns[victim.pid] = time.monotonic_ns()
        self.story.append(f"seed {seed}: killed {victim.pid} after {delay:.3f} s")
        self.daemons[place] = self.scene.start(PATIENT)
        self._youngest = place

    def feed(self, draw: random.Random) -> None:
        """Keep the daemons busy: lanes, and jobs outside of any lane that ask."""
        missing = OPEN_JOBS - self.scene.value(
            "select count(*) from jobsworth.reactive_jobs where finished_at is null"
        )
        for _ in range(missing):
            thread = draw.choice(self._threads)
            laned = draw.random() < 0.7
            self._enqueue(thread, children=draw.choice((0, 0, 1, 2)), laned=laned)

    def _enqueue(self, thread: UUID, *, children: int, laned: bool) -> None:
        self._numbers[thread] += 1
        work = {"n": self._numbers[thread], "children": children, "ask": not laned}
        lane = {} if laned else {"lane": ""}
        self.scene.enqueue("chaos.work", work, thread_id=thread, **lane)

    def _until_works(self, daemon: Daemon, draw: random.Random) -> None:
        give_up = time.monotonic() + WORK_SECONDS
        while not daemon.events("attempt.ended"):
            assert time.monotonic() < give_up, f"no work is reported\n{daemon.tail()}"
            assert daemon.running, daemon.tail()
            self.scene.decide()
            self.feed(draw)
            time.sleep(POLL_SECONDS)


def test_kills_under_load_lose_and_double_nothing(scene: Scene, major: int) -> None:
    seeds = range(SEEDS) if major == 18 else range(SEEDS, SEEDS + SEEDS // 10)
    carnage = Carnage(scene)
    try:
        for seed in seeds:
            carnage.kill(seed)
        scene.until_all_ended(END_SECONDS)
        check_everything(scene)
        check_lanes(scene, carnage.killed_at_ns)
    except BaseException:
        print("\n".join(carnage.story))
        raise
    assert len(carnage.killed_at_ns) == len(seeds)
    for daemon in carnage.daemons:
        assert daemon.running, daemon.tail()
