"""Killing a daemon while it works, and finding out what that cost.

In: two daemons, and jobs to be caught at. Out: which jobs the dead daemon held, when each ran
again, and whether anything that was recorded was done a second time. Invariant: the blow falls only
when the database says that the daemon runs jobs of which at least one has a recorded step.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from db.pool import Connection, Database
from db.queue import jobs, workers
from db.queue.jobs import Job, JobStatus
from db.steps import steps
from db.steps.steps import Step
from worker.demo.daemons import Daemon, Daemons
from worker.demo.watch import Watch

BAITS = 4
BAIT_MODE = "digest"


@dataclass(frozen=True, slots=True)
class Held:
    """A job that ran when its daemon was killed, with what it had recorded."""

    job: Job
    recorded: tuple[Step, ...]


@dataclass(slots=True)
class Blow:
    """One kill. `again` tells for each held job after how many seconds it ran again."""

    daemon: Daemon
    at: float
    held: tuple[Held, ...]
    again: dict[UUID, float] = field(default_factory=dict[UUID, float])

    def looked(self, snapshot: Sequence[Job]) -> None:
        """Note which of the held jobs have another lease by now, or have ended."""
        leases = {held.job.id: held.job.lease_no for held in self.held}
        for job in snapshot:
            if job.id in leases and job.id not in self.again:
                taken = job.status is JobStatus.RUNNING and job.lease_no != leases[job.id]
                if taken or job.finished_at is not None:
                    self.again[job.id] = time.monotonic() - self.at


@dataclass(frozen=True, slots=True)
class Cost:
    """What a blow cost. `steps_repeated` are recorded steps that were done again: none, ever."""

    daemon: str
    held: int
    ran_again: int
    seconds: tuple[float, ...]
    steps_kept: int
    steps_repeated: tuple[str, ...]


async def strike(database: Database, daemons: Daemons, watch: Watch) -> Blow:
    """Put out jobs that take a while, and kill the daemon that has begun one; not the other."""
    async with database.connection() as connection:
        for _ in range(BAITS):
            await jobs.enqueue(connection, BAIT_MODE)
    victims: list[Daemon] = []

    async def bitten() -> bool:
        async with database.connection() as connection:
            victims.extend(await _working(connection, daemons, watch.jobs))
        return bool(victims)

    await watch.until("waiting for a daemon that is at work", bitten)
    victim = victims[0]
    async with database.connection() as connection:
        ids = {w.id for w in await workers.list_workers(connection) if w.pid == victim.pid}
        victim.kill()
        at = time.monotonic()
        held = await _held(connection, ids)
    blow = Blow(victim, at, held)
    watch.looked.append(blow.looked)
    return blow


async def cost_of(connection: Connection, blow: Blow, ledger: Path) -> Cost:
    """Compare what was recorded then with what is recorded now, and with what was really done."""
    kept, repeated = 0, list[str]()
    done = _really_done(ledger)
    for held in blow.held:
        now = {step.name: step for step in await steps.list_for_job(connection, held.job.id)}
        for step in held.recorded:
            same = now.get(step.name) == step
            if same and done.get(f"{held.job.id} {step.name}", 1) == 1:
                kept += 1
            else:
                repeated.append(f"{held.job.mode} job {held.job.id}, step {step.name}")
    seconds = tuple(sorted(blow.again.values()))
    return Cost(str(blow.daemon), len(blow.held), len(seconds), seconds, kept, tuple(repeated))


async def _working(
    connection: Connection, daemons: Daemons, snapshot: Sequence[Job]
) -> list[Daemon]:
    """The daemons that run a job with a recorded step."""
    pids = {worker.id: worker.pid for worker in await workers.list_workers(connection)}
    found: list[Daemon] = []
    for job in snapshot:
        if job.status is JobStatus.RUNNING and job.mode == BAIT_MODE and job.worker_id is not None:
            recorded = await steps.list_for_job(connection, job.id)
            if any(step.finished_at for step in recorded):
                found += [d for d in daemons.living if d.pid == pids.get(job.worker_id)]
    return found


async def _held(connection: Connection, worker_ids: set[UUID]) -> tuple[Held, ...]:
    running = await jobs.list_jobs(connection, status=JobStatus.RUNNING, limit=jobs.LIMIT_MAX)
    held = [job for job in running if job.worker_id in worker_ids]
    recorded = [await steps.list_for_job(connection, job.id) for job in held]
    return tuple(
        Held(job, tuple(step for step in own if step.finished_at))
        for job, own in zip(held, recorded, strict=True)
    )


def _really_done(ledger: Path) -> dict[str, int]:
    """How often each chapter was really read, by the jobs' own account outside of the database."""
    try:
        lines = ledger.read_text().splitlines()
    except FileNotFoundError:
        return {}
    counted: dict[str, int] = {}
    for line in lines:
        counted[line] = counted.get(line, 0) + 1
    return counted
