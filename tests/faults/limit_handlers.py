"""The work of the limits' fault test: attempts that say when they begin and leave."""

import anyio

from jobsworth import Job, handler
from tests.chaos.handlers import noted


@handler("limits.slots", queue="slots")
async def slots(job: Job, seconds: float) -> None:
    with noted(job):
        await anyio.sleep(seconds)


@handler("limits.pace", queue="pace")
async def pace(job: Job, seconds: float) -> None:
    with noted(job):
        await anyio.sleep(seconds)
