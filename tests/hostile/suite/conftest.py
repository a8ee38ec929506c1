"""The hostile suite: real daemons among rows, values and settings that nobody should write.

Each test drives many cases against one daemon, beside neighbours that must not notice. It says with
`count(n)` how many different cases it drove; their sum is printed at the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.hostile.suite.house import House
from tests.support import Workers

CASES = "hostile cases"


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Add to the number of cases that is printed at the end."""
    return lambda cases: record_property(CASES, cases)


@pytest.fixture
def house(database_url: str, workers: Workers) -> Iterator[House]:
    """A database with a daemon and its neighbours' jobs."""
    with House.open(database_url, workers) as house:
        yield house


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.stats.get("passed", [])
    counted = [
        value
        for report in passed
        for name, value in getattr(report, "user_properties", [])
        if name == CASES
    ]
    if counted:
        terminalreporter.write_line(f"{sum(counted):,} {CASES} in {len(counted)} tests")
