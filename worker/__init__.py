"""What happens to a job: claiming it, running its handler, and writing down what became of it.

For handlers:

    from worker import Job, handler

    @handler("summarise")
    async def summarise(job: Job, url: str) -> str: ...
"""

from worker.context import CallRefused, Child, ChildFailed, Decision, Job
from worker.handlers import handler
from worker.outcomes import Cancel, Fail, Retry, Snooze

__all__ = [
    "CallRefused",
    "Cancel",
    "Child",
    "ChildFailed",
    "Decision",
    "Fail",
    "Job",
    "Retry",
    "Snooze",
    "handler",
]
