"""The demo's own handlers, as a user would write them; copied to where its daemons start.

`poison` is a job that no try can help, `digest` one whose steps take long enough to be killed in.
"""

import time
from pathlib import Path

from worker import Job, handler

LEDGER = Path("digest.log")


class Indigestible(Exception):
    """No try can help."""


@handler("poison", failures_max=2)
async def poison(job: Job, reason: str = "it was made to fail") -> None:
    """Fail, on every try."""
    raise Indigestible(f"try {job.attempt}: {reason}")


@handler("digest")
async def digest(job: Job, chapters: int = 5, seconds: float = 0.5) -> dict[str, int]:
    """Read chapter after chapter, each a durable step, and write down which were really read."""
    words = [
        await job.step(f"chapter {number}", _read, str(job.id), number, seconds)
        for number in range(1, chapters + 1)
    ]
    return {"chapters": chapters, "words": sum(words)}


def _read(job_id: str, number: int, seconds: float) -> int:
    time.sleep(seconds)
    with LEDGER.open("a") as ledger:
        ledger.write(f"{job_id} chapter {number}\n")
    return 100 * number
