"""The face: the API and the dashboard, as one application.

In: a database. Out: an ASGI application, which the daemon serves beside its health endpoint,
`jobsworth serve` alone, and a user mounts in an application of their own.
"""

from importlib import metadata

from fastapi import FastAPI

from db.pool import Database
from worker.api.access import Authenticate
from worker.api.app import Router, create_api
from worker.dashboard import router as dashboard

ROUTERS: tuple[Router, ...] = (dashboard.router_for,)


def app_for(
    database: Database,
    *,
    base_path: str = "",
    read_only: bool = False,
    authenticate: Authenticate | None = None,
) -> FastAPI:
    """The API and the dashboard (`/ui`), under `base_path` ("/jobsworth"), or where you mount it.

    `database` must be open while requests come. `authenticate` lets callers in instead of our
    tokens: an async function of the request that returns a `Caller`, or raises `Unauthorized`.
    """
    try:
        version = metadata.version("jobsworth")
    except metadata.PackageNotFoundError:
        version = "0"
    api = create_api(
        database, version=version, routers=ROUTERS, read_only=read_only, authenticate=authenticate
    )
    base = base_path.strip("/")
    if not base:
        return api
    outer = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    outer.mount(f"/{base}", api)
    return outer
