"""A worker raises its limit of open files, and says at the start if it is too low for its slots."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT

ASK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from worker.daemon import open_files
slots = int(sys.argv[3])
open_files.raise_limit(slots)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], open_files.connections_max(2 * slots))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "slots", "told"),
    [(256, 1024, 500, "1024 824"), (256, 1024, 400, "1024 800"), (256, 256, 50, "256 56")],
)
def test_the_limit_is_raised_and_bounds_the_connections(
    soft: int, hard: int, slots: int, told: str
) -> None:
    assert _asked(soft, hard, slots).stdout.split("\n")[-2] == told


def test_a_limit_below_the_slots_is_told_with_the_one_to_set() -> None:
    said = _asked(256, 512, 400).stdout
    assert "files.few" in said
    assert "ulimit -n" in said
    assert "600" in said
    assert "files.few" not in _asked(256, 1024, 400).stdout


def _asked(soft: int, hard: int, slots: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ASK, str(soft), str(hard), str(slots)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
