"""The work of the fault suite: long enough to be met by a fault, and told in the diary."""

import anyio

from jobsworth import Job, handler
from tests.chaos.handlers import noted, token

PARTS = 5


@handler("faults.work")
async def work(job: Job, n: int, seconds: float) -> str:
    """Steps with some time between them, so that some fault meets each kind of moment; effects."""
    with noted(job):
        made = await job.step("make", token, job, "make")
        for part in range(PARTS):
            await anyio.sleep(seconds / PARTS)
            await job.step(f"part {part}", str, part)
        job.say(f"{n}: {made}")
        job.save("report.txt", made)
        return made
