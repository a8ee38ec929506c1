"""The judge: who is dead by watching, whatever the clocks say."""

from __future__ import annotations

import os
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.queue.workers import Sighting
from worker.daemon.judge import Judge
from worker.daemon.processes import Process, own_process

SILENT_SECONDS = 12.0
A, B = uuid4(), uuid4()


def seen(worker_id: UUID, beats: int) -> Sighting:
    return Sighting(worker_id, beats, pid=1, pid_space=None, process_start=None)


def test_a_worker_that_stands_still_long_enough_is_dead() -> None:
    judge = Judge(SILENT_SECONDS, None)
    judge.saw([seen(A, 5), seen(B, 1)], 100.0, 100.1)
    judge.saw([seen(A, 5), seen(B, 2)], 112.0, 112.5)
    assert judge.dead() == {}  # the number was first seen at 100.1
    judge.saw([seen(A, 5), seen(B, 3)], 112.1, 112.2)
    assert judge.dead() == {A: 5}


def test_a_look_counts_from_its_answer_to_the_next_question() -> None:
    """What lies between a question and its answer may belong to either side."""
    judge = Judge(SILENT_SECONDS, None)
    judge.saw([seen(A, 5)], 0.0, 11.0)
    judge.saw([seen(A, 5)], 12.5, 30.0)
    assert judge.dead() == {}


def test_a_worker_that_beats_again_lives() -> None:
    judge = Judge(SILENT_SECONDS, None)
    judge.saw([seen(A, 5)], 0.0, 0.0)
    judge.saw([seen(A, 5)], 20.0, 20.0)
    assert judge.dead() == {A: 5}
    judge.saw([seen(A, 6)], 21.0, 21.0)
    assert judge.dead() == {}
    judge.saw([seen(A, 6)], 32.0, 32.0)
    assert judge.dead() == {}


def test_a_worker_whose_row_is_gone_is_forgotten() -> None:
    judge = Judge(SILENT_SECONDS, None)
    judge.saw([seen(A, 5)], 0.0, 0.0)
    judge.saw([], 20.0, 20.0)
    assert judge.dead() == {}


def test_after_a_gap_of_our_own_the_watch_begins_anew() -> None:
    judge = Judge(SILENT_SECONDS, None)
    judge.saw([seen(A, 5)], 0.0, 0.0)
    judge.start_anew()
    judge.saw([seen(A, 5)], 13.0, 13.0)
    assert judge.dead() == {}
    judge.saw([seen(A, 5)], 25.0, 25.0)
    assert judge.dead() == {A: 5}


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=30))
def test_nobody_is_dead_who_beat_within_the_time(looks: list[tuple[float, bool]]) -> None:
    judge, at, beats, beaten_at = Judge(SILENT_SECONDS, None), 0.0, 0, 0.0
    for pause, has_beaten in looks:
        at += pause
        if has_beaten:
            beats, beaten_at = beats + 1, at
        judge.saw([seen(A, beats)], at, at)
        if judge.dead():
            assert at - beaten_at >= SILENT_SECONDS


def test_the_next_look_comes_when_a_silent_one_is_due() -> None:
    judge = Judge(SILENT_SECONDS, None)
    assert judge.next_verdict_in(0.0) == float("inf")
    judge.saw([seen(A, 5)], 100.0, 100.0)
    assert judge.next_verdict_in(100.0) == float("inf")  # seen once, nobody is silent
    judge.saw([seen(A, 5)], 102.0, 102.0)
    assert judge.next_verdict_in(102.0) == pytest.approx(10)
    judge.saw([seen(A, 5)], 112.0, 112.0)
    assert judge.dead() == {A: 5}
    assert judge.next_verdict_in(112.0) == float("inf")


def test_the_first_of_the_living_is_one() -> None:
    low, middle, high = sorted(uuid4() for _ in range(3))
    judge = Judge(SILENT_SECONDS, None)
    assert judge.is_first(high)
    judge.saw([seen(low, 1), seen(high, 1)], 100.0, 100.0)
    assert not judge.is_first(middle)
    judge.saw([seen(low, 1), seen(high, 2)], 112.0, 112.0)
    assert judge.is_first(middle)  # the lowest is dead


def test_a_process_of_this_machine_that_is_gone_is_dead_at_once() -> None:
    own = own_process()
    assert own is not None
    judge = Judge(SILENT_SECONDS, own)
    gone = Sighting(A, 7, os.getpid(), own.pid_space, own.start - 1)
    lives = Sighting(B, 7, os.getpid(), own.pid_space, own.start)
    judge.saw([gone, lives], 100.0, 100.1)
    assert judge.dead() == {A: 7}


@pytest.mark.parametrize(
    "own",
    [None, Process("another kernel, or another namespace", 1)],
    ids=["unknown here", "elsewhere"],
)
def test_a_process_elsewhere_is_only_watched(own: Process | None) -> None:
    mine = own_process()
    assert mine is not None
    judge = Judge(SILENT_SECONDS, own)
    judge.saw([Sighting(A, 7, os.getpid(), mine.pid_space, mine.start - 1)], 100.0, 100.1)
    assert judge.dead() == {}


def test_a_process_that_did_not_say_where_it_is_is_only_watched() -> None:
    own = own_process()
    assert own is not None
    judge = Judge(SILENT_SECONDS, own)
    judge.saw([Sighting(A, 7, 2**22 + 1, None, None)], 100.0, 100.1)
    judge.saw([Sighting(B, 7, 2**22 + 1, own.pid_space, None)], 100.0, 100.1)
    assert judge.dead() == {}
