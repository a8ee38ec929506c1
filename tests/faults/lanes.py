"""Whether attempts of one lane overlapped outside the database, told by the handlers' diary.

An attempt lasts from its entry "began" to its entry "left", or until its process was killed or
stood still. A process that stands still (SIGSTOP) runs nothing; what it does when it goes on is
another matter, and the fence's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from tests.chaos.diary import Entry


class Span(NamedTuple):
    """An attempt; monotonic nanoseconds."""

    began_ns: int
    left_ns: int
    job: str
    attempt: int
    pid: int


def spans(entries: Iterable[Entry], stops: Mapping[int, Sequence[int]]) -> list[Span]:
    """The attempts, by their beginnings. `stops`: when each process was killed or stood still."""
    began: dict[tuple[str, int, int], int] = {}
    found: list[Span] = []

    def end(key: tuple[str, int, int], at_ns: int) -> None:
        job, attempt, pid = key
        start = began.pop(key)
        stopped = [stop for stop in stops.get(pid, ()) if start <= stop < at_ns]
        found.append(Span(start, min([at_ns, *stopped]), job, attempt, pid))

    for entry in entries:
        key = (entry.job, entry.attempt, entry.pid)
        if entry.what == "began":
            began[key] = entry.at_ns
        elif entry.what == "left" and key in began:
            end(key, entry.at_ns)
    for key in list(began):
        assert any(stop >= began[key] for stop in stops.get(key[2], ())), f"never left: {key}"
        end(key, max(stops[key[2]]) + 1)
    return sorted(found)


def overlaps(attempts: Iterable[Span], lanes: Mapping[str, str]) -> list[tuple[Span, Span]]:
    """Attempts of one lane that ran at the same time. `lanes` gives the lane of each job."""
    by_lane: dict[str, list[Span]] = defaultdict(list)
    for span in attempts:
        if span.job in lanes:
            by_lane[lanes[span.job]].append(span)
    return [
        (earlier, later)
        for found in by_lane.values()
        for earlier, later in pairwise(found)
        if later.began_ns < earlier.left_ns
    ]
