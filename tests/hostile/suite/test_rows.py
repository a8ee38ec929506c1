"""Whatever a client inserts is refused with a reason, or stops no daemon and no command."""

from __future__ import annotations

from collections.abc import Callable

from tests.hostile.suite import rows
from tests.hostile.suite.house import House
from tests.support import run_cli

# Commands that read what was inserted.
LISTS = (
    *("job", "run", "approval", "deployment", "environment", "budget", "price", "limit", "queue"),
    *("worker list", "webhook", "delivery", "ledger", "status", "doctor"),
)


def test_every_value_of_every_column_is_refused_or_stops_nobody(
    house: House, count: Callable[[int], None]
) -> None:
    house.add_neighbours(50)
    known = rows.ground(house.conn)
    cases = list(rows.cases(house.conn))
    unreadable: list[str] = []
    for n, case in enumerate(cases):
        refusal = rows.insert(house.conn, case, known, n)
        if refusal is not None and not rows.is_readable(refusal, case):
            unreadable.append(f"{case.table}.{case.column} = {str(case.value)[:40]!r}: {refusal}")
    assert not unreadable, "\n".join(unreadable)
    house.add_neighbours(50)
    house.start()
    house.settle()
    for noun in LISTS:
        listed = run_cli(*noun.split(), url=house.url)
        assert listed.returncode in (0, 1), f"{noun}: {listed.stderr[-1000:]}"
        assert "Traceback" not in listed.stderr
    house.check()
    count(len(cases))
