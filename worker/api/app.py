"""The application: every router, its errors, its bounds and its contract.

In: a database, and how callers are let in. Out: an ASGI application that can be mounted under any
path. Invariant: `openapi.json` lists every route with its answers, problems included.
"""

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from db.pool import Database
from worker.api.access import Authenticate, Gate
from worker.api.bounds import Bounds
from worker.api.problems import Problem, answer_errors
from worker.api.routes import (
    approvals,
    bulk,
    conversations,
    jobs,
    memory,
    money,
    operation,
    runs,
    schedules,
)

Router = Callable[[Gate], APIRouter]

NOUNS = (jobs, bulk, runs, approvals, conversations, money, schedules, memory, operation)
ROUTERS: tuple[APIRouter, ...] = tuple(noun.router for noun in NOUNS)
DESCRIPTION = """\
Jobs for AI agents, on PostgreSQL, with their paperwork done.

Send `authorization: Bearer TOKEN`, with a token of `jobsworth token issue`. A token of a team
shows that team's rows alone. Lists are paged by `next` and `previous` of their answers. Whatever
goes wrong is `application/problem+json` with a `remedy`.
"""


def create_api(
    database: Database,
    *,
    version: str,
    routers: Sequence[Router] = (),
    read_only: bool = False,
    authenticate: Authenticate | None = None,
) -> FastAPI:
    """The application. `authenticate` lets callers in instead of our tokens: it returns the
    `Caller` of a request, or raises `Unauthorized`. `read_only` refuses every order.
    """
    gate = Gate(database, read_only=read_only, authenticate=authenticate)
    app = FastAPI(
        title="Jobsworth",
        version=version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gate = gate
    answer_errors(app)
    for router in ROUTERS:
        app.include_router(router)
    for router_for in routers:
        app.include_router(router_for(gate), include_in_schema=False)
    app.add_middleware(Bounds)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Add the schema of problems to the contract."""

    def contract() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            template = "#/components/schemas/{model}"
            problem = Problem.model_json_schema(ref_template=template)
            schemas |= problem.pop("$defs")
            schemas["Problem"] = problem
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = contract
