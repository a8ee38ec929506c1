"""Turns: tasks that become ready together go on in portions, so that all others get their time.

In: tasks that one commit has woken, or whose answers have come. Out: the same tasks, a few in each
round of the event loop. Invariant: a task that comes alone does not wait, and each gets its turn in
the order of coming.

The loop runs everything that is ready before it looks at timers and sockets again: 1,500 agents
whose answers came together held it for 3 s. In portions they take as long together, and nothing
else waits for them.
"""

import asyncio
from collections import deque
from time import thread_time

import anyio

# Of the loop's own work. By the clock on the wall, a machine that is busy with something else cut
# the portions to one: 1,500 agents then took 90 s to send what they sent in 15 s.
ROUND_SECONDS = 0.01
PORTION_MAX = 256
# An agent that goes on does so over some thirty rounds, so a larger portion is felt only then.
ROUNDS_TO_GROW = 32


class Turns:
    """Lets as many tasks go on in each round of the loop as fit into `ROUND_SECONDS`."""

    def __init__(self) -> None:
        self._waiting: deque[anyio.Event] = deque()
        self._portion = 1
        self._left = 1
        self._short_rounds = 0
        self._next: asyncio.Handle | None = None
        self._began = 0.0

    async def take(self) -> None:
        """Wait for a turn."""
        self._have_rounds()
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn = anyio.Event()
        self._waiting.append(turn)
        await turn.wait()

    def _have_rounds(self) -> None:
        if self._next is None:
            self._began, self._left = thread_time(), self._portion
            self._next = asyncio.get_running_loop().call_soon(self._begin_round)

    def _begin_round(self) -> None:
        now = thread_time()
        self._fit_portion(now - self._began)
        self._began, self._left = now, self._portion
        self._next = None
        if not self._waiting:
            return
        self._next = asyncio.get_running_loop().call_soon(self._begin_round)
        while self._left and self._waiting:
            self._left -= 1
            self._waiting.popleft().set()

    def _fit_portion(self, seconds: float) -> None:
        if seconds > ROUND_SECONDS:
            self._portion = max(1, self._portion // 2)
            self._short_rounds = 0
        elif self._waiting:
            self._short_rounds += 1
            if self._short_rounds == ROUNDS_TO_GROW:
                self._portion = min(PORTION_MAX, self._portion * 2)
                self._short_rounds = 0
