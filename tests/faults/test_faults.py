"""Faults of every kind, one a round: what a dead daemon ran runs again, and nobody can tell.

`JOBSWORTH_FAULT_ROUNDS` sets how many (`make faults` takes some minutes for each kind once),
`JOBSWORTH_FAULT_KINDS` which kinds ("swallowed,cut"), and `JOBSWORTH_FAULT_SEED` draws others. A
failure lists the rounds. The times until jobs ran again are printed, and not asserted: they belong
to the machine, too.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from db.server.embedded import Embedded
from tests.chaos.scene import Scene
from tests.faults.clock import Clock, reachable
from tests.faults.world import World
from tests.proxy import Proxy

pytestmark = [pytest.mark.chaos, pytest.mark.own_server]

SEED = int(os.environ.get("JOBSWORTH_FAULT_SEED", "1"))
MOMENT_SECONDS = (0.0, 2.0)
LOCKED_SECONDS = 4.0


def killed(world: World) -> None:
    place = world.busy()
    world.until_rerun("kill -9", world.kill(place))
    world.replace(place)


def killed_as_backends_are_terminated(world: World) -> None:
    place = world.busy()
    struck = world.kill(place)
    world.rest(world.draw.uniform(*MOMENT_SECONDS))
    world.terminate_backends()
    world.until_rerun("kill -9, all backends terminated", struck)
    world.replace(place)


def killed_after_a_restart(world: World) -> None:
    world.restart("fast")
    place = world.busy()
    world.until_rerun("kill -9 after a restart of the server", world.kill(place))
    world.replace(place)


def killed_after_a_crash_of_the_server(world: World) -> None:
    world.restart("immediate")
    place = world.busy()
    world.until_rerun("kill -9 after a crash of the server", world.kill(place))
    world.replace(place)


def killed_while_locks_are_held(world: World) -> None:
    place = world.busy()
    struck = world.kill(place)
    with world.holding_locks(world.others(place)[0]):
        world.rest(LOCKED_SECONDS)
    world.until_rerun("kill -9, locks held", struck)
    world.replace(place)


def killed_as_the_clock_jumps_forward(world: World) -> None:
    _killed_as_the_clock_jumps(world, 60)


def killed_as_the_clock_jumps_back(world: World) -> None:
    _killed_as_the_clock_jumps(world, -540)


def _killed_as_the_clock_jumps(world: World, seconds: int) -> None:
    place = world.busy()
    struck = world.kill(place)
    world.rest(world.draw.uniform(*MOMENT_SECONDS))
    world.clock.set_off(seconds)
    try:
        world.until_rerun(f"kill -9, clock {seconds:+d} s", struck)
    finally:
        world.clock.set_off(0)
    world.replace(place)


def stopped(world: World) -> None:
    place = world.busy()
    world.until_rerun("SIGSTOP", world.freeze(place))
    world.wake(place)


def swallowed(world: World) -> None:
    _cut_off(world, "messages swallowed", Proxy.swallow)


def dropped(world: World) -> None:
    _cut_off(world, "messages dropped", Proxy.drop)


def cut(world: World) -> None:
    _cut_off(world, "connections cut", Proxy.cut)


def _cut_off(world: World, kind: str, hurt: Callable[[Proxy], None]) -> None:
    place = world.busy()
    struck = world.cut_off(place)
    hurt(place.proxy)
    world.until_rerun(kind, struck)
    place.proxy.heal()
    world.until_works(place)


FAULTS: tuple[Callable[[World], None], ...] = (
    killed,
    killed_as_backends_are_terminated,
    killed_after_a_restart,
    killed_after_a_crash_of_the_server,
    killed_while_locks_are_held,
    killed_as_the_clock_jumps_forward,
    killed_as_the_clock_jumps_back,
    stopped,
    swallowed,
    dropped,
    cut,
)
KINDS = os.environ.get("JOBSWORTH_FAULT_KINDS", "").split(",")
DRAWN = [fault for fault in FAULTS if KINDS == [""] or fault.__name__ in KINDS]
ROUNDS = int(os.environ.get("JOBSWORTH_FAULT_ROUNDS", str(len(DRAWN))))


def test_whatever_breaks_jobs_run_again_and_once(
    scene: Scene, server: Embedded, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    clock = Clock(reachable(tmp_path))
    scene.conn.close()
    clock.restart(server)
    world = World(scene, server, clock, draw)
    story: list[str] = []
    try:
        for fault in _drawn(draw):
            story.append(fault.__name__)
            world.rest(draw.uniform(*MOMENT_SECONDS))
            fault(world)
        jobs = world.check()
        print(f"{len(story)} faults, {jobs} jobs: none lost, none doubled, no lane overlapped")
    except BaseException:
        print(f"seed {SEED}: {', '.join(story)}")
        raise
    finally:
        _tell(world)
        world.close()


def _drawn(draw: random.Random) -> list[Callable[[World], None]]:
    """Each kind once before any comes again."""
    order: list[Callable[[World], None]] = []
    while len(order) < ROUNDS:
        order += draw.sample(DRAWN, len(DRAWN))
    return order[:ROUNDS]


def _tell(world: World) -> None:
    every: list[float] = []
    for kind, seconds in sorted(world.rerun_seconds.items()):
        every += seconds
        print(f"{kind}: {_figures(seconds)}")
    if every:
        print(f"jobs ran again after: {_figures(every)}")


def _figures(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99))
    return f"p50 {p50:.1f} s, p99 {p99:.1f} s, max {ordered[-1]:.1f} s of {len(ordered)}"
