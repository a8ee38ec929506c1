"""How many attempts ran at once outside the database, and how many began in a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.faults.lanes import Span


def most_at_once(attempts: Iterable[Span]) -> int:
    """The largest number of these attempts that ran at the same time."""
    steps = sorted(step for span in attempts for step in ((span.began_ns, 1), (span.left_ns, -1)))
    most = now = 0
    for _, change in steps:
        now += change
        most = max(most, now)
    return most


def worst_at_once(attempts: Sequence[Span], keys: dict[str, str]) -> Counter[str]:
    """The same for each key; `keys` gives the key of each job, "" for all together."""
    found = Counter({"": most_at_once(attempts)})
    for key in set(keys.values()):
        found[key] = most_at_once(span for span in attempts if keys[span.job] == key)
    return found


def beyond_rate(began_ns: Sequence[int], rate: float, burst: float, late_seconds: float) -> int:
    """By how many more jobs than a rate allows began in some time, when each may have begun up to
    `late_seconds` after its claim; 0 or less: by none.
    """
    times = sorted(began_ns)
    worst = -len(times)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            seconds = (times[last] - start) / 1e9 + late_seconds
            worst = max(worst, last - first + 1 - int(burst + rate * seconds))
    return worst
