"""Upkeep as a whole: what a round asks the database, how often it comes, and that it goes on."""

from __future__ import annotations

from functools import partial
from typing import Any, LiteralString
from uuid import uuid4

import anyio
import psycopg
import pytest

from db.errors import Unavailable
from db.pool import Database
from db.queue.jobs import JobStatus
from db.sessions import SESSION
from tests.support import until
from tests.worker.job_api import JobApi
from tests.worker.queue.standins import CountedWake, SteeredJudge, heartbeat
from tests.worker.upkeep_at_work import (
    RESCUE_SECONDS,
    Kept,
    running_job,
    status_is,
    upkeep,
    woken,
)
from worker.daemon import upkeep as upkeep_module
from worker.daemon.upkeep import COST_PAUSE_SECONDS_MAX, Did, LookCost, Part, run
from worker.memory import embed
from worker.queue.wake import Wake
from worker.settings import load_settings

DUE_NOW: LiteralString = "update jobsworth.reactive_jobs set run_at = now()"
CLOSE_LEDGER: LiteralString = (
    "update jobsworth.ledger_closing set closed_through = (now() at time zone 'utc')::date"
)


class Round:
    """What upkeep asked the database until each of its parts had had one turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.rests: list[float] = []
        really_execute, really_wait = psycopg.AsyncCursor.execute, Wake.wait

        async def execute(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
            # The pool begins sessions as it needs them, once in the life of each.
            if query != SESSION:
                self.asked.append(str(query))
            return await really_execute(cursor, query, *args, **options)

        async def wait(wake: Wake, seconds_max: float) -> None:
            self.rests.append(seconds_max)
            await really_wait(wake, 3600)

        monkeypatch.setattr(psycopg.AsyncCursor, "execute", execute)
        monkeypatch.setattr(Wake, "wait", wait)

    async def over(self) -> bool:
        return len(self.rests) == 17


@pytest.mark.parametrize("waiting", [False, True], ids=["no job", "one that waits"])
async def test_a_round_without_work_is_thirteen_statements_and_one_for_what_waits(
    api: JobApi, monkeypatch: pytest.MonkeyPatch, *, waiting: bool
) -> None:
    """Timers, strays, due_parts, unknown modes, abandoned calls, reserved tokens, environments,
    budgets' windows, unique keys' windows, old texts of calls, old jobs, rates and the ledger's
    days ask once each, cancels and fair queues not."""
    await api.database.execute(CLOSE_LEDGER)
    await api.enqueue("answer", delay=3600)
    if waiting:
        parent = await api.enqueue("answer", delay=3600)
        await api.enqueue("answer", after=[parent])
    asked = Round(monkeypatch)
    async with upkeep(api, unbroken_seconds=RESCUE_SECONDS + 1):
        await until(asked.over)
    sweeps = [statement for statement in asked.asked if "stalled_waits" in statement]
    assert len(sweeps) == waiting
    assert len(asked.asked) == 13 + waiting


async def test_a_worker_without_work_asks_less_than_four_times_a_second(api: JobApi) -> None:
    """Claims, the heartbeat and the outbox included, in the mean of their jittered pauses."""
    defaults = load_settings()
    parts = Kept(api.database, heartbeat(api.url, uuid4()), SteeredJudge()).parts
    periods = {part.name: part.period_seconds for part in parts}
    # Without attempts there are no cancels to look for, and nothing to write is no statement.
    del periods["cancel"], periods["spool"], periods["recorded calls"]
    # Rescue asks the judge, who saw the others with the last heartbeat.
    del periods["rescue"]
    # Schedules hear from due_parts when the next one is due.
    del periods["schedules"]
    # Without a fair queue there is nothing to ask.
    del periods["fairness"]
    periods["timers"] *= 0.95
    pauses = [
        *periods.values(),
        defaults.poll_seconds,
        defaults.heartbeat_seconds,
        embed.POLL_SECONDS,
    ]
    assert len(pauses) == 14
    assert sum(1 / pause for pause in pauses) < 4


def test_a_look_that_costs_much_comes_seldom() -> None:
    for seconds in (0.0, 0.001, 0.02):
        assert _pause_after(seconds, seconds, seconds) is None
    assert _pause_after(0.04, 0.04, 0.04) == pytest.approx(4, rel=0.1)
    assert _pause_after(100.0, 100.0, 100.0) == COST_PAUSE_SECONDS_MAX < 10


def test_a_look_that_waited_once_costs_nothing() -> None:
    """For a lock, a connection or the processor: the next ones show what a look costs."""
    assert _pause_after(30.0) is None
    assert _pause_after(0.001, 0.001, 30.0) is None
    assert _pause_after(30.0, 30.0, 0.001) is None


def _pause_after(*looks: float) -> float | None:
    cost = LookCost(2.0)
    return [cost.pause_seconds(looked_seconds) for looked_seconds in looks][-1]


async def test_upkeep_goes_on_after_an_error(api: JobApi) -> None:
    job_id = await api.enqueue("answer", delay=3600)
    lease = await running_job(api)
    await api.database.execute(DUE_NOW)
    async with Database(api.url, pool_min=1, pool_max=1) as scarce, scarce.connection():
        scarce.pool.timeout = 0.02
        async with upkeep(api, database=scarce) as kept:
            kept.judge.verdicts = {lease.worker_id: 0}
            await until(partial(_refused, scarce, 10))
            await scarce.pool.resize(1, 2)
            await until(status_is(api, job_id, JobStatus.QUEUED))
            await until(status_is(api, lease.job_id, JobStatus.QUEUED))
            await woken(kept)


async def test_a_part_that_failed_does_not_wait_its_period(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is due when the database is lost is done when it is back, not an hour later.
    monkeypatch.setattr(upkeep_module, "FAILED_PAUSE_SECONDS_MAX", 0.01)
    tries = 0

    async def fail_thrice() -> Did:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise Unavailable("no database connection became free in time", "wait")
        return Did()

    async def succeeded() -> bool:
        return tries == 4

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, [Part("failing", 3600, fail_thrice)])
        await until(succeeded)
        tasks.cancel_scope.cancel()


async def test_a_part_that_moved_jobs_wakes_whom_it_names_and_an_idle_one_wakes_nobody() -> None:
    idle, moving, rounds = CountedWake(), CountedWake(), 0

    async def move() -> Did:
        nonlocal rounds
        rounds += 1
        return Did(moved=True)

    async def rest() -> Did:
        return Did(pause_seconds=0)

    async def twice() -> bool:
        return rounds >= 2

    async with anyio.create_task_group() as tasks:
        parts = [Part("moving", 0.001, move, moving), Part("idle", 3600, rest, idle)]
        tasks.start_soon(run, parts)
        await until(twice)
        tasks.cancel_scope.cancel()
    assert (moving.times, idle.times) == (rounds, 0)


async def _refused(database: Database, times: int) -> bool:
    return database.pool.get_stats().get("requests_errors", 0) >= times
