"""Kill a daemon while it works, and find out what that cost.

In: two daemons. Out: the jobs that the dead daemon was running, when each ran again, and whether a
recorded step was done a second time. Invariant: a daemon is killed only when the database says that
it is running a job with a recorded step.
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

BAIT_JOBS = 4
BAIT_MODE = "digest"


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job that was running when its daemon was killed, with the steps it had recorded."""

    job: Job
    recorded: tuple[Step, ...]


@dataclass(slots=True)
class Kill:
    """One kill, at the monotonic time `at`.

    `again` maps each held job to the seconds after which it ran again.
    """

    daemon: Daemon
    at: float
    held: tuple[HeldJob, ...]
    again: dict[UUID, float] = field(default_factory=dict[UUID, float])

    def note_reruns(self, snapshot: Sequence[Job]) -> None:
        """Note the held jobs that have a new lease or have finished."""
        leases = {held.job.id: held.job.lease_no for held in self.held}
        for job in snapshot:
            if job.id in leases and job.id not in self.again:
                taken = job.status is JobStatus.RUNNING and job.lease_no != leases[job.id]
                if taken or job.finished_at is not None:
                    self.again[job.id] = time.monotonic() - self.at


@dataclass(frozen=True, slots=True)
class KillCost:
    """What a kill cost. `steps_repeated`, recorded steps that were done again, must be empty.

    `seconds` are the times until the held jobs ran again, ascending.
    """

    daemon: str
    held: int
    ran_again: int
    seconds: tuple[float, ...]
    steps_kept: int
    steps_repeated: tuple[str, ...]


async def kill_at_work(database: Database, daemons: Daemons, watch: Watch) -> Kill:
    """Enqueue jobs that take a while, and kill the first daemon that has recorded a step of one."""
    async with database.connection() as connection:
        for _ in range(BAIT_JOBS):
            await jobs.enqueue(connection, BAIT_MODE)
    victims: list[Daemon] = []

    async def at_work() -> bool:
        async with database.connection() as connection:
            victims.extend(await _working(connection, daemons, watch.jobs))
        return bool(victims)

    await watch.until("waiting for a daemon that is at work", at_work)
    victim = victims[0]
    async with database.connection() as connection:
        ids = {w.id for w in await workers.list_workers(connection) if w.pid == victim.pid}
        victim.kill()
        at = time.monotonic()
        held = await _held(connection, ids)
    kill = Kill(victim, at, held)
    watch.on_snapshot.append(kill.note_reruns)
    return kill


async def cost_of(connection: Connection, kill: Kill, reading_log: Path) -> KillCost:
    """Compare the steps recorded at the kill with those recorded now and the jobs' own log."""
    kept, repeated = 0, list[str]()
    done = _times_done(reading_log)
    for held in kill.held:
        now = {step.name: step for step in await steps.list_for_job(connection, held.job.id)}
        for step in held.recorded:
            same = now.get(step.name) == step
            if same and done.get(f"{held.job.id} {step.name}", 1) == 1:
                kept += 1
            else:
                repeated.append(f"{held.job.mode} job {held.job.id}, step {step.name}")
    seconds = tuple(sorted(kill.again.values()))
    return KillCost(str(kill.daemon), len(kill.held), len(seconds), seconds, kept, tuple(repeated))


async def _working(
    connection: Connection, daemons: Daemons, snapshot: Sequence[Job]
) -> list[Daemon]:
    """The daemons that are running a job with a recorded step."""
    pids = {worker.id: worker.pid for worker in await workers.list_workers(connection)}
    found: list[Daemon] = []
    for job in snapshot:
        if job.status is JobStatus.RUNNING and job.mode == BAIT_MODE and job.worker_id is not None:
            recorded = await steps.list_for_job(connection, job.id)
            if any(step.finished_at for step in recorded):
                found += [d for d in daemons.living if d.pid == pids.get(job.worker_id)]
    return found


async def _held(connection: Connection, worker_ids: set[UUID]) -> tuple[HeldJob, ...]:
    running = await jobs.list_jobs(connection, status=JobStatus.RUNNING, limit=jobs.LIMIT_MAX)
    held = [job for job in running if job.worker_id in worker_ids]
    recorded = [await steps.list_for_job(connection, job.id) for job in held]
    return tuple(
        HeldJob(job, tuple(step for step in own if step.finished_at))
        for job, own in zip(held, recorded, strict=True)
    )


def _times_done(reading_log: Path) -> dict[str, int]:
    """How often each chapter was read, according to the jobs' own log."""
    try:
        lines = reading_log.read_text().splitlines()
    except FileNotFoundError:
        return {}
    counted: dict[str, int] = {}
    for line in lines:
        counted[line] = counted.get(line, 0) + 1
    return counted
