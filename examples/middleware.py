"""What surrounds handlers: middleware, and a resource that all handlers of a worker share.

JOBSWORTH_HANDLERS=middleware jobsworth worker
jobsworth enqueue look_up '{"word": "tea"}'
"""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import replace
from time import monotonic
from typing import Any

from jobsworth import CallNext, Fail, Job, NewJob, handler, middleware, worker_lifespan
from jobsworth import enqueue_middleware as around_enqueue

current_mode: ContextVar[str] = ContextVar("current_mode", default="none")


class Dictionary:
    """Stands for what takes long to open: a model, a pool of connections."""

    def __init__(self) -> None:
        self.meanings = {"tea": "a hot drink"}

    def close(self) -> None:
        self.meanings.clear()


@worker_lifespan
async def dictionary() -> AsyncIterator[Dictionary]:
    """Opened before the worker's first claim, closed after its last attempt."""
    opened = Dictionary()
    yield opened
    opened.close()


@middleware
async def timed(job: Job, call_next: CallNext) -> Any:
    """The outermost, because it is declared first: it sees whatever comes out of the others."""
    began = monotonic()
    try:
        return await call_next(job)
    finally:
        job.log.info("handler.returned", seconds=round(monotonic() - began, 3))


@middleware
async def in_context(job: Job, call_next: CallNext) -> Any:
    """Whatever the handler calls can read the context variable."""
    token = current_mode.set(job.mode)
    try:
        return await call_next(job)
    except KeyError as error:
        raise Fail(f"there is no {error}") from error  # no further try can help
    finally:
        current_mode.reset(token)


@around_enqueue
def sooner(job: NewJob) -> NewJob:
    """Every job that this module enqueues; raise here to refuse one."""
    return replace(job, priority=2) if job.mode == "look_up" else job


@handler("look_up")
async def look_up(word: str, known: Dictionary) -> str:
    """`known` comes from the lifespan, `word` from the payload."""
    return f"{current_mode.get()}: {known.meanings[word]}"
