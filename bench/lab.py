"""What the scenarios share, and the order in which contenders take turns."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.contender import Contender, ContenderError
from bench.results import Failure, Figure
from bench.server import Server

OURS = "jobsworth"
PGBENCH = "pgbench"

Measured = Mapping[tuple[str, str], float]
"""(measure, variant) to value: what one run of one contender brings."""


@dataclass(frozen=True, slots=True)
class Lab:
    """The server, the contenders and the size of this run."""

    server: Server
    contenders: tuple[Contender, ...]
    runs: int
    quick: bool
    failures: list[Failure] = field(default_factory=list[Failure])

    def say(self, text: str) -> None:
        """A line of progress, to standard error."""
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def size(self, full: int, quick: int) -> int:
        """The number of jobs: the full one, or that of a quick run."""
        return quick if self.quick else full

    def contender(self, name: str) -> Contender | None:
        return next((each for each in self.contenders if each.name == name), None)

    @property
    def queues(self) -> tuple[Contender, ...]:
        """The contenders that are job queues: all but pgbench."""
        return tuple(each for each in self.contenders if each.name != PGBENCH)

    def failed(self, scenario: str, contender: str, error: Exception) -> None:
        """Note that a contender could not be measured, for now and for the report."""
        words = " ".join(str(error).split())
        reason = words if isinstance(error, ContenderError) else f"{type(error).__name__}: {words}"
        self.failures.append(Failure(scenario, contender, reason))
        self.say(f"FAILED {scenario}: {contender}: {reason}")

    def interleaved(
        self,
        scenario: str,
        contenders: Sequence[Contender],
        measure: Callable[[Contender], Measured],
        *,
        runs_max: int | None = None,
    ) -> Iterator[Figure]:
        """Run 1 of every contender, then run 2 of every contender, …; one figure per measure.

        Interleaved, so that other load of the machine affects all of them alike. A contender that
        fails is reported and takes no further turn; its earlier runs count.
        """
        values: dict[tuple[str, str, str], list[float]] = {}
        out: set[str] = set()
        runs = min(self.runs, runs_max or self.runs)
        for run in range(runs):
            for contender in contenders:
                if contender.name in out:
                    continue
                self.say(f"{scenario}: {contender.name}, run {run + 1} of {runs}")
                try:
                    measured = measure(contender)
                except Exception as error:
                    self.failed(scenario, contender.name, error)
                    out.add(contender.name)
                    continue
                for (name, variant), value in measured.items():
                    values.setdefault((contender.name, name, variant), []).append(value)
        for (contender_name, name, variant), of_runs in values.items():
            yield Figure(scenario, contender_name, name, variant, tuple(of_runs))
