"""The results of a run: each figure holds the values of all runs of one measure."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of one contender in one scenario; `values` has one number per run or round."""

    scenario: str
    contender: str
    measure: str
    variant: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.scenario, self.contender, self.measure, self.variant


@dataclass(frozen=True, slots=True)
class Failure:
    """A contender that could not be measured in a scenario, and why."""

    scenario: str
    contender: str
    reason: str


@dataclass(frozen=True, slots=True)
class Results:
    """One run of the benchmarks, as it is kept in `results.json`."""

    machine: dict[str, str]
    """What the figures depend on and what does not name a host: cores, versions, settings."""
    contenders: dict[str, dict[str, str]]
    """By name: its version, settings and note."""
    figures: tuple[Figure, ...]
    failures: tuple[Failure, ...]

    def merged_over(self, older: "Results") -> "Results":
        """These results, and those of `older` that were not measured again."""
        measured = {_what(row) for row in (*self.figures, *self.failures)}
        return Results(
            machine=self.machine,
            contenders=older.contenders | self.contenders,
            figures=(*_others(older.figures, measured), *self.figures),
            failures=(*_others(older.failures, measured), *self.failures),
        )


Row = TypeVar("Row", Figure, Failure)


def find(
    figures: Iterable[Figure], scenario: str, contender: str, measure: str, variant: str = ""
) -> Figure | None:
    """The figure of that key; None if it was not measured."""
    wanted = (scenario, contender, measure, variant)
    return next((figure for figure in figures if figure.key == wanted), None)


def save(results: Results, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(results), indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> Results:
    read = json.loads(path.read_text())
    return Results(
        machine=read["machine"],
        contenders=read["contenders"],
        figures=tuple(Figure(**(f | {"values": tuple(f["values"])})) for f in read["figures"]),
        failures=tuple(Failure(**failure) for failure in read["failures"]),
    )


# A failure may name its variant behind the scenario: "rounds, pinned".
def _what(row: Figure | Failure) -> tuple[str, str]:
    return row.scenario.split(",")[0], row.contender


def _others(rows: Sequence[Row], measured: set[tuple[str, str]]) -> list[Row]:
    return [row for row in rows if _what(row) not in measured]
