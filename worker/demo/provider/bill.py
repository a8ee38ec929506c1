"""The bill of the demo's provider: one line for each answer it charged for.

In: the file that the provider writes. Out: charges. The provider is a process of its own and bills
what came over the wire, so the bill checks the books independently.
"""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of the bill."""

    request_id: str
    model: str
    input_tokens: int
    output_tokens: int


def read_bill(file: Path) -> list[Charge]:
    """What was charged so far; empty before the first answer."""
    if not file.exists():
        return []
    return [Charge(**json.loads(line)) for line in file.read_text().splitlines()]
