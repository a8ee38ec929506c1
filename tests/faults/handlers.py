"""The work of the fault suite: long enough to be met by a fault, and told in the diary."""

import anyio

from jobsworth import Job, handler
from tests.chaos.handlers import noted, token


@handler("faults.work")
async def work(job: Job, n: int, seconds: float) -> str:
    """A step, some time, and two effects."""
    with noted(job):
        made = await job.step("make", token, job, "make")
        await anyio.sleep(seconds)
        job.say(f"{n}: {made}")
        job.save("report.txt", made)
        return made
