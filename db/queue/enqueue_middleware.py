"""Middleware around enqueueing: what this process enqueues goes through these functions first.

In: new jobs, as callers gave them. Out: the jobs that are written. It concerns `enqueue`,
`enqueue_sync` and `enqueue_many`, `job.enqueue` and `job.spawn`; what SQL enqueues (an insert, a
schedule, a run) does not come by here.
"""

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

from db.errors import InvalidInput, shown
from db.queue.new_job import NewJob

E = TypeVar("E", bound=Callable[[NewJob], NewJob])

declared: list[Callable[[NewJob], NewJob]] = []


def enqueue_middleware(function: E) -> E:
    """Have each job that this process enqueues go through the decorated function.

    It takes a `NewJob` and returns the one to enqueue: the same, or a changed copy
    (`dataclasses.replace`). What it raises refuses the job, and is raised where the job is
    enqueued. The first declared is called first. `job.enqueue` and `job.spawn` call it in each
    attempt: it must return the same for the same job, and what a follow-up inherits (thread, team,
    request, trace) stays as it is. Raises `InvalidInput` for an async function.
    """
    if not callable(function) or iscoroutinefunction(function):
        raise InvalidInput(
            f"{_name(function)} is not a plain function",
            "write it as: def middleware(job: NewJob) -> NewJob",
        )
    for place, old in enumerate(declared):
        if _name(old) == _name(function):
            declared[place] = function  # its module was loaded again
            return function
    declared.append(function)
    return function


def through(job: NewJob) -> NewJob:
    """The job as it is to be written. Raises `InvalidInput` if a middleware returns none."""
    for function in declared:
        new = function(job)
        if not isinstance(cast(object, new), NewJob):
            raise InvalidInput(
                f"the enqueue_middleware {_name(function)} returned {shown(new)}, not a NewJob",
                "return the job, or raise to refuse it",
            )
        if new.id != job.id and job.id is not None:
            raise InvalidInput(
                f"the enqueue_middleware {_name(function)} changed the id of a job",
                "leave the id alone: a call that is repeated with it must add nothing",
            )
        job = new
    return job


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"
