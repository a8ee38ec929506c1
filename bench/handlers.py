"""The handlers that the benchmarks run."""

from worker import handler


@handler("noop")
async def noop() -> None:
    """Nothing, so that only the queue is measured."""
