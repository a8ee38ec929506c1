"""The routes of a worker's health endpoint.

In: GET and HEAD of `/healthz`, `/readyz` and `/metrics`. Out: 200, or 503 with its reasons.
Invariant: no request touches the claim path. Import this module, and `worker.web.server`, only
where the endpoint is switched on: FastAPI and uvicorn take 15 MB.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry

from db.diagnosis.health import Readiness
from db.pool import Database
from worker.daemon.vitals import Vitals
from worker.web.exposition import create_registry, render
from worker.web.health import DatabaseCheck, Limits, not_alive, not_ready
from worker.web.metrics import Metrics
from worker.web.sampler import Samples

METHODS = ["GET", "HEAD"]
NO_STORE = {"cache-control": "no-store"}


def create_app(
    database: Database,
    vitals: Vitals,
    metrics: Metrics,
    samples: Samples,
    *,
    version: str,
    limits: Limits | None = None,
) -> FastAPI:
    """The application for `worker.web.server.serve`; it checks the database while it serves."""
    check = DatabaseCheck(database)
    registry = create_registry(metrics, vitals, samples, database.pool.get_stats, version)
    endpoints = Endpoints(vitals, limits or Limits(), check, registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(check.run)
            yield
            tasks.cancel_scope.cancel()

    app = FastAPI(
        title="Jobsworth",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_api_route("/healthz", endpoints.healthz, methods=METHODS)
    app.add_api_route("/readyz", endpoints.readyz, methods=METHODS)
    app.add_api_route("/metrics", endpoints.metrics, methods=METHODS)
    return app


class Endpoints:
    def __init__(
        self, vitals: Vitals, limits: Limits, check: DatabaseCheck, registry: CollectorRegistry
    ) -> None:
        self._vitals = vitals
        self._limits = limits
        self._check = check
        self._registry = registry

    async def healthz(self) -> Response:
        """Whether the event loop, the claim loop and the heartbeat thread make progress."""
        reasons = not_alive(self._vitals, self._limits)
        return _answer({"alive": not reasons, "reasons": reasons}, reasons)

    async def readyz(self) -> Response:
        """Whether the worker claims jobs and the database accepts its writes."""
        own = not_ready(self._vitals, self._limits)
        database = Readiness() if self._vitals.draining else await self._check.readiness()
        reasons = (*own, *database.reasons)
        body = {"ready": not reasons, "reasons": reasons, "warnings": database.warnings}
        return _answer(body, reasons)

    async def metrics(self, request: Request) -> Response:
        """The page for Prometheus."""
        page, content_type = render(self._registry, request.headers.get("accept", ""))
        return Response(page, headers=NO_STORE | {"content-type": content_type})


def _answer(body: Mapping[str, object], reasons: Sequence[str]) -> Response:
    return JSONResponse(body, status_code=503 if reasons else 200, headers=NO_STORE)
