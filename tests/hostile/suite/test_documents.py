"""What PostgreSQL stores and Python can hardly read is one job's trouble."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from tests.hostile.suite import documents
from tests.hostile.suite.house import House

MODES = ("echo", "echo.typed", "echo.plain", "echo.stepped", "answer")
DRAWN = 400
SEED = 20_261_129
ADD = "select jobsworth.enqueue(%s, %s::jsonb)"
ISOLATED_EVERY = 8


def test_a_payload_that_cannot_be_read_fails_its_own_job(
    house: House, count: Callable[[int], None]
) -> None:
    cases = _cases()
    house.add_neighbours(50)
    for mode, text in cases:
        house.conn.execute(ADD, [mode, text])
    house.add_neighbours(50)
    house.start()
    house.settle()
    house.check()
    ended = [row for row in house.endings().values() if row["mode"] != "neighbour"]
    assert len(ended) >= len(cases)
    assert {row["status"] for row in ended} <= {"done", "failed"}
    count(len(cases))


def _cases() -> list[tuple[str, str]]:
    """Each known extreme in each mode, and drawn documents in the modes by turns."""
    fixed = list(itertools.product(MODES, documents.fixed().values()))
    drawn = list(zip(itertools.cycle(MODES), documents.drawn(SEED, DRAWN), strict=False))
    isolated = [
        ("echo.isolated", text) for text in list(documents.fixed().values())[::ISOLATED_EVERY]
    ]
    return [*fixed, *drawn, *isolated]
