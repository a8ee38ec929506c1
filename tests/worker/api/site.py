"""The API before a real database, called without a network: two teams, a token of each, and one of
the whole installation.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI

from db.people import roles, teams, tokens, users
from db.pool import Database
from worker.web.face import app_for

CANARY = {"ours": "canary-of-ours", "theirs": "canary-of-theirs"}


@dataclass(frozen=True, slots=True)
class Site:
    """`headers` has a token by name: "ours" and "theirs" (teams), "all" (no team)."""

    app: FastAPI
    client: httpx.AsyncClient
    database: Database
    teams: dict[str, UUID]
    headers: dict[str, dict[str, str]]

    async def get(self, path: str, who: str = "all", status: int = 200) -> Any:
        """The document of an answer with that status."""
        return await self.send("GET", path, who, status)

    async def post(self, path: str, body: Any = None, who: str = "all", status: int = 200) -> Any:
        """The document of an answer with that status."""
        return await self.send("POST", path, who, status, body)

    async def send(self, method: str, path: str, who: str, status: int, body: Any = None) -> Any:
        """The document of an answer with that status; a problem must have all its parts."""
        answer = await self.client.request(method, path, json=body, headers=self.headers[who])
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        if status >= 400:
            check_problem(answer)
        return answer.json()


def check_problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem that an answer is, with all its parts."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["title"]
    assert problem["detail"]
    assert problem["remedy"], problem
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


@asynccontextmanager
async def site(database: Database) -> AsyncGenerator[Site]:
    """The application, until the block ends."""
    async with database.connection() as conn:
        await roles.create(conn)
        made = {
            name: (await teams.save(conn, name, (await users.save(conn, name)).id)).id
            for name in CANARY
        }
        texts = {
            name: (await tokens.issue(conn, name, ["*"], team_id=made.get(name))).text
            for name in (*CANARY, "all")
        }
    headers = {name: {"authorization": f"Bearer {text}"} for name, text in texts.items()}
    app = app_for(database)
    async with client_of(app) as client:
        yield Site(app, client, database, made, headers)


def client_of(app: FastAPI, host: str = "127.0.0.1") -> httpx.AsyncClient:
    """A client that calls the application itself, as if from that address."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(host, 7))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")
