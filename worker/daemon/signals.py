"""The order to stop: by SIGTERM, SIGINT or SIGHUP, or because the worker gives up.

In: signals. Out: two events and the process's exit code. The first signal asks for a soft stop (no
more claims, running jobs may finish within the drain), the second for a hard one (jobs are given
back at once).

A handler can take the signals away: it runs in the same process, and so does a web server or a
library that it starts. So the watch looks four times a second whether they still come here. They
come as Python's own signal handlers, not as the loop's: those need a descriptor that a handler can
take away unseen.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

OK = 0


class Stop:
    """Whether the worker shall stop, and how. The first exit code but 0 stays."""

    def __init__(self) -> None:
        self.exit_code = OK
        self.asked = anyio.Event()
        self.hurried = anyio.Event()

    def ask(self) -> None:
        """Stop softly; asked again, at once."""
        if self.asked.is_set():
            self.hurried.set()
        self.asked.set()

    def fail(self, exit_code: int) -> None:
        """Stop at once, with this exit code."""
        self.exit_code = self.exit_code or exit_code
        self.asked.set()
        self.hurried.set()


class Signals:
    """Turns signals into orders to stop, while it listens."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._before: dict[signal.Signals, object] = {}
        self._handler = self._received

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive the signals within this block, in the main thread and its event loop."""
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        wanted = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            wanted.append(signal.SIGHUP)  # its terminal was closed
        self._before = {number: signal.signal(number, self._handler) for number in wanted}
        try:
            yield
        finally:
            for number, before in self._before.items():
                if before is not None:  # one that Python knows
                    signal.signal(number, before)  # pyright: ignore[reportArgumentType]
            self._before = {}

    def take_back(self) -> list[str]:
        """Receive again what something else receives by now; returns the names of the signals."""
        taken = [number for number in self._before if signal.getsignal(number) != self._handler]
        for number in taken:
            signal.signal(number, self._handler)
        return [number.name for number in taken]

    # Runs between any two instructions of the loop's thread, so it only leaves a note for the loop.
    def _received(self, number: int, _frame: object) -> None:
        if os.getpid() != self._pid:  # of a child that was forked a moment ago
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.ask)
