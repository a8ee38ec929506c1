"""The work of the limits' fault test: attempts that say when they begin and leave."""

import anyio

from jobsworth import Job, handler
from tests.chaos.handlers import noted


@handler("limits.work")
async def work(job: Job, seconds: float) -> None:
    with noted(job):
        await anyio.sleep(seconds)
