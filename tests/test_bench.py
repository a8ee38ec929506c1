"""The benchmarks themselves: targets, report and plots from made-up figures, and one small run."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import plot, report
from bench.__main__ import SCENARIOS
from bench.results import Failure, Figure, Results, load, save
from bench.scenarios.pickup import at_percent
from bench.scenarios.shape import share_busy
from bench.targets import MET, MISSED, NOT_MEASURED, Target, last_over_first, targets
from tests.support import ROOT


def drain(contender: str, *values: float) -> Figure:
    return Figure("drain", contender, "jobs/s", "", values)


FIGURES = (
    drain("jobsworth", 9_000, 10_000, 12_000),
    drain("pgbench", 20_000),
    drain("graphile-worker", 9_900, 9_000, 9_500),
    drain("<peer> & co", 100),
    Figure("pickup", "jobsworth", "p50 ms", "", (2.0, 3.0)),
    Figure("pickup", "jobsworth", "p99 ms", "", (4.0, 9.0)),
    Figure("rounds", "jobsworth", "jobs/s", "pinned, one process", (100, 102, 98, 101, 97, 99)),
    Figure("flat", "jobsworth", "jobs/s", "empty", (100, 200)),
    Figure("flat", "jobsworth", "jobs/s", "1,000,000 queued", (98, 150)),
    Figure("priority", "jobsworth", "handler ms", "", (3.0, 120.0)),
)
RESULTS = Results(
    machine={"cores": "2"},
    contenders={"jobsworth": {"version": "1", "settings": "a = b | c", "note": ""}},
    figures=FIGURES,
    failures=(Failure("drain", "saq", "did not start"),),
)


def test_every_scenario_says_what_it_measures_and_how() -> None:
    names = [scenario.NAME for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    for scenario in SCENARIOS:
        assert scenario.TITLE
        assert len(scenario.METHOD) > 100
        assert callable(scenario.run)
    assert {each.scenario for each in report.PLOTS} <= set(names)


def test_every_scenario_is_in_the_list() -> None:
    files = {path.stem for path in (ROOT / "bench/scenarios").glob("[!_]*.py")}
    assert {scenario.NAME.replace(" ", "_") for scenario in SCENARIOS} == files


@pytest.mark.parametrize(
    ("begins", "reached", "verdict"),
    [
        ("drain, jobs/s against graphile", "1.05 × (10,000 against 9,500 of", MET),
        ("drain, jobs/s against pgbench", "0.50 × (10,000 against 20,000)", MISSED),
        ("drain, jobs/s against pgqueuer", "", NOT_MEASURED),
        ("idle pick-up, p50", "", NOT_MEASURED),
        ("rounds under a pinned snapshot, in batches", "0.99 × (6 rounds)", MET),
        ("drain beside 1,000,000 queued", "0.86 × (0.75–0.98)", MISSED),
        ("drain beside 1,000,000 scheduled", "", NOT_MEASURED),
        ("an urgent job among a million, ms", "120", MISSED),
    ],
)
def test_a_target_is_met_missed_or_not_measured(begins: str, reached: str, verdict: str) -> None:
    [target] = [each for each in targets(FIGURES) if each.what.startswith(begins)]
    assert target.reached.startswith(reached)
    assert target.verdict == verdict


def test_without_figures_no_target_is_measured() -> None:
    assert {target.verdict for target in targets(())} == {NOT_MEASURED}


def test_the_best_peer_is_neither_ours_nor_pgbench() -> None:
    peers = [replace(FIGURES[4], contender=name, values=(6.0,)) for name in ("slow", "pgbench")]
    peers[1] = replace(peers[1], values=(0.1,))
    found = _target(targets((*FIGURES, *peers)), "idle pick-up, p50")
    assert found.reached == "0.42 × (2.50 against 6 of slow)"
    assert found.verdict == MET


@pytest.mark.parametrize(
    ("values", "ratio"), [((10, 5), 0.5), ((10, 9, 11, 1, 1, 4, 5, 6), 0.5), ((7,), 1)]
)
def test_a_series_ends_against_its_beginning(values: tuple[float, ...], ratio: float) -> None:
    assert last_over_first(values) == ratio


def test_a_percentile_is_the_nearest_rank() -> None:
    assert [at_percent(list(range(1, 101)), percent) for percent in (50, 99)] == [50, 99]
    assert at_percent([7], 99) == 7


def test_slots_are_busy_from_when_all_are_taken_until_the_last_claim() -> None:
    whole = [(0.0, 10.0), (2.0, 6.0), (6.0, 12.0), (10.0, 11.0)]
    assert share_busy(whole, 2) == 1.0
    half = [(0.0, 2.0), (2.0, 10.0), (10.0, 11.0)]
    assert share_busy(half, 2) == 0.5


def test_the_report_shows_targets_figures_and_what_was_not_measured(tmp_path: Path) -> None:
    report.write(RESULTS, SCENARIOS, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| jobsworth | 10,000 (9,000–12,000) |" in page
    assert "**missed**" in page
    assert "- drain, saq: did not start" in page
    assert "a = b / c" in page
    for file in (tmp_path / "benchmarks").glob("*.svg"):
        assert f"](benchmarks/{file.name})" in page
    assert "](benchmarks/drain.svg)" in page


def test_plots_are_valid_xml_and_stay_within_their_frame(tmp_path: Path) -> None:
    report.write(RESULTS, SCENARIOS, tmp_path)
    files = sorted((tmp_path / "benchmarks").glob("*.svg"))
    assert [file.stem for file in files] == ["drain", "flat", "pickup", "rounds-pinned"]
    for file in files:
        root = ElementTree.parse(file).getroot()
        assert root.tag.endswith("svg")
        across = [float(e.get("x", 0)) + float(e.get("width", 0)) for e in root.iter()]
        assert max(across[1:]) <= plot.WIDTH
    assert "&lt;peer&gt; &amp; co" in files[0].read_text()


def test_results_are_kept_and_a_partial_run_takes_the_place_of_its_part(tmp_path: Path) -> None:
    save(RESULTS, tmp_path / "results.json")
    older = load(tmp_path / "results.json")
    assert older == RESULTS
    newer = replace(RESULTS, figures=(drain("pgbench", 1), drain("saq", 2)), failures=())
    merged = newer.merged_over(older)
    values = {(f.contender, f.values) for f in merged.figures if f.scenario == "drain"}
    assert ("pgbench", (1,)) in values
    assert ("pgbench", (20_000,)) not in values
    assert ("jobsworth", (9_000, 10_000, 12_000)) in values
    assert merged.failures == ()


def test_a_small_run_measures_and_writes_nothing() -> None:
    """Jobsworth and pgbench only, which need no installation."""
    words = ["--quick", "--runs", "1", "--only", "drain", "--contenders", "jobsworth,pgbench"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "FAILED" not in done.stdout + done.stderr
    assert "against" in done.stdout
    assert "nothing is written" in done.stdout


def _target(all_: Iterator[Target], begins: str) -> Target:
    return next(each for each in all_ if each.what.startswith(begins))
