"""The example's tests, run by pytest in a project of its own, as its users do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT, environment

INI = """
[pytest]
jobsworth_handlers = handlers
pythonpath = .
"""


def test_the_examples_tests_pass_where_nothing_is_configured(tmp_path: Path) -> None:
    for name in ("handlers.py", "test_handlers.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    (tmp_path / "pytest.ini").write_text(INI)
    # A setting of the developer's own must not count.
    env = environment(None, {"JOBSWORTH_FAILURES_MAX": "nonsense"})
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "6 passed" in ran.stdout
