"""Jobsworth: jobs for AI agents, on PostgreSQL, with their paperwork done.

This package is all that your own code imports.

In a module of handlers (JOBSWORTH_HANDLERS names it, and `jobsworth worker` runs it):

    from jobsworth import Job, handler

    @handler("summarise")
    async def summarise(job: Job, url: str) -> str: ...

Anywhere else, with a psycopg connection of your own, inside your own transaction:

    from jobsworth import enqueue

    await enqueue(connection, "summarise", {"url": "https://example.com"})

What a name is for: see its own docstring. Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jobsworth.own_packages import load_own_packages

load_own_packages()

if TYPE_CHECKING:
    from db.approvals.approvals import Approval
    from db.approvals.approvals import get_by_id as get_approval
    from db.approvals.approvals import get_pending as pending_approvals
    from db.approvals.voting import ApprovalStatus, Resolution, Vote, resolve, resolve_sync
    from db.approvals.voting import votes as list_votes
    from db.deployments.deployments import Deployment
    from db.errors import Conflict, DatabaseError, InvalidInput, JobsworthError, NotFound
    from db.memory.memories import Hit
    from db.money.calls import Answer, Usage
    from db.pool import Connection, Database
    from db.queue.enqueue import Enqueued, enqueue, enqueue_sync
    from db.queue.enqueue_many import enqueue_many
    from db.queue.enqueue_middleware import enqueue_middleware
    from db.queue.jobs import JobStatus, cancel, retry, run_now
    from db.queue.new_job import EnqueueOptions, NewJob
    from db.queue.signals import send as signal
    from db.runs.new_run import After, Node, StartOptions
    from db.runs.runs import RunStarted as StartedRun
    from db.runs.runs import RunStatus
    from db.runs.runs import cancel as cancel_run
    from db.runs.runs import retry as retry_run
    from db.runs.runs import start as start_run
    from db.runs.runs import start_sync as start_run_sync
    from db.runs.saved import save_artifact, save_step
    from db.steps.checkpoints import Checkpoint
    from worker.approvals.ask import Decision, NotApproved
    from worker.approvals.webhook_signature import is_signed as is_webhook_signed
    from worker.approvals.webhook_signature import keys as webhook_keys
    from worker.declared import HandlerError
    from worker.extensions.middleware import CallNext, middleware
    from worker.extensions.resources import worker_lifespan
    from worker.handlers import handler
    from worker.job import Job
    from worker.llm.options import AgentOptions
    from worker.memory.quoting import QUOTED as MEMORIES_QUOTED
    from worker.memory.quoting import quote_memories
    from worker.memory.ranking import Recalled
    from worker.money.calls import BudgetExceeded, PriceUnknown
    from worker.money.open_call import OpenCall
    from worker.money.saved import save_llm_call
    from worker.money.sending import CallLimited, CallRefused, Sending
    from worker.money.unusable import AnswerUnusable
    from worker.outcomes import Cancel, Fail, Retry, Snooze
    from worker.plain_job import ChildOptions, FollowUpOptions
    from worker.steps.changed import StepChanged
    from worker.steps.parents import Parents
    from worker.steps.waits import Child, ChildFailed

__all__ = [
    "MEMORIES_QUOTED",
    "After",
    "AgentOptions",
    "Answer",
    "AnswerUnusable",
    "Approval",
    "ApprovalStatus",
    "BudgetExceeded",
    "CallLimited",
    "CallNext",
    "CallRefused",
    "Cancel",
    "Checkpoint",
    "Child",
    "ChildFailed",
    "ChildOptions",
    "Conflict",
    "Connection",
    "Database",
    "DatabaseError",
    "Decision",
    "Deployment",
    "EnqueueOptions",
    "Enqueued",
    "Fail",
    "FollowUpOptions",
    "HandlerError",
    "Hit",
    "InvalidInput",
    "Job",
    "JobStatus",
    "JobsworthError",
    "NewJob",
    "Node",
    "NotApproved",
    "NotFound",
    "OpenCall",
    "Parents",
    "PriceUnknown",
    "Recalled",
    "Resolution",
    "Retry",
    "RunStatus",
    "Sending",
    "Snooze",
    "StartOptions",
    "StartedRun",
    "StepChanged",
    "Usage",
    "Vote",
    "cancel",
    "cancel_run",
    "enqueue",
    "enqueue_many",
    "enqueue_middleware",
    "enqueue_sync",
    "get_approval",
    "handler",
    "is_webhook_signed",
    "list_votes",
    "middleware",
    "pending_approvals",
    "quote_memories",
    "resolve",
    "resolve_sync",
    "retry",
    "retry_run",
    "run_now",
    "save_artifact",
    "save_llm_call",
    "save_step",
    "signal",
    "start_run",
    "start_run_sync",
    "webhook_keys",
    "worker_lifespan",
]

# By name: the module that defines it; and its name there, where that is another one.
_HOMES = {
    "After": "db.runs.new_run",
    "AgentOptions": "worker.llm.options",
    "Answer": "db.money.calls",
    "AnswerUnusable": "worker.money.unusable",
    "Approval": "db.approvals.approvals",
    "ApprovalStatus": "db.approvals.voting",
    "BudgetExceeded": "worker.money.calls",
    "CallNext": "worker.extensions.middleware",
    "CallLimited": "worker.money.sending",
    "CallRefused": "worker.money.sending",
    "Cancel": "worker.outcomes",
    "Checkpoint": "db.steps.checkpoints",
    "Child": "worker.steps.waits",
    "ChildFailed": "worker.steps.waits",
    "ChildOptions": "worker.plain_job",
    "Conflict": "db.errors",
    "Connection": "db.pool",
    "Database": "db.pool",
    "DatabaseError": "db.errors",
    "Decision": "worker.approvals.ask",
    "Deployment": "db.deployments.deployments",
    "EnqueueOptions": "db.queue.new_job",
    "Enqueued": "db.queue.enqueue",
    "Fail": "worker.outcomes",
    "FollowUpOptions": "worker.plain_job",
    "HandlerError": "worker.declared",
    "Hit": "db.memory.memories",
    "InvalidInput": "db.errors",
    "Job": "worker.job",
    "JobStatus": "db.queue.jobs",
    "JobsworthError": "db.errors",
    "MEMORIES_QUOTED": "worker.memory.quoting:QUOTED",
    "NewJob": "db.queue.new_job",
    "Node": "db.runs.new_run",
    "NotApproved": "worker.approvals.ask",
    "NotFound": "db.errors",
    "OpenCall": "worker.money.open_call",
    "Parents": "worker.steps.parents",
    "PriceUnknown": "worker.money.calls",
    "Recalled": "worker.memory.ranking",
    "Resolution": "db.approvals.voting",
    "Retry": "worker.outcomes",
    "RunStatus": "db.runs.runs",
    "Sending": "worker.money.sending",
    "Snooze": "worker.outcomes",
    "StartOptions": "db.runs.new_run",
    "StartedRun": "db.runs.runs:RunStarted",
    "StepChanged": "worker.steps.changed",
    "Usage": "db.money.calls",
    "Vote": "db.approvals.voting",
    "cancel": "db.queue.jobs",
    "cancel_run": "db.runs.runs:cancel",
    "enqueue": "db.queue.enqueue",
    "enqueue_many": "db.queue.enqueue_many",
    "enqueue_middleware": "db.queue.enqueue_middleware",
    "enqueue_sync": "db.queue.enqueue",
    "get_approval": "db.approvals.approvals:get_by_id",
    "handler": "worker.handlers",
    "is_webhook_signed": "worker.approvals.webhook_signature:is_signed",
    "list_votes": "db.approvals.voting:votes",
    "middleware": "worker.extensions.middleware",
    "pending_approvals": "db.approvals.approvals:get_pending",
    "quote_memories": "worker.memory.quoting",
    "resolve": "db.approvals.voting",
    "resolve_sync": "db.approvals.voting",
    "retry": "db.queue.jobs",
    "retry_run": "db.runs.runs:retry",
    "run_now": "db.queue.jobs",
    "save_artifact": "db.runs.saved",
    "save_llm_call": "worker.money.saved",
    "save_step": "db.runs.saved",
    "signal": "db.queue.signals:send",
    "start_run": "db.runs.runs:start",
    "start_run_sync": "db.runs.runs:start_sync",
    "webhook_keys": "worker.approvals.webhook_signature:keys",
    "worker_lifespan": "worker.extensions.resources",
}


# Names are imported when they are asked for, so that a web application that only enqueues does not
# load what only a worker needs.
def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
