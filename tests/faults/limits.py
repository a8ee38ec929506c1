"""How many attempts ran at once outside the database, and how much began in a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.faults.lanes import Span

Row = Mapping[str, Any]


def most_at_once(attempts: Iterable[Span]) -> int:
    """The largest number of these attempts that ran at the same time."""
    steps = sorted(step for span in attempts for step in ((span.began_ns, 1), (span.left_ns, -1)))
    most = now = 0
    for _, change in steps:
        now += change
        most = max(most, now)
    return most


def beyond_rate(
    began: Iterable[tuple[int, int]], rate: float, burst: float, late_seconds: float
) -> float:
    """By how much more than a rate allows began in some time, when each start (nanoseconds, weight)
    may have come up to `late_seconds` after its claim; 0 or less: by nothing.

    The level of a bucket that leaks with the rate is the worst of all times that end now.
    """
    level, worst, last_ns = 0.0, float("-inf"), None
    for at_ns, weight in sorted(began):
        if last_ns is not None:
            level = max(0.0, level - rate * (at_ns - last_ns) / 1e9)
        level, last_ns = level + weight, at_ns
        worst = max(worst, level - burst - rate * late_seconds)
    return worst


@dataclass(frozen=True)
class Limit:
    """A limit as it is set, and the column of a job that is its key."""

    name: str
    mode: str
    slots: int | None = None
    rate: int | None = None
    burst: int | None = None
    per: str | None = None
    column: str | None = None
    queue: str | None = None

    @property
    def most(self) -> int:
        """How many of a key at once, or at once after a rest."""
        most = self.burst or self.slots or self.rate
        assert most is not None
        return most

    def by_key(self, attempts: Iterable[Span], jobs: Mapping[str, Row]) -> dict[str, list[Span]]:
        """The attempts that have to pass it, by their keys."""
        found: defaultdict[str, list[Span]] = defaultdict(list)
        for span in attempts:
            job = jobs[span.job]
            key = "" if self.column is None else job[self.column]
            if job["mode"] == self.mode and key is not None:
                found[str(key)].append(span)
        return dict(found)

    def worst(
        self, attempts: Iterable[Span], jobs: Mapping[str, Row], late_seconds: float
    ) -> float:
        """By how much its worst key went beyond it; 0 or less: by nothing. 0: all its slots were
        taken at once.
        """
        return max(
            self._beyond(spans, jobs, late_seconds)
            for spans in self.by_key(attempts, jobs).values()
        )

    def _beyond(self, spans: list[Span], jobs: Mapping[str, Row], late_seconds: float) -> float:
        if self.rate is None:
            return most_at_once(spans) - self.most
        began = [(span.began_ns, jobs[span.job]["weight"]) for span in spans]
        return beyond_rate(began, self.rate, self.most, late_seconds)
