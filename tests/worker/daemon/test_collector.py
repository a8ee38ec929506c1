"""While many attempts run, the collector leaves old objects alone; garbage is collected after."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator

import pytest

from worker.daemon import collector
from worker.daemon.collector import Collector


class Attempts:
    """So many attempts run and have ended."""

    def __init__(self, running: int, ended: int = 0) -> None:
        self.running = running
        self.ended = ended

    def __len__(self) -> int:
        return self.running


class Circle:
    """Garbage that only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Generator[None]:
    usual = gc.get_threshold()
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()


def frozen_garbage(look: Collector) -> weakref.ref[Circle]:
    """An object that lived when the collector looked, and that has become garbage since."""
    circle = Circle()
    gc.collect(1)  # it is old now
    look.look()
    assert look.freezing
    return weakref.ref(circle)


def test_with_few_attempts_python_collects_as_it_always_does() -> None:
    usual, look = gc.get_threshold(), Collector(Attempts(collector.MANY - 1))
    look.look()
    assert (look.freezing, gc.get_threshold()) == (False, usual)


def test_with_many_attempts_old_objects_are_frozen_and_python_makes_no_full_collection() -> None:
    look = Collector(Attempts(collector.MANY))
    garbage = frozen_garbage(look)
    assert gc.get_threshold()[2] == collector.NEVER
    gc.collect()
    assert garbage() is not None  # it is left out


def test_what_is_garbage_when_the_collector_looks_is_freed_before_the_rest_is_frozen() -> None:
    gc.disable()
    try:
        garbage = weakref.ref(Circle())
        Collector(Attempts(collector.MANY)).look()
        assert garbage() is None
    finally:
        gc.enable()


def test_frozen_garbage_is_collected_when_few_attempts_have_been_left_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(collector, "monotonic", lambda: now[0])
    usual, attempts = gc.get_threshold(), Attempts(collector.MANY)
    look = Collector(attempts)
    garbage = frozen_garbage(look)
    attempts.running, attempts.ended = 1, collector.MANY - 1
    for _ in range(2):
        # What has just ended is not gone yet.
        now[0] += collector.FEW_SECONDS / 2 - 1
        look.look()
        assert garbage() is not None
    now[0] += 2
    look.look()
    assert garbage() is None
    assert (look.freezing, gc.get_threshold()) == (False, usual)


def test_frozen_garbage_is_collected_when_many_attempts_have_ended_while_many_run() -> None:
    attempts = Attempts(collector.MANY)
    look = Collector(attempts)
    garbage = frozen_garbage(look)
    attempts.ended = collector.ENDED_PER_RUNNING * collector.MANY
    look.look()
    assert garbage() is None
    assert look.freezing


def test_it_looks_through_everything_for_a_hundredth_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]

    def took() -> float:
        now[0] += 0.5
        return now[0]

    monkeypatch.setattr(collector, "monotonic", took)
    attempts = Attempts(collector.MANY)
    look = Collector(attempts)
    garbage = frozen_garbage(look)
    attempts.ended += collector.ENDED_PER_RUNNING * collector.MANY
    look.look()
    assert garbage() is None
    garbage = frozen_garbage(look)
    attempts.ended += collector.ENDED_PER_RUNNING * collector.MANY
    look.look()
    assert garbage() is not None
    now[0] += collector.PAUSE_FACTOR
    look.look()
    assert garbage() is None
