"""Which modes a caller may enqueue.

In: a caller and a mode. Out: nothing, or `Forbidden`. Invariant: a job that works on other jobs by
a filter is enqueued for a team by `/bulk` alone, which keeps the filter to that team.
"""

from db.bulk.filters import MODE
from worker.api.access import Caller
from worker.api.problems import Forbidden


def check_mode(caller: Caller, mode: str) -> None:
    """Raises `Forbidden` for a mode that this caller cannot give a job."""
    if mode == MODE and caller.team_id is not None:
        raise Forbidden(f"jobs of the mode {MODE} are not enqueued by a team", "post to /bulk")
