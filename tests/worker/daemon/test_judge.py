"""The judge: who is dead by watching, whatever the clocks say."""

from __future__ import annotations

import os
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.queue.workers import Sighting
from worker.daemon.heartbeat import ANSWER_SECONDS
from worker.daemon.judge import Judge
from worker.daemon.processes import Process, own_process
from worker.daemon.watch import WATCH_SECONDS
from worker.deployments.pipeline.process_group import TERM_GRACE_SECONDS
from worker.queue.upkeep import VERDICTS_PERIOD_SECONDS
from worker.settings import Settings

SILENT_SECONDS, BEAT_SECONDS = 10.0, 2.0
# Between two looks. A gap that is longer counts as two beats.
USUALLY = 3.0
A, B = uuid4(), uuid4()


def seen(worker_id: UUID, beats: int) -> Sighting:
    return Sighting(worker_id, beats, pid=1, pid_space=None, process_start=None)


def look(judge: Judge, others: list[Sighting], from_: float, to: float) -> None:
    """Look at them as often as a worker does."""
    at = from_
    while at < to:
        judge.saw(others, at, at)
        at += USUALLY
    judge.saw(others, to, to)


def test_a_worker_that_stands_still_long_enough_is_dead() -> None:
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, None)
    judge.saw([seen(A, 5), seen(B, 1)], 100.0, 100.1)
    for beats, at in enumerate((103.0, 106.0, 109.0), start=2):
        judge.saw([seen(A, 5), seen(B, beats)], at, at)
    judge.saw([seen(A, 5), seen(B, 5)], 110.0, 110.5)
    assert judge.dead() == {}  # the number was first seen at 100.1
    judge.saw([seen(A, 5), seen(B, 6)], 110.1, 110.2)
    assert judge.dead() == {A: 5}


def test_a_look_counts_from_its_answer_to_the_next_question() -> None:
    """What lies between a question and its answer may belong to either side."""
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, None)
    judge.saw([seen(A, 5)], 0.0, 6.0)
    judge.saw([seen(A, 5)], 8.0, 9.0)
    judge.saw([seen(A, 5)], 11.5, 30.0)
    assert judge.dead() == {}


def test_a_worker_that_beats_again_lives() -> None:
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, None)
    look(judge, [seen(A, 5)], 0, 10)
    assert judge.dead() == {A: 5}
    look(judge, [seen(A, 6)], 11, 20)
    assert judge.dead() == {}
    look(judge, [seen(A, 6)], 20.5, 21)
    assert judge.dead() == {A: 6}


def test_a_worker_whose_row_is_gone_is_forgotten() -> None:
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, None)
    look(judge, [seen(A, 5)], 0, 10)
    judge.saw([], 10.5, 10.5)
    assert judge.dead() == {}


def test_of_an_outage_two_beats_count_as_silence() -> None:
    """All others have been silent: each has time to be heard again."""
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, None)
    look(judge, [seen(A, 5)], 0, 2)
    look(judge, [seen(A, 5)], 3600, 3603.9)
    assert judge.dead() == {}
    judge.saw([seen(A, 5)], 3604, 3604)
    assert judge.dead() == {A: 5}


def test_a_look_that_failed_makes_no_verdict_later() -> None:
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, None)
    look(judge, [seen(A, 5)], 0, 4)
    look(judge, [seen(A, 5)], 8, 10)
    assert judge.dead() == {A: 5}


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=30))
def test_nobody_is_dead_who_beat_within_the_time(looks: list[tuple[float, bool]]) -> None:
    judge, at, beats, beaten_at = Judge(SILENT_SECONDS, BEAT_SECONDS, None), 0.0, 0, 0.0
    for pause, has_beaten in looks:
        at += pause
        if has_beaten:
            beats, beaten_at = beats + 1, at
        judge.saw([seen(A, beats)], at, at)
        if judge.dead():
            assert at - beaten_at >= SILENT_SECONDS


def test_the_default_numbers_keep_both_promises() -> None:
    """Jobs of a dead worker run within 15 s, and none is taken while its handler runs."""
    beat, stop, rescue = (
        Settings.model_fields[name].default
        for name in ("heartbeat_seconds", "lease_stop_seconds", "rescue_seconds")
    )
    next_look = 1.1 * beat
    busy_machine = 2.0
    assert next_look + rescue + 1.2 * VERDICTS_PERIOD_SECONDS + busy_machine < 15
    assert stop + WATCH_SECONDS + TERM_GRACE_SECONDS < rescue
    # A beat that hangs once costs no attempt.
    assert next_look + ANSWER_SECONDS + 1 < stop


def test_the_next_look_comes_when_a_silent_one_is_due() -> None:
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, None)
    assert judge.next_verdict_in(0.0) == float("inf")
    judge.saw([seen(A, 5)], 100.0, 100.0)
    assert judge.next_verdict_in(100.0) == float("inf")  # seen once, nobody is silent
    look(judge, [seen(A, 5)], 102, 104)
    assert judge.next_verdict_in(104.0) == pytest.approx(6)
    look(judge, [seen(A, 5)], 107, 110)
    assert judge.dead() == {A: 5}
    assert judge.next_verdict_in(110.0) == float("inf")


def test_the_first_of_the_living_is_one() -> None:
    low, middle, high = sorted(uuid4() for _ in range(3))
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, None)
    assert judge.is_first(high)
    look(judge, [seen(low, 1), seen(high, 1)], 100, 107)
    assert not judge.is_first(middle)
    judge.saw([seen(low, 1), seen(high, 2)], 110.0, 110.0)
    assert judge.is_first(middle)  # the lowest is dead


def test_a_process_of_this_machine_that_is_gone_is_dead_at_once() -> None:
    own = own_process()
    assert own is not None
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, own)
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
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, own)
    judge.saw([Sighting(A, 7, os.getpid(), mine.pid_space, mine.start - 1)], 100.0, 100.1)
    assert judge.dead() == {}


def test_a_process_that_did_not_say_where_it_is_is_only_watched() -> None:
    own = own_process()
    assert own is not None
    judge = Judge(SILENT_SECONDS, BEAT_SECONDS, own)
    judge.saw([Sighting(A, 7, 2**22 + 1, None, None)], 100.0, 100.1)
    judge.saw([Sighting(B, 7, 2**22 + 1, own.pid_space, None)], 100.0, 100.1)
    assert judge.dead() == {}
