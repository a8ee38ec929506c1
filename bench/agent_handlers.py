"""The handlers of the scenario `agents`: one slow request each, and a watch over the loop."""

import asyncio
from collections.abc import Sequence
from time import monotonic, thread_time

from pydantic_ai import Agent

from jobsworth import Job, handler

TICK_SECONDS = 0.01

agent = Agent(name="answer", instructions="Answer in one sentence.")
ended = 0


@handler("think")
async def think(job: Job, question: str) -> str:
    """One request to the model of the worker's settings."""
    global ended  # noqa: PLW0603 - the two handlers run in one process
    try:
        return await job.agent("answer", agent, question)
    finally:
        ended += 1


@handler("watch_loop")
async def watch_loop(thinking: int) -> dict[str, float]:
    """How late the event loop was, in ms, until so many `think` have ended.

    A tick that comes late by n ticks stands for the n that should have come: whatever had become
    ready during that time would have waited. `busy` is the same by the CPU time of the loop's
    thread: what it would be on a machine that has nothing else to do.
    """
    late_ms, busy_ms = list[float](), list[float]()
    while ended < thinking:
        due, used = monotonic() + TICK_SECONDS, thread_time()
        await asyncio.sleep(TICK_SECONDS)
        _note(late_ms, monotonic() - due)
        _note(busy_ms, thread_time() - used)
    return {
        f"{name}_{part}": value
        for name, values in (("late", late_ms), ("busy", busy_ms))
        for part, value in _shown(sorted(values)).items()
    }


def _note(values: list[float], seconds: float) -> None:
    while seconds >= 0:
        values.append(1000 * seconds)
        seconds -= TICK_SECONDS


def _shown(values: Sequence[float]) -> dict[str, float]:
    count = len(values)
    return {"p50": values[count // 2], "p99": values[count * 99 // 100], "max": values[-1]}
