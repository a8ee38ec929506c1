"""The worker's counters, which the hot path updates.

In: one call for each claim and each finish, and for rarer events. Out: plain numbers that
`worker.web.exposition` renders. Invariant: a call costs less than a microsecond and never waits;
but for `loop_blocked`, all calls come from the event loop's thread.

The counters of prometheus-client were rejected: each takes a lock and validates its labels, and its
histogram walks its buckets in Python (2.5 µs for what `finished` does in 0.5 µs).
"""

from bisect import bisect_left
from collections import defaultdict

SECONDS_BOUNDS = (
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0,
)  # fmt: skip
# A handler may make up names of models. Those beyond this number share one series.
MODELS_MAX = 100
OTHER_MODELS = "other"


class Histogram:
    """How many values fell under each bound (inclusive), and above the last one."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS_BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS_BOUNDS, seconds)] += 1
        self.sum += seconds


class Metrics:
    """Counters since the start of this worker.

    Labels are queues and modes, which this worker serves, outcomes and statuses, which are fixed,
    and models, of which `MODELS_MAX` have series of their own. So the number of series is bounded;
    threads and teams are not, so they are no labels.
    """

    def __init__(self) -> None:
        self.claims: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.finishes: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.failures: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.costs: defaultdict[str, float] = defaultdict(float)
        self._models: set[str] = set()
        self.job_wait = Histogram()
        self.job_run: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.lease_losses = 0
        self.rescues = 0
        self.batch_retries = 0
        self.embeddings = 0
        self.spooled_answers = 0
        self.loop_blocks: defaultdict[str, int] = defaultdict(int)

    def claimed(self, queue: str, mode: str, jobs: int = 1) -> None:
        """Count claimed jobs of a queue and mode."""
        self.claims[queue, mode] += jobs

    def finished(
        self,
        queue: str,
        mode: str,
        outcome: str,
        wait_seconds: float | None,
        run_seconds: float,
        *,
        for_good: bool = False,
    ) -> None:
        """Count an attempt whose transition is committed; `for_good`: its job has failed.

        `wait_seconds` is the time from ready to started; None if unknown or counted before.
        """
        self.finishes[queue, mode, outcome] += 1
        if for_good:
            self.failures[queue, mode] += 1
        self.job_run[mode].observe(run_seconds)
        if wait_seconds is not None:
            self.job_wait.observe(wait_seconds)

    def called(
        self, model: str, status: str, input_tokens: int, output_tokens: int, cost: float | None
    ) -> None:
        """Count a model call that this worker has settled; a `cost` of None is unknown."""
        if model not in self._models:
            if len(self._models) >= MODELS_MAX:
                model = OTHER_MODELS
            self._models.add(model)
        self.calls[model, status] += 1
        self.tokens[model, "input"] += input_tokens
        self.tokens[model, "output"] += output_tokens
        if cost is not None:
            self.costs[model] += cost

    def lease_lost(self, jobs: int = 1) -> None:
        """Count attempts that lost their lease."""
        self.lease_losses += jobs

    def rescued(self, jobs: int) -> None:
        """Count jobs that this worker rescued from dead workers."""
        self.rescues += jobs

    def loop_blocked(self, mode: str) -> None:
        """Count a time that the event loop stood still; "" if no handler's code stood there.

        Called from the thread that watches the loop, which is the only one to write this counter.
        """
        self.loop_blocks[mode] += 1

    def batch_retried(self) -> None:
        """Count a batch of finishes that must be retried."""
        self.batch_retries += 1

    def spooled(self) -> None:
        """Count a call's result written to disk because the database did not accept it."""
        self.spooled_answers += 1

    def embedded(self, texts: int) -> None:
        """Count texts that were embedded."""
        self.embeddings += texts
