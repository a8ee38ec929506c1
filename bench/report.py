"""Write `benchmarks.md` from results, with the plots beside it in `benchmarks/`."""

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psutil

from bench import plot
from bench.contender import JOBS_MAX, Contender
from bench.lab import OURS
from bench.results import Figure, Results
from bench.server import CONFIG
from bench.targets import MISSED, last_over_first, number, targets

INTRODUCTION = """
Written by `make bench`, which runs every contender on the same server in one run, in turns: run 1
of all, run 2 of all, and so on. Absolute figures are this machine's; what can be compared are
ratios. A cell shows the median and the range of the runs. What we lose is here as well.
"""

SERIES = ("rounds", "one at a time")
"""Scenarios whose values are rounds in their order, not runs."""


class Section(Protocol):
    """What the report needs of a scenario: constants of its module."""

    @property
    def NAME(self) -> str: ...  # noqa: N802
    @property
    def TITLE(self) -> str: ...  # noqa: N802
    @property
    def METHOD(self) -> str: ...  # noqa: N802


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: the figures that it shows, and what it compares."""

    scenario: str
    file: str
    title: str
    measure: str
    kind: Literal["contenders", "variants", "rounds"]
    variant: str = ""
    until: str = ""
    """Another measure, up to which the thin line goes; without it, over the range of the runs."""


PLOTS = (
    Plot("drain", "drain", "Drain of no-op jobs, jobs/s", "jobs/s", "contenders"),
    Plot(
        "drain",
        "drain-cpu",
        "Worker CPU, s per 1,000 jobs (less is better)",
        "worker CPU s/1,000 jobs",
        "contenders",
    ),
    Plot("enqueue", "enqueue", "Bulk enqueue, jobs/s", "bulk jobs/s", "contenders"),
    Plot(
        "pickup",
        "pickup",
        "Idle pick-up, p50, a line to p99, ms (less is better)",
        "p50 ms",
        "contenders",
        until="p99 ms",
    ),
    Plot(
        "rounds",
        "rounds-pinned",
        "Jobs/s under a pinned snapshot, against round 1",
        "jobs/s",
        "rounds",
        variant="pinned",
    ),
    Plot(
        "one at a time",
        "one-at-a-time",
        "One job at a time, pinned, jobs/s against round 1",
        "jobs/s",
        "rounds",
        variant="pinned",
    ),
    Plot("flat", "flat", "Jobs/s of the same drain, by what else is there", "jobs/s", "variants"),
    Plot("daemons", "daemons", "Jobs/s of all worker processes together", "jobs/s", "variants"),
)


def machine(postgres: str, *, runs: int, quick: bool) -> dict[str, str]:
    """What the figures depend on, without anything that identifies this machine."""
    gigabytes = psutil.virtual_memory().total / 2**30
    return {
        "cores": f"{os.cpu_count()}, {_processor()}",
        "memory": f"{gigabytes:.0f} GiB",
        "system": _system(),
        "PostgreSQL": f"{postgres}, on a unix socket, "
        + ", ".join(f"{name} {value}" for name, value in CONFIG.items())
        + ", the rest as by default",
        "Python": f"{platform.python_version()} ({sys.implementation.name})",
        "runs": f"{runs}, quick: small sizes, for a glance only" if quick else str(runs),
    }


def described(contender: Contender) -> dict[str, str]:
    """A contender in the form of the results."""
    return {
        "version": contender.version,
        "settings": ", ".join(f"{name} = {value}" for name, value in contender.settings.items()),
        "note": "; ".join(note for note in (contender.note, _fewer(contender)) if note),
    }


def _fewer(contender: Contender) -> str:
    most = contender.jobs_max
    return f"drains and bulk enqueues of {most:,} jobs" if most < JOBS_MAX else ""


def write(results: Results, sections: Sequence[Section], folder: Path) -> None:
    """Write the page and its plots below `folder`."""
    plots = folder / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    for each in PLOTS:
        drawn = _drawn(each, results.figures)
        if drawn is not None:
            (plots / f"{each.file}.svg").write_text(drawn)
    (folder / "benchmarks.md").write_text("\n".join(_page(results, sections)))


def table(scenario: str, figures: Sequence[Figure]) -> Iterator[list[list[str]]]:
    """The tables of a scenario, each with a heading row; similar measures share a table."""
    if scenario in SERIES:
        yield _series_table(figures)
        return
    rows: dict[tuple[str, str], dict[str, Figure]] = {}
    for figure in figures:
        rows.setdefault((figure.contender, figure.variant), {})[figure.measure] = figure
    headings: list[tuple[str, ...]] = []
    for measures in sorted(map(tuple, rows.values()), key=len, reverse=True):
        if not any(set(measures) <= set(heading) for heading in headings):
            headings.append(measures)
    for heading in headings:
        yield [
            ["", *heading],
            *(
                [_row_name(*name), *(_cell(row.get(measure)) for measure in heading)]
                for name, row in rows.items()
                if set(row) <= set(heading)
            ),
        ]


def _page(results: Results, sections: Sequence[Section]) -> Iterator[str]:
    yield "# Benchmarks"
    yield INTRODUCTION
    yield from (f"- {name}: {value}" for name, value in results.machine.items())
    yield "\n## Targets\n"
    rows = [
        [_emphasized(each.verdict), each.what, each.target, each.reached]
        for each in targets(results.figures)
    ]
    yield from _markdown([["", "", "target", "reached"], *rows])
    for section in sections:
        figures = [figure for figure in results.figures if figure.scenario == section.NAME]
        if figures:
            yield from _section(section, figures)
    if results.failures:
        yield "\n## Not measured\n"
        yield from (
            f"- {failure.scenario}, {failure.contender}: {failure.reason}"
            for failure in results.failures
        )
    yield "\n## Contenders\n"
    yield from _markdown(
        [
            ["", "version", "settings", "notes"],
            *(
                [name, each["version"], each["settings"], each["note"]]
                for name, each in results.contenders.items()
            ),
        ]
    )
    yield ""


def _section(section: Section, figures: Sequence[Figure]) -> Iterator[str]:
    yield f"\n## {section.TITLE}\n"
    yield f"{section.METHOD.strip()}\n"
    for each in PLOTS:
        if _drawn(each, figures) is not None:
            yield f"![{each.title}](benchmarks/{each.file}.svg)\n"
    for rows in table(section.NAME, figures):
        yield from _markdown(rows)
        yield ""


def _markdown(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    heading, *others = rows
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in others:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def _series_table(figures: Sequence[Figure]) -> list[list[str]]:
    rows = [["", "rounds", "jobs/s, first", "median", "last", "last / first"]]
    for figure in figures:
        first, last = figure.values[0], figure.values[-1]
        rows.append(
            [
                _row_name(figure.contender, figure.variant),
                str(len(figure.values)),
                *(number(value) for value in (first, figure.median, last)),
                f"{last_over_first(figure.values):.2f}",
            ]
        )
    return rows


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    if len(figure.values) == 1:
        return number(figure.median)
    return f"{number(figure.median)} ({number(min(figure.values))}–{number(max(figure.values))})"


def _row_name(contender: str, variant: str) -> str:
    return f"{contender}, {variant}" if variant else contender


def _emphasized(verdict: str) -> str:
    return f"**{verdict}**" if verdict == MISSED else verdict


def _drawn(each: Plot, figures: Sequence[Figure]) -> str | None:
    shown = [figure for figure in figures if _shows(each, figure, each.measure)]
    if not shown:
        return None
    if each.kind == "rounds":
        shown.sort(key=lambda figure: figure.contender != OURS)
        return plot.lines(each.title, [_line(each, figure) for figure in shown], "round")
    ends = {f.contender: f for f in figures if each.until and _shows(each, f, each.until)}
    rows = [_bar(each, figure, ends.get(figure.contender)) for figure in shown]
    if each.kind == "contenders":
        less_is_better = "less is better" in each.title
        rows.sort(key=lambda bar: bar.value, reverse=not less_is_better)
    return plot.bars(each.title, rows)


def _shows(each: Plot, figure: Figure, measure: str) -> bool:
    if (figure.scenario, figure.measure) != (each.scenario, measure):
        return False
    match each.kind:
        case "contenders":
            return figure.variant == each.variant
        case "rounds":  # "pinned", and "pinned, one process" as well
            return figure.variant.startswith(each.variant)
        case "variants":
            return True


def _bar(each: Plot, figure: Figure, end: Figure | None) -> plot.Bar:
    words = number(figure.median)
    low, high = min(figure.values), max(figure.values)
    if end is not None:
        low, high = figure.median, end.median
        words = f"{words} – {number(high)}"
    return plot.Bar(
        label=figure.variant if each.kind == "variants" else figure.contender,
        value=figure.median,
        low=low,
        high=high,
        words=words,
        ours=figure.contender == OURS,
    )


def _line(each: Plot, figure: Figure) -> plot.Line:
    first = figure.values[0]
    label = figure.contender + figure.variant.removeprefix(each.variant)
    return plot.Line(label, tuple(value / first for value in figure.values))


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return f"{platform.system()} {platform.release()}"


def _processor() -> str:
    try:
        names = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.split(":", 1)[1].strip() for line in names if line.startswith("model name")]
    return models[0] if models else platform.machine()
