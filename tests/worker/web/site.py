"""A health endpoint on an ephemeral port, before a real database."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import anyio
import httpx

from db.pool import Database
from worker.daemon.vitals import Vitals
from worker.web.app import create_app
from worker.web.metrics import Metrics
from worker.web.sampler import Samples
from worker.web.server import listen, serve


class Clock:
    """A clock that stands still until a test advances it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Site:
    """An endpoint; `vitals` is a healthy worker with the time of `clock`."""

    client: httpx.AsyncClient
    database: Database
    vitals: Vitals
    clock: Clock
    metrics: Metrics
    samples: Samples

    async def reasons(self, path: str = "/readyz") -> list[str]:
        """The reasons of an answer 503; empty for 200."""
        answer = await self.client.get(path)
        reasons: list[str] = answer.json()["reasons"]
        assert answer.status_code == (503 if reasons else 200)
        assert answer.json()["ready" if path == "/readyz" else "alive"] is not bool(reasons)
        return reasons


@asynccontextmanager
async def site(url: str, pool_max: int = 4) -> AsyncGenerator[Site]:
    """Serve until the block ends."""
    clock = Clock()
    vitals = Vitals(uuid4(), slots=5, clock=clock)
    vitals.database_state = "ok"
    vitals.claim_loop_progress()
    vitals.heartbeat_succeeded()
    metrics, samples = Metrics(), Samples()
    async with Database(url, pool_min=1, pool_max=pool_max) as database:
        app = create_app(database, vitals, metrics, samples, version="1.2.3")
        async with anyio.create_task_group() as tasks:
            address = await tasks.start(serve, await listen("127.0.0.1", 0), app)
            async with httpx.AsyncClient(base_url=address, timeout=20) as client:
                yield Site(client, database, vitals, clock, metrics, samples)
            tasks.cancel_scope.cancel()
