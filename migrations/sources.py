"""The schema as it is written by hand: the files of `schema/`, in the order of `order.txt`.

`python -m migrations.sources` prints them as one script, which the first release keeps as
`versions/0001_schema.sql` (README.md says why).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import LiteralString, cast

DIRECTORY = Path(__file__).resolve().parent / "schema"


def files() -> list[str]:
    """The names of the files, like `queue/claim.sql`, in the order in which they are run."""
    return (DIRECTORY / "order.txt").read_text().split()


def script() -> LiteralString:
    """All of them as one script. It is our own source, so it counts as a literal."""
    texts = [f"-- {name}\n\n{(DIRECTORY / name).read_text()}" for name in files()]
    return cast(LiteralString, "\n".join(texts))


if __name__ == "__main__":
    sys.stdout.write(script())
