"""What happens to a job: claiming it, running its handler, and writing down what became of it.

For handlers:

    from worker import Job, handler

    @handler("summarise")
    async def summarise(job: Job, url: str) -> str: ...
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from db.money.calls import Answer, Usage
    from db.steps.checkpoints import Checkpoint
    from worker.approvals.ask import Decision, NotApproved
    from worker.handlers import handler
    from worker.job import Job
    from worker.money.calls import BudgetExceeded, CallLimited, CallRefused, PriceUnknown, Sending
    from worker.outcomes import Cancel, Fail, Retry, Snooze
    from worker.steps.parents import Parents
    from worker.steps.steps import StepChanged
    from worker.steps.waits import Child, ChildFailed

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
    "db.steps.checkpoints": ("Checkpoint",),
    "db.money.calls": ("Answer", "Usage"),
    "worker.approvals.ask": ("Decision", "NotApproved"),
    "worker.money.calls": (
        "BudgetExceeded",
        "CallLimited",
        "CallRefused",
        "PriceUnknown",
        "Sending",
    ),
    "worker.job": ("Job",),
    "worker.handlers": ("handler",),
    "worker.outcomes": ("Cancel", "Fail", "Retry", "Snooze"),
    "worker.steps.steps": ("StepChanged",),
    "worker.steps.parents": ("Parents",),
    "worker.steps.waits": ("Child", "ChildFailed"),
}


# Imported when they are asked for: the command line is in this package too, and must not wait for
# what only handlers need (0.4 s).
def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
