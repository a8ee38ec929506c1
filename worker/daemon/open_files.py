"""How many files this process may have open, and what its standard streams are.

In: how many jobs run at once. Out: the limit, raised as far as this process may. Invariants: a
limit that is too low is said at the start, not by the first connection that fails; and the numbers
of the standard streams are never free for long, whatever a handler closes.
"""

import os
import resource
from contextlib import suppress

from worker import events
from worker.log import get_logger

# Connections to the database, the log, the handlers' own files, pipes of deployments and children.
OTHER_FILES = 200
NO_LIMIT = 1_000_000
STANDARD_STREAM_MAX = 2

log = get_logger()


def raise_limit(slots: int) -> None:
    """Raise the limit to what this user may; warn if some slots get no connection to a model."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if connections_max(slots) < slots:
        log.warning(
            events.FILES_FEW,
            open_files=hard,
            slots=slots,
            remedy=f"raise the limit to {slots + OTHER_FILES} (ulimit -n, or LimitNOFILE= of"
            " systemd), or set JOBSWORTH_SLOTS lower",
        )


def connections_max(wanted: int) -> int:
    """How many of the `wanted` connections to the provider of a model fit into the limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = NO_LIMIT if soft == resource.RLIM_INFINITY else soft
    return max(1, min(wanted, files - OTHER_FILES))


def keep_standard_streams() -> None:
    """Open the null device where a handler closed a standard stream.

    Else the next connection to PostgreSQL gets that number, and what is printed goes into it. A
    new file takes the lowest number that is free, so this never takes another thread's.
    """
    with suppress(OSError):  # no number is free
        while (number := os.open(os.devnull, os.O_RDWR)) <= STANDARD_STREAM_MAX:
            os.set_inheritable(number, True)
        os.close(number)
