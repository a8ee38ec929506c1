"""`python -m bench`: run every scenario for all contenders on one server, then write the report.

    python -m bench [--quick] [--only drain,pickup] [--contenders jobsworth,pgbench] [--runs 5]
                    [--merge]

A partial run prints its tables and writes nothing; with --merge, its results replace those of the
same scenarios and contenders in the last results.
"""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import ours, peers, raw, report
from bench.contender import ROOT, Contender
from bench.lab import Lab
from bench.results import Failure, Figure, Results, load, save
from bench.scenarios import (
    agents,
    daemons,
    drain,
    enqueue,
    evidence,
    flat,
    idle,
    one_at_a_time,
    paperwork,
    pickup,
    priority,
    rounds,
    search,
    shape,
)
from bench.server import Server, running_server
from bench.targets import NOT_MEASURED, targets

Thing = TypeVar("Thing")
Names = tuple[str, ...]

RUNS = 5
QUICK_RUNS = 1

QUICK_FOLDER = ROOT / ".bench" / "quick"
"""A quick run must not replace the figures of a full one."""


class Scenario(report.Section, Protocol):
    """A module that measures one property of several contenders, or several of Jobsworth."""

    @property
    def run(self) -> Callable[[Lab], Iterator[Figure]]: ...


SCENARIOS: tuple[Scenario, ...] = (
    drain,
    enqueue,
    pickup,
    rounds,
    one_at_a_time,
    flat,
    priority,
    daemons,
    paperwork,
    evidence,
    search,
    shape,
    agents,
    idle,
)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    quick: bool
    merge: bool
    runs: int
    only: tuple[str, ...]
    contenders: tuple[str, ...]

    @property
    def partial(self) -> bool:
        return bool(self.only or self.contenders)


def main() -> None:
    """Measure what the command line selects, print the results, and write them."""
    options = _options()
    # A signal that ends this process must end the server and the workers, too.
    signal.signal(signal.SIGTERM, _end)
    scenarios = _chosen(SCENARIOS, lambda scenario: scenario.NAME, options.only)
    results = _measure(options, scenarios)
    _print(results, scenarios)
    folder = QUICK_FOLDER if options.quick else ROOT / "docs"
    if options.partial and not options.merge:
        print("A partial run: nothing is written. --merge puts it into the last results.")
        return
    kept = folder / "benchmarks" / "results.json"
    if options.merge and kept.exists():
        results = results.merged_over(load(kept))
    save(results, kept)
    report.write(results, SCENARIOS, folder)
    print(f"Written: {(folder / 'benchmarks.md').relative_to(ROOT)}")


def _measure(options: Options, scenarios: Sequence[Scenario]) -> Results:
    with running_server() as server:
        contenders, missing = _contenders(server, options.contenders)
        lab = Lab(server, contenders, options.runs, options.quick, missing)
        took: dict[str, float] = {}
        figures = [figure for scenario in scenarios for figure in _figures(lab, scenario, took)]
        lab.say(_times(took))
        return Results(
            machine=report.machine(server.version, runs=lab.runs, quick=lab.quick),
            contenders={each.name: report.described(each) for each in lab.contenders},
            figures=tuple(figures),
            failures=tuple(lab.failures),
        )


def _contenders(server: Server, names: Names) -> tuple[tuple[Contender, ...], list[Failure]]:
    """The selected contenders that can be installed, and why the others cannot."""
    everybody = (ours.contender(), raw.contender(server), *peers.contenders())
    chosen = _chosen(everybody, lambda contender: contender.name, names)
    reasons = peers.install([contender.name for contender in chosen])
    missing = [Failure("all", name, reason) for name, reason in reasons.items()]
    for failure in missing:
        print(f"NOT INSTALLED {failure.contender}: {failure.reason}")
    return tuple(each for each in chosen if each.name not in reasons), missing


# A scenario that fails must not lose the hours of the others, nor be overlooked.
def _figures(lab: Lab, scenario: Scenario, took: dict[str, float]) -> Iterator[Figure]:
    lab.say(f"--- {scenario.TITLE}")
    begun = time.monotonic()
    try:
        yield from scenario.run(lab)
    except Exception as error:
        traceback.print_exc()
        lab.failed(scenario.NAME, "all", error)
    took[scenario.NAME] = time.monotonic() - begun


def _times(took: Mapping[str, float]) -> str:
    each = ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items())
    return f"seconds: {each}; all {sum(took.values()):.0f}"


def _print(results: Results, scenarios: Sequence[Scenario]) -> None:
    console = Console()
    for scenario in scenarios:
        figures = [figure for figure in results.figures if figure.scenario == scenario.NAME]
        for rows in report.table(scenario.NAME, figures) if figures else ():
            _print_table(console, scenario.TITLE, rows)
    measured = [each for each in targets(results.figures) if each.verdict != NOT_MEASURED]
    rows = [[each.what, each.target, each.reached, each.verdict] for each in measured]
    _print_table(console, "Targets", [["", "target", "reached", ""], *rows])
    for failure in results.failures:
        console.print(
            f"FAILED {failure.scenario}: {failure.contender}: {failure.reason}", markup=False
        )


def _print_table(console: Console, title: str, rows: Sequence[Sequence[str]]) -> None:
    heading, *others = rows
    table = Table(title=title, title_justify="left")
    for column in heading:
        table.add_column(column, justify="right" if column else "left")
    for row in others:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def _chosen(all_: Sequence[Thing], name: Callable[[Thing], str], names: Names) -> tuple[Thing, ...]:
    unknown = set(names) - {name(thing) for thing in all_}
    if unknown:
        known = ", ".join(name(thing) for thing in all_)
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; known: {known}")
    return tuple(thing for thing in all_ if not names or name(thing) in names)


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few runs, small sizes")
    parser.add_argument("--only", type=_names, default=(), help="scenarios, with commas between")
    parser.add_argument("--contenders", type=_names, default=(), help="with commas between")
    parser.add_argument(
        "--runs", type=int, default=0, help=f"by default {RUNS}, quick {QUICK_RUNS}"
    )
    parser.add_argument("--merge", action="store_true", help="put a partial run into the results")
    given = parser.parse_args()
    return Options(
        quick=given.quick,
        merge=given.merge,
        runs=given.runs or (QUICK_RUNS if given.quick else RUNS),
        only=given.only,
        contenders=given.contenders,
    )


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def _names(words: str) -> Names:
    return tuple(word.strip() for word in words.split(",") if word.strip())


if __name__ == "__main__":
    main()
