"""What the vitals say of a claim loop and a heartbeat, by a clock that the test moves."""

from __future__ import annotations

from uuid import uuid4

import pytest

from worker.daemon.vitals import Vitals


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vitals(clock: Clock) -> Vitals:
    return Vitals(uuid4(), slots=3, clock=clock)


def test_ages_are_unknown_before_the_first_stamp(vitals: Vitals) -> None:
    assert vitals.claim_loop_age_seconds is None
    assert vitals.heartbeat_age_seconds is None


def test_a_worker_that_has_not_started_claiming_is_alive(vitals: Vitals, clock: Clock) -> None:
    clock.now += 3_600
    assert vitals.claim_loop_alive(10)
    assert vitals.heartbeat_thread_alive(10)


def test_the_claim_loop_is_alive_up_to_the_limit(vitals: Vitals, clock: Clock) -> None:
    vitals.claim_loop_progress()
    clock.now += 10
    assert vitals.claim_loop_alive(10)
    clock.now += 0.5
    assert not vitals.claim_loop_alive(10)
    assert vitals.claim_loop_age_seconds == 10.5
    vitals.claim_loop_progress()
    assert vitals.claim_loop_alive(10)


def test_a_draining_worker_need_not_claim(vitals: Vitals, clock: Clock) -> None:
    vitals.claim_loop_progress()
    clock.now += 60
    vitals.draining = True
    assert vitals.claim_loop_alive(10)


def test_a_failing_heartbeat_ages_but_its_thread_is_alive(vitals: Vitals, clock: Clock) -> None:
    vitals.heartbeat_succeeded()
    clock.now += 60
    vitals.heartbeat_tried()
    assert vitals.heartbeat_thread_alive(10)
    assert vitals.heartbeat_age_seconds == 60
    clock.now += 11
    assert not vitals.heartbeat_thread_alive(10)
