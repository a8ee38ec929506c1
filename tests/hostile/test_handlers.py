"""The worst that handlers were seen to do, in one daemon, beside well-behaved neighbours.

`make hostile` runs the whole grammar; these are its examples.
"""

from __future__ import annotations

from tests.chaos.scene import Scene
from tests.hostile.batches import Case, run_batch
from tests.hostile.handlers import ASYNC_PLACES, PLAIN_PLACES

EXITS = ("raise exit", "raise keyboard interrupt", "raise own base exception")
FORKS = (
    *("fork and exit", "fork and return", "fork and be terminated", "fork and profile"),
    "multiprocessing terminated",
)
LEFT = (
    "abandon cancel scope",
    "abandon move on after and wait",
    "keep anyio task group open",
    "task group left with children",
    "cancel itself",
    "cancel itself and wait",
    "cancel everything",
)
CALLED = (
    "callback raises exit",
    "background task exits later",
    "background task that is deaf for long",
    "stop the loop",
    "fork and yield",
    "ignore sigterm",
    "no wakeup fd",
    "loop signal handler removed",
)


def test_no_exit_in_a_handler_ends_the_worker(scene: Scene) -> None:
    cases = [Case(place, deed) for place in (*ASYNC_PLACES, *PLAIN_PLACES) for deed in EXITS]
    ended = {one.case: one for one in run_batch(scene, cases)}
    said = {str(case): one.error for case, one in ended.items()}
    for place in ("handler", "gather", "task group", "anyio group", "wait_for", "step", "plain"):
        assert said[f"raise exit in {place}"] == "the handler called sys.exit(3)"
        assert "KeyboardInterrupt" in str(said[f"raise keyboard interrupt in {place}"])
        assert "OwnError: mine" in str(said[f"raise own base exception in {place}"])


def test_no_fork_becomes_a_second_worker(scene: Scene) -> None:
    places = ("handler", "gather", "step", "own thread", "plain", "process")
    ended = run_batch(scene, [Case(place, deed) for place in places for deed in FORKS])
    assert [f"{one.case}: {one.error}" for one in ended if one.status != "done"] == []


def test_what_handlers_leave_behind_or_take_away_harms_nobody(scene: Scene) -> None:
    places = ("handler", "after a wait", "gather")
    run_batch(scene, [Case(place, deed) for place in places for deed in (*LEFT, *CALLED)])
