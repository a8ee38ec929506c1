"""The work of the daemons in these tests."""

import anyio

from jobsworth import handler


@handler("fair.work")
async def work() -> None:
    await anyio.sleep(0.001)
