"""The liveness and readiness of a worker.

In: its vitals and, for readiness, a check of the database. Out: the reasons why the worker is not
alive or not ready; empty if it is. Invariant: liveness does not depend on the database, so an
outage restarts no worker; readiness costs at most one check a second and one connection, however
many requests come, and is answered in time even when the database does not answer.
"""

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio

from db.diagnosis.health import Readiness, check_ready
from db.errors import JobsworthError
from db.pool import Database
from worker.daemon.vitals import Vitals
from worker.masking import mask

CACHE_SECONDS = 1.0
# Probes commonly time out after 1 s, and then show no reason.
ANSWER_SECONDS = 0.9
ACQUIRE_SECONDS = 0.8


@dataclass(frozen=True, slots=True)
class Limits:
    """The ages, in seconds, above which a worker is not alive or not ready.

    Those of liveness exceed the longest iteration of the claim loop and the longest heartbeat (a
    wait for a connection, then for a statement); those of readiness exceed the usual ones.
    """

    claim_loop_alive_seconds: float = 90.0
    heartbeat_alive_seconds: float = 30.0
    claim_loop_ready_seconds: float = 10.0
    heartbeat_ready_seconds: float = 8.0


def not_alive(vitals: Vitals, limits: Limits) -> tuple[str, ...]:
    """The reasons to restart this process."""
    reasons: list[str] = []
    if not vitals.claim_loop_alive(limits.claim_loop_alive_seconds):
        reasons.append(_no_progress(vitals.claim_loop_age_seconds))
    if not vitals.heartbeat_thread_alive(limits.heartbeat_alive_seconds):
        reasons.append(
            f"the heartbeat thread has made no progress for {limits.heartbeat_alive_seconds:g} s"
        )
    return tuple(reasons)


def not_ready(vitals: Vitals, limits: Limits) -> tuple[str, ...]:
    """The reasons why this worker claims no jobs that are known without the database."""
    if vitals.draining:
        return ("draining",)
    reasons: list[str] = []
    loop, beat = vitals.claim_loop_age_seconds, vitals.heartbeat_age_seconds
    if loop is None or loop > limits.claim_loop_ready_seconds:
        reasons.append(_no_progress(loop))
    if beat is None:
        reasons.append("no heartbeat has succeeded yet")
    elif beat > limits.heartbeat_ready_seconds:
        reasons.append(f"no heartbeat has succeeded for {beat:.0f} s")
    if vitals.database_state == "lost":
        why = f": {mask(vitals.database_trouble)}" if vitals.database_trouble else ""
        reasons.append(f"this worker has lost its database and is trying again{why}")
    if vitals.stuck >= vitals.slots:
        reasons.append(f"all {vitals.slots} slots are held by attempts that do not end")
    return tuple(reasons)


class DatabaseCheck:
    """The database's readiness, at most `cache_seconds` old; `run` must run as a task.

    The check belongs to that task, not to a request: it outlasts a request that stops waiting, and
    the next request waits for it instead of starting another.
    """

    def __init__(
        self,
        database: Database,
        *,
        cache_seconds: float = CACHE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        acquire_seconds: float = ACQUIRE_SECONDS,
    ) -> None:
        self._database = database
        self._cache_seconds = cache_seconds
        self._answer_seconds = answer_seconds
        self._acquire_seconds = acquire_seconds
        self._latest = Readiness()
        self._checked_at = float("-inf")
        self._wanted = anyio.Event()
        self._done = anyio.Event()

    async def run(self) -> None:
        """Check the database whenever `readiness` needs it, until cancelled."""
        while True:
            await self._wanted.wait()
            self._latest = await self._check()
            self._checked_at = time.monotonic()
            done, self._done, self._wanted = self._done, anyio.Event(), anyio.Event()
            done.set()

    async def readiness(self) -> Readiness:
        """The latest result, or one that says that the database did not answer in time."""
        if time.monotonic() - self._checked_at <= self._cache_seconds:
            return self._latest
        done = self._done
        self._wanted.set()
        with anyio.move_on_after(self._answer_seconds):
            await done.wait()
        if not done.is_set():
            return Readiness((f"the database did not answer within {self._answer_seconds:g} s",))
        return self._latest

    async def _check(self) -> Readiness:
        try:
            async with AsyncExitStack() as stack:
                with anyio.fail_after(self._acquire_seconds):
                    conn = await stack.enter_async_context(self._database.connection())
                return await check_ready(conn)
        except TimeoutError:
            failure = self._database.tries.failure()
            return Readiness((mask(str(failure)) if failure else self._no_connection(),))
        except JobsworthError as error:
            return Readiness((mask(f"the database cannot be used: {error}"),))

    def _no_connection(self) -> str:
        return (
            f"no database connection within {self._acquire_seconds:g} s: PostgreSQL is down, or "
            f"all {self._database.pool.max_size} connections are in use (JOBSWORTH_POOL_MAX)"
        )


def _no_progress(age: float | None) -> str:
    if age is None:
        return "the claim loop has not started yet"
    return f"the claim loop has made no progress for {age:.0f} s"
