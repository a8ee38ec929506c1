"""Says a message that stays true once a minute, not each time that it is found.

In: what is to be said. Out: whether it is due. A message in other words is due at once.
"""

from time import monotonic

REPEAT_SECONDS = 60.0
KEPT_MAX = 100


class Repeats:
    """The messages of one part, and when each was last said."""

    def __init__(self) -> None:
        self._said_at: dict[str, float] = {}

    def due(self, message: str) -> bool:
        """Whether to say it now; if so, it counts as said."""
        now = monotonic()
        if now - self._said_at.get(message, float("-inf")) < REPEAT_SECONDS:
            return False
        if len(self._said_at) >= KEPT_MAX:
            self._said_at.clear()
        self._said_at[message] = now
        return True

    def forget(self) -> None:
        """What was said is over: the next message is due at once."""
        self._said_at.clear()
