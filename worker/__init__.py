"""What happens to a job: claiming it, running its handler, and writing down what became of it.

For handlers:

    from worker import Job, handler

    @handler("summarise")
    async def summarise(job: Job, url: str) -> str: ...
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from db.checkpoints import Checkpoint
    from db.tokens import Answer, Usage
    from worker.ask import Decision, NotApproved
    from worker.calls import BudgetExceeded, CallLimited, CallRefused, PriceUnknown, Sending
    from worker.context import Job
    from worker.handlers import handler
    from worker.outcomes import Cancel, Fail, Retry, Snooze
    from worker.parents import Parents
    from worker.steps import StepChanged
    from worker.waits import Child, ChildFailed

__all__ = [
    "Answer",
    "BudgetExceeded",
    "CallLimited",
    "CallRefused",
    "Cancel",
    "Checkpoint",
    "Child",
    "ChildFailed",
    "Decision",
    "Fail",
    "Job",
    "NotApproved",
    "Parents",
    "PriceUnknown",
    "Retry",
    "Sending",
    "Snooze",
    "StepChanged",
    "Usage",
    "handler",
]

_HOMES = {
    "db.checkpoints": ("Checkpoint",),
    "db.tokens": ("Answer", "Usage"),
    "worker.ask": ("Decision", "NotApproved"),
    "worker.calls": ("BudgetExceeded", "CallLimited", "CallRefused", "PriceUnknown", "Sending"),
    "worker.context": ("Job",),
    "worker.handlers": ("handler",),
    "worker.outcomes": ("Cancel", "Fail", "Retry", "Snooze"),
    "worker.steps": ("StepChanged",),
    "worker.parents": ("Parents",),
    "worker.waits": ("Child", "ChildFailed"),
}


# Imported when they are asked for: the command line is in this package too, and must not wait for
# what only handlers need (0.4 s).
def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
