"""The order to stop: by SIGTERM, SIGINT or SIGHUP, or because the worker gives up.

In: signals. Out: two events and the process's exit code. The first signal asks for a soft stop (no
more claims, running jobs may finish within the drain), the second for a hard one (jobs are given
back at once).
"""

import signal

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


async def watch_signals(stop: Stop) -> None:
    """Turn signals into orders to stop, until cancelled."""
    stopping = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        stopping.append(signal.SIGHUP)  # its terminal was closed
    with anyio.open_signal_receiver(*stopping) as signals:
        async for _ in signals:
            stop.ask()
