"""The handlers of the scenarios that measure only our own worker."""

import asyncio
import time

from jobsworth import Answer, Job, Sending, Usage, handler


@handler("nothing")
async def nothing() -> None:
    """Nothing, so that only the queue is measured."""


@handler("nap")
async def nap(ms: float) -> None:
    """Wait, as for a provider's answer."""
    await asyncio.sleep(ms / 1_000)


@handler("tell_time")
async def tell_time() -> float:
    """Return when it began, in seconds of the clock that PostgreSQL's `now()` reads."""
    return time.time()


@handler("timed_nap")
async def timed_nap(ms: float) -> tuple[int, int]:
    """Wait; return when it began and ended (nanoseconds of the monotonic clock)."""
    began = time.monotonic_ns()
    await asyncio.sleep(ms / 1_000)
    return began, time.monotonic_ns()


@handler("block")
async def block(seconds: float) -> None:
    """Block the event loop, as a careless handler does."""
    time.sleep(seconds)  # noqa: ASYNC251 - the carelessness is what is measured


@handler("paperwork")
async def paperwork(job: Job) -> str:
    """A message, a paid call in the books, and a text to remember."""
    answer = await job.call("model", _send, provider="bench", model="instant", estimate=(200, 50))
    job.say(answer)
    job.remember(f"{answer} (job {job.id})")
    return answer


async def _send(sending: Sending) -> Answer:
    sending.sent()
    return Answer("The answer, given at once.", Usage(120, 30))
