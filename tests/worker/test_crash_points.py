"""The registry of crash points: known by name, reached in the code, harmless unless armed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, environment
from worker.crash_points import CRASH_POINTS

REACH = re.compile(r'crash_points\.reach\("([^"]+)"\)')
SCRIPT = """
from worker.crash_points import reach
for point in {points!r}:
    reach(point)
print("lived")
"""


def test_every_point_is_reached_somewhere_and_no_other() -> None:
    sources = [path.read_text() for path in (ROOT / "worker").rglob("*.py")]
    assert {name for text in sources for name in REACH.findall(text)} == CRASH_POINTS.keys()


def test_an_unarmed_point_does_nothing() -> None:
    ended = _run(["claim.committed"] * 3, {})
    assert (ended.returncode, ended.stdout) == (0, "lived\n")


@pytest.mark.parametrize(
    ("armed", "points", "code"),
    [
        ("call.sent", ["claim.committed", "call.sent"], -signal.SIGKILL),
        ("call.sent:2", ["call.sent"], 0),
        ("call.sent:2", ["call.sent", "claim.committed", "call.sent"], -signal.SIGKILL),
    ],
)
def test_an_armed_point_kills_when_its_count_is_reached(
    armed: str, points: list[str], code: int
) -> None:
    assert _run(points, {"JOBSWORTH_CRASH_POINT": armed}).returncode == code


def test_the_log_names_each_reached_point_once(tmp_path: Path) -> None:
    log = tmp_path / "reached"
    _run(["call.sent", "claim.committed", "call.sent"], {"JOBSWORTH_CRASH_LOG": str(log)})
    assert log.read_text().split() == ["call.sent", "claim.committed"]


def test_an_unknown_point_is_a_mistake_when_armed() -> None:
    ended = _run(["no.such.point"], {"JOBSWORTH_CRASH_POINT": "call.sent"})
    assert "no.such.point is not a crash point" in ended.stderr


def _run(points: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(points=points)],
        env=environment(None, env),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
