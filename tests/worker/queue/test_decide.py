"""Outcome → Transition: the whole table, for any numbers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.queue.attempts import BadEnding
from db.queue.effects import MessageEffect
from tests.support import ROOT
from worker.outcomes import Canceled, Done, Failed, Lost, Outcome, Parked, Released
from worker.queue.decide import Tries, backoff_seconds, decide
from worker.queue.transition import Transition

seconds = st.floats(0.001, 1e6)
jitters = st.floats(0, 1, exclude_max=True)
texts = st.text(max_size=20)
made = st.lists(st.builds(MessageEffect, key=texts, text=texts), max_size=3).map(tuple)
all_tries = st.builds(
    Tries,
    failures=st.integers(0, 10_000),
    failures_max=st.integers(1, 10_000),
    base_seconds=seconds,
    max_seconds=seconds,
)
reasons = st.sampled_from(["timer", "approval", "signal", "children", "person"])
pauses = st.none() | st.floats(0, 1e9)
outcomes = st.one_of(
    st.builds(Done, texts, made),
    st.builds(Failed, texts, st.booleans(), pauses),
    st.builds(Parked, reasons, st.none() | texts, pauses, made),
    st.builds(Canceled, texts),
    st.builds(Released),
    st.builds(Lost, texts),
)


@given(texts, made, all_tries, jitters)
def test_done_keeps_result_and_effects(
    result: str, effects: tuple[MessageEffect, ...], tries: Tries, jitter: float
) -> None:
    transition = decide(Done(result, effects), tries, jitter)
    assert transition == Transition("done", None, None, None, False, result, None, effects)


@given(texts, pauses, all_tries, jitters)
def test_a_failure_is_tried_again_exactly_while_tries_are_left(
    error: str, pause: float | None, tries: Tries, jitter: float
) -> None:
    transition = decide(Failed(error, after_seconds=pause), tries, jitter)
    assert transition is not None
    assert (transition.counts_failure, transition.error, transition.effects) == (True, error, ())
    if tries.failures + 1 < tries.failures_max:
        assert (transition.status, transition.waiting_for) == ("waiting", "timer")
        expected = backoff_seconds(tries, jitter) if pause is None else pause
        assert transition.delay_seconds == expected
    else:
        assert (transition.status, transition.waiting_for) == ("failed", None)
        assert transition.delay_seconds is None


@given(texts, pauses, all_tries, jitters)
def test_a_final_failure_is_never_tried_again(
    error: str, pause: float | None, tries: Tries, jitter: float
) -> None:
    transition = decide(Failed(error, final=True, after_seconds=pause), tries, jitter)
    history = BadEnding("failed", error)
    assert transition == Transition("failed", None, None, None, True, None, error, (), history)


@given(reasons, st.none() | texts, pauses, made, all_tries, jitters)
def test_a_park_waits_for_its_reason_keeps_its_effects_and_counts_nothing(
    reason: str,
    detail: str | None,
    pause: float | None,
    effects: tuple[MessageEffect, ...],
    tries: Tries,
    jitter: float,
) -> None:
    transition = decide(Parked(reason, detail, pause, effects), tries, jitter)
    assert transition == Transition("waiting", reason, detail, pause, False, None, None, effects)


@given(texts, all_tries, jitters)
def test_canceled_released_and_lost_count_nothing(reason: str, tries: Tries, jitter: float) -> None:
    canceled = Transition(
        "canceled", None, None, None, False, None, reason, (), BadEnding("canceled", reason)
    )
    assert decide(Canceled(reason), tries, jitter) == canceled
    stopped = BadEnding("released", "its worker was told to stop")
    released = Transition("queued", None, None, None, False, None, None, (), stopped)
    assert decide(Released(), tries, jitter) == released
    assert decide(Lost(reason), tries, jitter) is None


@given(outcomes, all_tries, jitters)
def test_every_transition_is_one_the_table_of_jobs_accepts(
    outcome: Outcome, tries: Tries, jitter: float
) -> None:
    transition = decide(outcome, tries, jitter)
    if transition is None:
        assert isinstance(outcome, Lost)
        return
    assert (transition.status == "waiting") == (transition.waiting_for is not None)
    assert transition.waiting_for != "timer" or (
        transition.delay_seconds is not None or isinstance(outcome, Parked)
    )
    assert not transition.effects or isinstance(outcome, Done | Parked)
    assert transition.counts_failure == isinstance(outcome, Failed)


@given(outcomes, all_tries, jitters)
def test_the_same_arguments_decide_the_same(outcome: Outcome, tries: Tries, jitter: float) -> None:
    assert decide(outcome, tries, jitter) == decide(outcome, tries, jitter)


@given(all_tries, jitters)
def test_a_backoff_keeps_half_of_its_pause_and_never_exceeds_one_and_a_half(
    tries: Tries, jitter: float
) -> None:
    pause = backoff_seconds(tries, jitter)
    full = min(tries.max_seconds, tries.base_seconds * 2 ** min(tries.failures, 32))
    assert full * 0.5 <= pause <= full * 1.5
    assert pause > 0


@given(st.integers(0, 100), seconds, seconds, jitters)
def test_a_backoff_never_shrinks_with_more_failures(
    failures: int, base: float, most: float, jitter: float
) -> None:
    def pause(failures: int) -> float:
        return backoff_seconds(Tries(failures, 1000, base, most), jitter)

    assert pause(failures) <= pause(failures + 1)


@pytest.mark.parametrize(("failures", "expected"), [(0, 10), (1, 20), (2, 40), (5, 300)])
def test_a_backoff_doubles_up_to_its_maximum(failures: int, expected: float) -> None:
    assert backoff_seconds(Tries(failures, 10, 10, 300), 0.5) == expected


def test_no_transition_is_built_but_by_its_constructors() -> None:
    built = re.compile(r"\bTransition\(")
    sources = [path for path in (ROOT / "worker").rglob("*.py") if built.search(path.read_text())]
    assert [path.name for path in sources] == ["transition.py"]  # `class Transition(NamedTuple)`
