"""Which of a worker's queues are fair, and whose turn it is to be claimed from first.

In: the names of the fair queues, as the common look of upkeep finds them. Out: the order of the
next claims. A fair queue is claimed from by a statement of its own (`db/limits/fairness.py`), all
plain queues by one together. Each of them is first in turn, so none has to wait for the others'
backlogs.
"""

from collections import deque
from collections.abc import Sequence

from worker.rescans import Rescans


class FairQueues:
    """The fair ones among the queues of this worker."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = queues
        self._turns: deque[str | None] = deque([None])
        self.rescans: dict[str, Rescans] = {}

    def found(self, names: Sequence[str]) -> bool:
        """These queues are fair now; whether that is news."""
        fair = [name for name in self._queues if name in names]
        if fair == list(self.rescans):
            return False
        self.rescans = {name: self.rescans.get(name, Rescans()) for name in fair}
        plain = [None] if len(fair) < len(self._queues) else []
        self._turns = deque([*fair, *plain])
        return True

    def turns(self) -> list[str | None]:
        """From where to claim now, in this order; another one is first the next time.

        None stands for all plain queues.
        """
        turns = list(self._turns)
        self._turns.rotate(-1)
        return turns

    def next_rescan_in_seconds(self, at: float) -> float:
        """When the next rescan of any of them is due."""
        return min((one.next_in_seconds(at) for one in self.rescans.values()), default=float("inf"))
