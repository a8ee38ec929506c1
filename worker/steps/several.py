"""A job of which several branches wait: for a person, a signal and children, say.

In: an attempt that parks. Out: a mark on such a job, which has one reason to wait, and goes on when
what any of its branches waits for has come (`something_came` in the schema).
"""

from worker.attempt_state import AttemptState
from worker.steps import steps

MARK = "waits#several"


async def mark(state: AttemptState) -> None:
    """Mark the job if several of its branches wait; before it parks. Raises `LeaseLost`."""
    if state.beside.waits_for_several():
        await steps.waited_seconds(state, MARK, "wait")
