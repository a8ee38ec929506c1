"""Report in a few lines how a deployment ended, and what is live now.

Stage: after the last phase. In: the results of all phases, and the target of `current`.
Out: a `Report`; its text is stored with the deployment.
Invariant: it claims nothing about what is live that `current` and the results do not show.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.deployments.pipeline.phases import EndStatus, PhaseName, PhaseResult
from worker.deployments.pipeline.probe import ProbeResult

TAIL_LINES_MAX = 20
LINE_CHARACTERS_MAX = 300
ASKED_FOR = "Asked for: "
PHASE_FAILED = re.compile(r" {1,3}[a-z]+ +FAILED ")
HEADLINES: dict[EndStatus, str] = {
    "healthy": "healthy",
    "rolled_back": "rolled back",
    "failed": "FAILED",
}


@dataclass(frozen=True, slots=True)
class Report:
    status: EndStatus
    text: str
    live: str | None
    """The absolute path of the live release; None if there is none or it is unknown."""
    results: Mapping[PhaseName, PhaseResult]
    probe: ProbeResult | None
    """The probe of the new release; None if the deployment ended before it."""


def write_report(
    subject: str,
    status: EndStatus,
    results: Mapping[PhaseName, PhaseResult],
    current: str | None,
    notes: Sequence[str] = (),
    *,
    readable: bool = True,
) -> Report:
    """`subject` is what was deployed where; `current` is where the symlink points, if it is
    `readable`; `notes` are further lines."""
    certain = readable and _live_is_certain(results)
    probed = results["probe"].probe if "probe" in results else None
    lines = [
        f"Deployment of {subject}: {HEADLINES[status]}",
        *(_phase_line(result) for result in results.values()),
        _live_line(results, current, certain=certain, readable=readable),
        *notes,
        *_failing_output(results),
    ]
    return Report(
        status=status,
        text="\n".join(lines),
        live=current if certain else None,
        results=dict(results),
        probe=probed,
    )


def gist(report_text: str | None) -> str:
    """What of a report is worth a line in a list, where commit and status stand already: the phases
    that failed, why it was left, from where it went back."""
    told = [
        " ".join(line.split())
        for line in (report_text or "").splitlines()[1:]
        if PHASE_FAILED.match(line) or line.startswith(("Its job ", ASKED_FOR))
    ]
    return "; ".join(told)


def _live_is_certain(results: Mapping[PhaseName, PhaseResult]) -> bool:
    """A custom command that failed may have switched half of something, and what it left running
    may switch later.
    """
    if any(result.left_running for result in results.values()):
        return False
    rollback = results.get("rollback")
    if rollback is not None:
        return rollback.passed or rollback.live_unchanged
    switch = results.get("switch")
    return switch is None or switch.passed or switch.live_unchanged


def _phase_line(result: PhaseResult) -> str:
    mark = "ok    " if result.passed else "FAILED"
    return f"  {result.name:<8} {mark} {result.duration_seconds:7.1f} s  {_cut(result.detail)}"


def _live_line(
    results: Mapping[PhaseName, PhaseResult],
    current: str | None,
    *,
    certain: bool,
    readable: bool,
) -> str:
    name = "nothing" if current is None else Path(current).name
    if not readable:
        return "Live now: UNKNOWN, check the environment (`current` cannot be read)"
    if not certain:
        return f"Live now: UNKNOWN, check the environment (last known: {name})"
    asked = results.get("confirm") or results.get("probe")
    if asked is None:
        switch = results.get("switch")
        as_before = switch is None or switch.live_unchanged
        return f"Live now: {name}, {'as before' if as_before else 'not probed'}"
    return f"Live now: {name}, its probe {'passed' if asked.passed else 'FAILED'}"


def _failing_output(results: Mapping[PhaseName, PhaseResult]) -> list[str]:
    failing = [result for result in results.values() if not result.passed and result.output]
    lines: list[str] = []
    for result in failing:
        tail = result.output.rstrip().splitlines()[-TAIL_LINES_MAX:]
        lines += [f"Last output of {result.name}:", *(f"    {_cut(line)}" for line in tail)]
    return lines


def _cut(line: str) -> str:
    return line if len(line) <= LINE_CHARACTERS_MAX else f"{line[:LINE_CHARACTERS_MAX]} …"
