"""What tests of an attempt share: an attempt of any function, and its outcome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import anyio

from db.fence import Lease
from db.pool import Database
from jobsworth import handler
from tests.worker.job_api import claimed_job, registered
from worker.attempt_state import Tools
from worker.memory.embedders import HashingEmbedder
from worker.money.spool import Spool
from worker.money.spool_folder import SpoolFolder
from worker.outcomes import (
    Outcome,
)
from worker.queue.attempt import Attempt, run_attempt

NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"


Function = Callable[..., Any]


def attempt_of(function: Function, **job: Any) -> Attempt:
    """An attempt at a job whose handler is this function."""
    with registered() as registry:
        handler("work")(function)
        claimed = claimed_job(**job)
        return Attempt(claimed, Lease(claimed.id, 1, UUID(int=2)), registry["work"])


def tools() -> Tools:
    """No database answers here: these attempts do not need one, or see what comes of that."""
    database = Database(NOBODY, pool_min=0, acquire_seconds=0.05)
    return Tools(
        database=database,
        embedder=HashingEmbedder(8),
        threads=anyio.CapacityLimiter(4),
        payload_bytes_max=1000,
        deployer=cast(Any, None),
        spool=Spool(database, SpoolFolder(Path("/nonexistent"), 0)),
    )


async def attempted(attempt: Attempt) -> Outcome:
    """As a runner does, which leaves the scope before it takes the next attempt."""
    with anyio.CancelScope() as scope:
        return await run_attempt(scope, attempt, tools(), ())
    raise AssertionError("a cancellation came out of the attempt")


async def outcome_from(function: Function, **job: Any) -> Outcome:
    with anyio.fail_after(10):
        return await attempted(attempt_of(function, **job))


def raising(error: BaseException, *, plain: bool = False) -> Function:
    """A handler that raises this."""

    async def fail() -> None:
        raise error

    def fail_plainly() -> None:
        raise error

    return fail_plainly if plain else fail
