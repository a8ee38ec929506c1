"""Handlers that declare their schedules; the tests' daemons load this module."""

from datetime import timedelta

from jobsworth import handler


@handler("tick", schedule=timedelta(seconds=1))
async def tick() -> str:
    """Every second."""
    return "tick"


@handler("morning", queue="slow", schedule="0 8 * * mon-fri", time_zone="Europe/Berlin")
async def morning() -> str:
    """On working days."""
    return "good morning"
