"""`--wait`: follow a job to its end.

In: a job's id. Out: the job as it ended; meanwhile, on stderr, every change of why it is not done.
"""

import time
from uuid import UUID

import anyio

from db.pool import Connection
from db.queue import jobs
from worker.cli.exit_codes import ExitCode
from worker.cli.output import say

POLL_SECONDS_MIN, POLL_SECONDS_MAX = 0.05, 1.0
BACKOFF = 1.5
# What a job passes through in less is not worth a line.
TELL_SECONDS = 0.4


async def follow(conn: Connection, job_id: UUID) -> jobs.Job:
    """The job once it is done, failed or canceled; polls at most every second."""
    reason, since, told = None, 0.0, False
    pause = POLL_SECONDS_MIN
    while True:
        job = await jobs.get_by_id(conn, job_id)
        if job.finished_at is not None:
            return job
        stands = await jobs.why(conn, job_id)
        if stands != reason:
            reason, since, told = stands, time.monotonic(), False
            pause = POLL_SECONDS_MIN
        if not told and time.monotonic() - since > TELL_SECONDS:
            say(f"{stands.reason}: {stands.detail}\n  → {stands.remedy}")
            told = True
        await anyio.sleep(pause)
        pause = min(POLL_SECONDS_MAX, pause * BACKOFF)


def exit_code_for(job: jobs.Job) -> ExitCode:
    """Whether the job did what it was asked to."""
    return ExitCode.OK if job.status is jobs.JobStatus.DONE else ExitCode.NO
