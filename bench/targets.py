"""The targets, as ratios within one run, and whether they were reached."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.lab import OURS, PGBENCH
from bench.results import Figure, find

MET, MISSED, STATED, NOT_MEASURED = "met", "missed", "stated", "not measured"

POLL_MS = 1000.0
FLAT_VARIANTS = (
    "1,000,000 queued",
    "1,000,000 scheduled",
    "10,000,000 finished",
    "100,000 approvals",
)
MANY_DAEMONS = ("2", "4", "8", "16")


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table that opens the report."""

    what: str
    target: str
    reached: str
    verdict: str


def targets(figures: Sequence[Figure]) -> Iterator[Target]:
    """Every target, in the order of the report."""
    run = _Run(figures)
    yield from _drain(run)
    yield from _pickup(run)
    yield from _enqueue(run)
    yield from _flat(run)
    yield from _daemons(run)
    yield from _cost(run)
    yield from _shape(run)
    yield from _evidence(run)


def last_over_first(values: Sequence[float]) -> float:
    """The end of a series of rounds over its beginning: medians of three, if it has six."""
    some = 3 if len(values) >= 6 else 1
    return statistics.median(values[-some:]) / statistics.median(values[:some])


def _drain(run: "_Run") -> Iterator[Target]:
    ours = run.ours("drain", "jobs/s")
    for name, least in (("graphile-worker", 1.0), ("pgqueuer", 2.0), (PGBENCH, 0.6)):
        theirs = run.figure("drain", name, "jobs/s")
        yield _at_least(f"drain, jobs/s against {name}", least, ours, theirs)
    yield _bound("drain with paperwork, jobs/s", ">=", 6000, run.ours("paperwork", "jobs/s"))


def _pickup(run: "_Run") -> Iterator[Target]:
    for measure, most in (("p50 ms", 0.6), ("p99 ms", 1.0)):
        best = run.best("pickup", measure, min)
        what = f"idle pick-up, {measure[:3]} against the best peer's"
        yield _at_most(what, most, run.ours("pickup", measure), best)
    cut = run.ours("pickup", "max ms", "LISTEN cut")
    yield _bound("the same, LISTEN cut, max ms (the poll interval)", "<=", POLL_MS, cut, max)
    yield _bound("idle daemon, % of a core", "<", 1, run.ours("idle", "CPU %"))
    yield _bound("idle daemon, queries/s", "<=", 4, run.ours("idle", "queries/s"))


def _enqueue(run: "_Run") -> Iterator[Target]:
    best = run.best("enqueue", "bulk jobs/s", max)
    ours = run.ours("enqueue", "bulk jobs/s")
    yield _at_least("bulk enqueue, jobs/s against the best peer's", 1.0, ours, best)
    measure = "8 connections jobs/s"
    inserts = run.ours("enqueue", measure, "insert, daemon busy")
    bare = run.ours("enqueue", measure, "insert, no triggers, daemon busy")
    what = "inserts by 8 connections, daemon busy, against the table without triggers"
    yield _paired(what, 0.9, inserts, bare)
    inserts = run.ours("enqueue", measure, "insert, daemon idle")
    bare = run.ours("enqueue", measure, "insert, no triggers, daemon idle")
    yield _stated_ratio("the same, daemon idle: each commit notifies", inserts, bare)


def _flat(run: "_Run") -> Iterator[Target]:
    for scenario, variant, how in (
        ("rounds", "pinned, one process", "in batches"),
        ("one at a time", "pinned", "one at a time"),
    ):
        what = f"rounds under a pinned snapshot, {how}, last against first"
        yield _series(what, 0.95, run.ours(scenario, "jobs/s", variant))
    empty = run.ours("flat", "jobs/s", "empty")
    for variant in FLAT_VARIANTS:
        what = f"drain beside {variant}, against an empty table"
        yield _paired(what, 0.95, run.ours("flat", "jobs/s", variant), empty)
    deep = run.ours("flat", "jobs/s", "lane 100,000 deep")
    short = run.ours("flat", "jobs/s", "lane short")
    yield _paired("a lane 100,000 deep, against a short one", 0.95, deep, short)
    for variant, how in (("", ""), ("pinned", ", snapshot pinned")):
        what = f"an urgent job among a million{how}, ms to its handler"
        yield _bound(what, "<=", 100, run.ours("priority", "handler ms", variant), max)


def _daemons(run: "_Run") -> Iterator[Target]:
    one = run.ours("daemons", "jobs/s", "1")
    many = [run.ours("daemons", "jobs/s", count) for count in MANY_DAEMONS]
    worst = min((each for each in many if each), key=lambda each: each.median, default=None)
    complete = worst if None not in many else None
    yield _at_least("2, 4, 8, 16 daemons, the least total against one daemon's", 1.0, complete, one)
    problems = [run.ours("daemons", "log problems", count) for count in ("", "1", *MANY_DAEMONS)]
    found = [problem for problem in problems if problem]
    total = _joined(found) if found else None
    yield _bound("deadlocks and serialization failures in that", "<=", 0, total, sum)


def _cost(run: "_Run") -> Iterator[Target]:
    measure = "worker CPU s/1,000 jobs"
    theirs = run.figure("drain", "pgqueuer", measure)
    yield _at_most(f"{measure}, against pgqueuer's", 1.0, run.ours("drain", measure), theirs)
    yield _bound("idle daemon, RSS MB (no HTTP)", "<=", 80, run.ours("idle", "RSS MB"))
    measure = "PostgreSQL CPU s/1,000 jobs"
    yield _stated(measure, run.ours("drain", measure))


def _shape(run: "_Run") -> Iterator[Target]:
    busy = run.ours("shape", "slots busy %")
    yield _bound("200 slots, jobs of 5-50 ms, slots busy %", ">=", 95, busy)
    yield _stated("the same, handlers busy %", run.ours("shape", "handlers busy %"))
    lost = run.ours("shape", "leases lost")
    yield _bound("leases that neighbours of a blocked loop lost", "<=", 0, lost, sum)


def _evidence(run: "_Run") -> Iterator[Target]:
    paraphrases = run.ours("evidence", "R@5", "semantic, paraphrase")
    yield _bound("paraphrases among the first 5, semantic embedder", ">=", 0.9, paraphrases)
    identifiers = run.ours("evidence", "R@1", "semantic, identifier")
    yield _bound("identifiers found first, semantic embedder", ">=", 1, identifiers)


class _Run:
    """The figures of one run, looked up."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self._figures = figures

    def figure(self, scenario: str, contender: str, measure: str) -> Figure | None:
        return find(self._figures, scenario, contender, measure)

    def ours(self, scenario: str, measure: str, variant: str = "") -> Figure | None:
        return find(self._figures, scenario, OURS, measure, variant)

    def best(
        self, scenario: str, measure: str, choose: Callable[[Iterable[float]], float]
    ) -> Figure | None:
        """The best of the peers: `choose` is min or max."""
        peers = [
            figure
            for figure in self._figures
            if (figure.scenario, figure.measure, figure.variant) == (scenario, measure, "")
            and figure.contender not in (OURS, PGBENCH)
        ]
        if not peers:
            return None
        best = choose(peer.median for peer in peers)
        return next(peer for peer in peers if peer.median == best)


def _at_least(what: str, least: float, ours: Figure | None, theirs: Figure | None) -> Target:
    return _ratio(
        what,
        _times(">=", least),
        lambda ratio: ratio >= least,
        ours,
        theirs,
    )


def _at_most(what: str, most: float, ours: Figure | None, theirs: Figure | None) -> Target:
    return _ratio(
        what,
        _times("<=", most),
        lambda ratio: ratio <= most,
        ours,
        theirs,
    )


def _ratio(
    what: str,
    target: str,
    good: Callable[[float], bool],
    ours: Figure | None,
    theirs: Figure | None,
) -> Target:
    if ours is None or theirs is None:
        return Target(what, target, "", NOT_MEASURED)
    ratio = ours.median / theirs.median
    by = "" if theirs.contender in (OURS, PGBENCH) else f" of {theirs.contender}"
    against = f"{number(ours.median)} against {number(theirs.median)}{by}"
    return Target(what, target, f"{ratio:.2f} × ({against})", _verdict(good(ratio)))


def _paired(what: str, least: float, ours: Figure | None, control: Figure | None) -> Target:
    """The median of the ratios of each run: other load slowed both of a pair."""
    target = _times(">=", least)
    if ours is None or control is None:
        return Target(what, target, "", NOT_MEASURED)
    ratio, reached = _ratios(ours, control)
    return Target(what, target, reached, _verdict(ratio >= least))


def _stated_ratio(what: str, ours: Figure | None, control: Figure | None) -> Target:
    if ours is None or control is None:
        return Target(what, "stated", "", NOT_MEASURED)
    return Target(what, "stated", _ratios(ours, control)[1], STATED)


def _ratios(ours: Figure, control: Figure) -> tuple[float, str]:
    ratios = [a / b for a, b in zip(ours.values, control.values, strict=False)]
    ratio = statistics.median(ratios)
    return ratio, f"{ratio:.2f} × ({min(ratios):.2f}–{max(ratios):.2f})"


def _series(what: str, least: float, figure: Figure | None) -> Target:
    target = _times(">=", least)
    if figure is None:
        return Target(what, target, "", NOT_MEASURED)
    ratio = last_over_first(figure.values)
    reached = f"{ratio:.2f} × ({len(figure.values)} rounds)"
    return Target(what, target, reached, _verdict(ratio >= least))


def _bound(
    what: str,
    sign: str,
    bound: float,
    figure: Figure | None,
    of_runs: Callable[[Sequence[float]], float] = statistics.median,
) -> Target:
    target = f"{sign}\N{NO-BREAK SPACE}{bound:,g}"
    if figure is None:
        return Target(what, target, "", NOT_MEASURED)
    value = of_runs(figure.values)
    good = {">=": value >= bound, "<=": value <= bound, "<": value < bound}[sign]
    return Target(what, target, number(value), _verdict(good))


def _stated(what: str, figure: Figure | None) -> Target:
    if figure is None:
        return Target(what, "stated", "", NOT_MEASURED)
    return Target(what, "stated", number(figure.median), STATED)


def _joined(figures: Sequence[Figure]) -> Figure:
    first = figures[0]
    values = tuple(value for figure in figures for value in figure.values)
    return Figure(first.scenario, first.contender, first.measure, "", values)


# A narrow column of a table must not wrap it.
def _times(sign: str, bound: float) -> str:
    return f"{sign}\N{NO-BREAK SPACE}{bound:g}\N{NO-BREAK SPACE}×"


def _verdict(good: bool) -> str:
    return MET if good else MISSED


def number(value: float) -> str:
    """Three significant digits, or all digits before the point if they are more."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"
