"""No route shows, or lets change, what is another team's; and none fails of what it is sent.

The routes are read from the application: one without a case here fails the test.
"""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple, cast
from uuid import uuid4

import httpx
import pytest
from psycopg.sql import SQL, Identifier

from db.approvals import approvals
from db.conversations import messages, threads
from db.conversations.messages import MessageRole
from db.deployments import deployments
from db.people import agents
from db.pool import Database
from db.queue import jobs
from db.runs import runs, saved
from db.runs.new_run import Node
from db.schedules import schedules
from db.schedules.schedules import NewSchedule
from tests.worker.api.site import CANARY, Site, check_problem, site

pytestmark = pytest.mark.anyio

MEMORY = """
insert into jobsworth.memories (text, source_kind, team_id) values (%s, 'note', %s) returning id
"""
FORBIDDEN, MISSING, EMPTY, OWN = 403, 404, 200, 0


class Case(NamedTuple):
    """What the other team gets for a route that names our rows: `status`, or OWN where the route
    makes or finds something of the caller's own. `body` names ours with their ids in braces.
    """

    status: int
    body: dict[str, Any] | None = None
    query: str = ""


CASES = {
    "GET /jobs": Case(EMPTY),
    "POST /jobs": Case(MISSING, {"mode": "x", "thread_id": "{thread}"}),
    "GET /jobs/{job_id}": Case(MISSING),
    "POST /jobs/{job_id}/cancel": Case(MISSING),
    "POST /jobs/{job_id}/retry": Case(MISSING),
    "POST /jobs/{job_id}/run-now": Case(MISSING),
    "POST /bulk": Case(
        EMPTY, {"operation": "cancel", "filter": {"mode": "{canary}"}, "dry_run": False}
    ),
    "GET /runs": Case(EMPTY),
    "GET /runs/{run_id}": Case(FORBIDDEN),
    "GET /runs/{run_id}/steps": Case(FORBIDDEN),
    "GET /runs/{run_id}/artifacts": Case(FORBIDDEN),
    "GET /runs/{run_id}/stats": Case(FORBIDDEN),
    "POST /runs/{run_id}/fork": Case(FORBIDDEN, {"node": "a", "dry_run": True}),
    "POST /runs/{run_id}/cancel": Case(FORBIDDEN),
    "GET /approvals": Case(EMPTY),
    "GET /approvals/{approval_id}": Case(MISSING),
    "POST /approvals/{approval_id}/decide": Case(MISSING, {"option": "approve"}),
    "GET /threads": Case(EMPTY),
    "POST /threads": Case(OWN, {"platform": "telegram", "chat_id": "{canary}"}),
    "GET /threads/{thread_id}": Case(MISSING),
    "GET /messages": Case(MISSING, query="?thread_id={thread}"),
    "POST /messages": Case(MISSING, {"thread_id": "{thread}", "text": "hi"}),
    "GET /ledger": Case(EMPTY, query="?by=mode"),
    "GET /budgets": Case(EMPTY),
    "PUT /budgets/{name}": Case(FORBIDDEN, {"amount": 1, "unit": "money", "period": "day"}),
    "DELETE /budgets/{name}": Case(FORBIDDEN),
    "GET /limits": Case(EMPTY),
    "PUT /limits": Case(FORBIDDEN, {"provider": "x", "requests_per_minute": 1}),
    "GET /schedules": Case(EMPTY),
    "PUT /schedules/{name}": Case(
        MISSING, {"mode": "x", "every_seconds": 9, "agent_id": "{agent}"}
    ),
    "GET /schedules/{name}/firings": Case(MISSING),
    "POST /schedules/{name}/pause": Case(MISSING),
    "POST /schedules/{name}/resume": Case(MISSING),
    "DELETE /schedules/{name}": Case(MISSING),
    "GET /memories": Case(EMPTY),
    "GET /memories/search": Case(EMPTY, query="?q={canary}"),
    "GET /memories/{memory_id}": Case(MISSING),
    "POST /memories/{memory_id}/supersede": Case(MISSING, {"successor_id": "{memory}"}),
    "POST /memories/{memory_id}/retract": Case(MISSING),
    "GET /agents": Case(EMPTY),
    "GET /agents/{agent_id}": Case(MISSING),
    "GET /stats": Case(EMPTY),
    "GET /queues": Case(FORBIDDEN),
    "POST /queues/{name}/pause": Case(FORBIDDEN),
    "POST /queues/{name}/resume": Case(FORBIDDEN),
    "PUT /queues/limits/{name}": Case(FORBIDDEN, {"queue": "default", "slots": 1}),
    "DELETE /queues/limits/{name}": Case(FORBIDDEN),
    "GET /workers": Case(FORBIDDEN),
    "GET /environments": Case(EMPTY),
    "GET /deployments": Case(EMPTY),
    "GET /deployments/{deployment_id}": Case(MISSING),
}
# What is in an answer to the team itself.
SHOWN = {
    *("/jobs", "/jobs/{job_id}", "/runs", "/runs/{run_id}", "/runs/{run_id}/steps", "/approvals"),
    *("/approvals/{approval_id}", "/threads", "/threads/{thread_id}", "/messages", "/ledger"),
    *("/schedules", "/memories", "/memories/{memory_id}", "/agents", "/agents/{agent_id}"),
    *("/deployments", "/deployments/{deployment_id}"),
}
HOSTILE: tuple[Any, ...] = (
    *("", "\0", "\ud800", "x" * 5_000, "'; drop table x; --", "{}", "-1", "1e999", "nan", "null"),
    *(None, True, -1, 2**63, 10**400, 1e308, [], {}, [[]], {"a": {"\0": "\0"}}),
    "00000000-0000-0000-0000-000000000000",
)
# An id, a name and texts by which each kind of row is known.
IDS = ("job", "run", "approval", "thread", "memory", "agent", "deployment")


async def rows_of(here: Site, who: str) -> dict[str, Any]:
    """A row of each kind with the team's canary in it; their ids."""
    canary, team = CANARY[who], here.teams[who]
    async with here.database.connection() as conn:
        agent = await agents.save(conn, canary, team)
        thread = await threads.get_or_create(conn, "telegram", canary, team_id=team, title=canary)
        await messages.insert(conn, thread.id, MessageRole.USER, canary)
        made = await jobs.enqueue(
            conn, canary, {"said": canary}, team_id=team, run_at=None, thread_id=thread.id
        )
        run = await runs.start(conn, [Node("a", canary)], actor=canary, team_id=team)
        await saved.save_step(conn, run.run_id, canary, output=canary)
        approval = await approvals.create(conn, canary, job_id=made.job_id, team_id=team)
        await schedules.add(conn, NewSchedule(canary, mode=canary, every=99, team_id=team))
        shipped = await deployments.create(
            conn, environment=canary, sha="abcdef0", branch=canary, team_id=team
        )
        entry = """
          insert into jobsworth.token_ledger (team_id, entry, scope, mode, provider, model, cost)
          values (%s, 'settle', 'proactive', %s, 'openai', 'gpt', 1)"""
        await conn.execute(entry, [team, canary])
        memory = await (await conn.execute(MEMORY, [canary, team])).fetchone()
    assert memory is not None
    ids = (made.job_id, run.run_id, approval.id, thread.id, memory[0], agent.id, shipped.id)
    return {**dict(zip(IDS, ids, strict=True)), "canary": canary}


def filled(value: Any, rows: dict[str, Any]) -> Any:
    """The value, with the names of rows in braces replaced by their ids."""
    if isinstance(value, dict):
        given = cast("dict[str, Any]", value)
        return {name: filled(each, rows) for name, each in given.items()}
    return value.format(**rows) if isinstance(value, str) else value


def path_of(route: str, rows: dict[str, Any]) -> str:
    """The path of a route that names these rows."""
    named = {f"{kind}_id": rows[kind] for kind in IDS}
    return route.format(name=rows["canary"], **named)


async def test_no_route_gives_another_teams_rows_and_none_fails(database: Database) -> None:
    async with site(database) as here:
        ours, theirs = await rows_of(here, "ours"), await rows_of(here, "theirs")
        contract: dict[str, Any] = here.app.openapi()["paths"]
        routes = {f"{verb.upper()} {path}" for path, verbs in contract.items() for verb in verbs}
        assert routes == set(CASES)
        before = await everything(here)
        for route, case in CASES.items():
            verb, path = route.split(" ")
            assert contract[path][verb.lower()]["summary"]
            await refused(here, verb, path, case, ours)
        after = await everything(here)
        # Whatever they tried, nothing of ours is changed: they made a thread of their own.
        assert before == after
        for path in SHOWN:
            query = filled(CASES[f"GET {path}"].query, ours)
            own = await here.client.get(path_of(path, ours) + query, headers=here.headers["ours"])
            assert own.status_code == 200, (path, own.text)
            assert CANARY["ours"] in own.text, path
            assert CANARY["theirs"] not in own.text, path
            query = filled(CASES[f"GET {path}"].query, theirs)
            both = await here.client.get(path_of(path, theirs) + query, headers=here.headers["all"])
            assert CANARY["theirs"] in both.text, path
        await hostile(here, contract, theirs)


async def refused(here: Site, verb: str, path: str, case: Case, ours: dict[str, Any]) -> None:
    """The other team calls a route about our rows."""
    answer = await here.client.request(
        verb,
        path_of(path, ours) + filled(case.query, ours),
        json=filled(case.body, ours),
        headers=here.headers["theirs"],
    )
    assert answer.status_code == (case.status or 200), (verb, path, answer.text)
    if answer.status_code >= 400:
        check_problem(answer)
    elif case.status == OWN:
        assert answer.json()["team_id"] == str(here.teams["theirs"])
    else:
        assert CANARY["ours"] not in answer.text, (verb, path)
        assert str(ours["job"]) not in answer.text


async def everything(here: Site) -> list[Any]:
    """Every row of ours that a route could have changed."""
    found: list[Any] = []
    async with here.database.connection() as conn:
        for table in (
            *("reactive_jobs", "runs", "approvals", "chat_threads", "chat_messages", "memories"),
            *("schedules", "agents", "deployments"),
        ):
            text = SQL(
                "select jsonb_agg(to_jsonb(t) order by t.id) from jobsworth.{} t where team_id = %s"
            ).format(Identifier(table))
            found += await (await conn.execute(text, [here.teams["ours"]])).fetchall()
    return found


async def hostile(here: Site, contract: dict[str, Any], rows: dict[str, Any]) -> None:
    """Odd values in each place of each route: refused with a remedy, or taken; never a failure."""
    chance = random.Random(7)
    for path, verbs in contract.items():
        for verb, route in verbs.items():
            names = [one["name"] for one in route.get("parameters", []) if one["in"] == "query"]
            fields = _fields(here.app.openapi(), route)
            for _ in range(6):
                query = {n: str(_text(chance)) for n in names if chance.random() < 0.5}
                body: Any = {n: chance.choice(HOSTILE) for n in fields if chance.random() < 0.7}
                good = CASES[f"{verb.upper()} {path}"].body
                if good is not None and chance.random() < 0.5:
                    body = filled(good, rows) | {chance.choice(fields): chance.choice(HOSTILE)}
                if chance.random() < 0.1:
                    body = chance.choice(HOSTILE)
                answer = await here.client.request(
                    verb,
                    path_of(path, rows | {kind: uuid4() for kind in chance.sample(IDS, 2)}),
                    params=query,
                    content=_json(body),
                    headers=here.headers["all"] | {"content-type": "application/json"},
                )
                assert answer.status_code < 500, (verb, path, query, body, answer.text)
                if answer.status_code >= 400:
                    check_problem(answer)


def _text(chance: random.Random) -> str:
    return httpx.QueryParams({"x": str(chance.choice(HOSTILE)).replace("\ud800", "?")})["x"]


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


def _fields(contract: dict[str, Any], route: dict[str, Any]) -> list[str]:
    if "requestBody" not in route:
        return []
    [media] = route["requestBody"]["content"].values()
    schema = media["schema"]
    for one in [schema, *schema.get("anyOf", [])]:
        if "$ref" in one:
            found = contract["components"]["schemas"][one["$ref"].rpartition("/")[2]]
            return sorted(found["properties"])
    return []
