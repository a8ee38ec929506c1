"""Every bad deed of a handler, at every place where it can be done, harms its own job alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.scene import Scene
from tests.hostile.batches import CASES, Case, run_batch

BATCH = 130
BATCHES = [CASES[at : at + BATCH] for at in range(0, len(CASES), BATCH)]


@pytest.mark.parametrize("cases", BATCHES, ids=lambda cases: f"from {cases[0]}")
def test_a_bad_deed_harms_its_own_job_alone(
    scene: Scene, count: Callable[[int], None], cases: list[Case]
) -> None:
    run_batch(scene, cases)
    count(len(cases))
