"""The paid calls of one attempt that were sent and have not ended.

An attempt that must stop because its worker has lost the database may wait for them: nobody else
would ever see the answers that are on their way.
"""

from collections.abc import Callable


class CallsOpen:
    """Counts open calls, and runs one callback when the last of them has ended."""

    __slots__ = ("_count", "_then")

    def __init__(self) -> None:
        self._count = 0
        self._then: Callable[[], None] | None = None

    def began(self) -> None:
        """Count one more open call."""
        self._count += 1

    def ended(self) -> None:
        """Count one open call less; runs the callback if it was the last."""
        self._count -= 1
        if not self._count and self._then is not None:
            self._then()

    def then(self, do: Callable[[], None]) -> bool:
        """Have `do` called when the last open call has ended; return False if none is open."""
        self._then = do if self._count else None
        return self._count > 0
