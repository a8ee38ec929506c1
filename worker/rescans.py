"""When a claim looks from the start again: late commits lie behind what it remembers.

A rescan walks every dead index entry while somebody holds a snapshot, so it is made the more rarely
the longer it takes.
"""

RESCAN_SECONDS = 0.5
# However much a rescan costs, a late commit is found within this time and a poll.
RESCAN_SECONDS_MAX = 3.0
# A rescan of 20 ms, as after 200,000 dead entries, is made every two seconds.
RESCAN_COST_FACTOR = 99


class Rescans:
    """Says which looks at one place are rescans. Times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._rescanned = -RESCAN_SECONDS_MAX
        self._rescan_seconds = RESCAN_SECONDS
        self._from_start = False
        self._usual_seconds = 0.0
        self._moved = False

    def is_due(self, at: float) -> bool:
        """Whether the look that begins now is a rescan."""
        self._from_start = at - self._rescanned >= self._rescan_seconds
        if self._from_start:
            self._rescanned = at
            self._moved = False
        return self._from_start

    def moved(self) -> None:
        """Something was claimed, so something may lie behind it."""
        self._moved = True

    def look_took(self, seconds: float) -> None:
        """Account for the duration of the last look.

        A rescan costs what it takes longer than an ordinary look.
        """
        if not self._from_start:
            self._usual_seconds = seconds
            return
        pause = RESCAN_COST_FACTOR * (seconds - self._usual_seconds)
        self._rescan_seconds = min(max(pause, RESCAN_SECONDS), RESCAN_SECONDS_MAX)

    def next_in_seconds(self, at: float) -> float:
        """When to rescan. Infinite if nothing was claimed since the last time."""
        if not self._moved:
            return float("inf")
        return max(0.0, self._rescanned + self._rescan_seconds - at)
