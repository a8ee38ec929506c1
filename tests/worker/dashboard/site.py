"""A browser without a screen: the dashboard called without a network, with cookies and forms."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from db.people import roles
from db.pool import Database
from worker.web.face import app_for

ORIGIN = "http://127.0.0.1"


@asynccontextmanager
async def browser(database: Database) -> AsyncGenerator[httpx.AsyncClient]:
    """A browser on this machine, with its cookies."""
    async with database.connection() as conn:
        await roles.create(conn)
    transport = httpx.ASGITransport(app_for(database), client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


async def send(
    client: httpx.AsyncClient, path: str, fields: dict[str, str], origin: str | None = ORIGIN
) -> httpx.Response:
    """A form of a page, sent from `origin`."""
    token = client.cookies.get("jobsworth_form") or ""
    headers = {} if origin is None else {"origin": origin}
    return await client.post(f"/ui{path}", data={"form": token} | fields, headers=headers)


async def sent(client: httpx.AsyncClient, path: str, fields: dict[str, str]) -> httpx.Response:
    """The page that a form leads to."""
    answer = await send(client, path, fields)
    assert answer.status_code == 303, (path, answer.text)
    return await client.get(answer.headers["location"])
