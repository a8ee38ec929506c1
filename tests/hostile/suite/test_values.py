"""What a handler writes is written and can be read back, or is refused to it alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from psycopg.types.json import Jsonb

from tests.hostile.suite.house import House
from tests.hostile.suite.house_handlers import WRITERS
from tests.hostile.suite.values import VALUES

ADD = "select jobsworth.enqueue('writes', %s)"


def test_each_value_by_each_writer_has_a_readable_end(
    house: House, count: Callable[[int], None]
) -> None:
    cases = list(itertools.product(WRITERS, VALUES))
    house.add_neighbours(100)
    for writer, value in cases:
        house.conn.execute(ADD, [Jsonb({"writer": writer, "value": value})])
    house.add_neighbours(100)
    house.start()
    house.settle()
    house.check()
    count(len(cases))
