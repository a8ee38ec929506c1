"""The bill of the demo's provider: what it charged for, a line for each answer.

In: the file that the provider writes. Out: charges. It is written by another process than the books
are, out of what came over the wire.
"""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Charge:
    """A line of the bill."""

    request_id: str
    model: str
    input_tokens: int
    output_tokens: int


def read_bill(file: Path) -> list[Charge]:
    """What was charged so far; nothing, if nobody was served."""
    if not file.exists():
        return []
    return [Charge(**json.loads(line)) for line in file.read_text().splitlines()]
