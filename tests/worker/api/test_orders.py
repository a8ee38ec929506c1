"""What people order through the API, beside jobs: each does what the operation of `db/` does."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from db.approvals import approvals
from db.conversations import messages, threads
from db.conversations.messages import MessageRole
from db.memory import status
from db.memory.status import MemoryStatus
from db.pool import Database
from db.queue import jobs, queues
from db.runs import runs
from db.runs.new_run import Node
from tests.worker.api.site import Site, check_problem, site
from tests.worker.api.test_isolation import MEMORY
from tests.worker.memory.test_embed import embed_pending
from worker.memory.embedders import HashingEmbedder

pytestmark = pytest.mark.anyio

DEPLOYMENT = """
insert into jobsworth.deployments (team_id, environment, sha, status, finished_at)
values (%s, 'paged', repeat('a', 40), 'failed', now()) returning id
"""


async def test_orders_are_carried_out(database: Database) -> None:
    async with site(database) as here:
        await said(here)
        await decided(here)
        await done_in_bulk(here)
        await limited(here)
        await scheduled_and_remembered(here)
        await searched(here)
        await paged(here)


async def said(here: Site) -> None:
    """A message and its job are in one commit, once for each key."""
    opened = {"platform": "api", "chat_id": "7"}
    thread = (await here.post("/threads", opened, "ours"))["id"]
    assert (await here.post("/threads", opened, "ours"))["id"] == thread
    answers: list[dict[str, Any]] = []
    for status_code in (201, 200):
        answer = await here.client.post(
            "/messages",
            json={"thread_id": thread, "text": "hello", "mode": "answer"},
            headers=here.headers["ours"] | {"idempotency-key": "one", "x-request-id": "traced"},
        )
        assert answer.status_code == status_code, answer.text
        answers.append(answer.json())
    assert answers[0]["job_id"] == answers[1]["job_id"]
    assert answers[1]["duplicate"]
    [listed] = await here.get(f"/messages?thread_id={thread}", "ours")
    assert (listed["text"], listed["request_id"]) == ("hello", "traced")
    async with here.database.connection() as conn:
        job = await jobs.get_by_id(conn, answers[0]["job_id"])
        stored = await messages.get_by_id(conn, listed["id"])
    assert (job.mode, job.trigger_message_id) == ("answer", stored.id)
    assert (job.team_id, job.request_id) == (here.teams["ours"], "traced")


async def decided(here: Site) -> None:
    """A decision is kept with who made it; one that comes too late says so."""
    async with here.database.connection() as conn:
        asked = await approvals.create(conn, "May I?", team_id=here.teams["ours"])
    path = f"/approvals/{asked.id}"
    shown = await here.get(path, "ours")
    yes = {"option": "approve", "comment": "go", "seen_hash": shown["document_hash"]}
    await here.post(f"{path}/decide", {"option": "perhaps"}, "ours", 422)
    await here.post(f"{path}/decide", yes | {"seen_hash": "0" * 64}, "ours", 409)
    assert (await here.post(f"{path}/decide", yes, "ours"))["status"] == "approved"
    # A yes that nobody has acted on is taken back; a no stays.
    assert (await here.post(f"{path}/decide", {"option": "reject"}, "ours"))["status"] == "rejected"
    late = await here.post(f"{path}/decide", yes | {"seen_hash": None}, "ours", 409)
    assert "rejected" in late["detail"]
    [vote, _] = (await here.get(path, "ours"))["votes"]
    assert (vote["decided_by"], vote["channel"], vote["comment"]) == ("ours", "api", "go")


async def done_in_bulk(here: Site) -> None:
    """A team's operation is for its own jobs, and cannot be had in another way."""
    async with here.database.connection() as conn:
        for team_id in here.teams.values():
            await jobs.enqueue(conn, "bulk", team_id=team_id)
    order = {"operation": "cancel", "filter": {"mode": "bulk"}}
    seen = await here.post("/bulk", order, "ours")
    assert (seen["id"], seen["preview"]["jobs"]) == (None, 1)
    assert (await here.post("/bulk", order))["preview"]["jobs"] == 2
    made = await here.post("/bulk", order | {"dry_run": False}, "ours", 202)
    job = (await here.get(f"/jobs/{made['id']}", "ours"))["job"]
    assert job["payload"]["filter"] == {"mode": "bulk", "team_id": str(here.teams["ours"])}
    await here.post("/bulk", order | {"filter": {}}, "ours", 422)
    other = order | {"filter": {"team_id": str(here.teams["theirs"])}}
    await here.post("/bulk", other, "ours", 403)
    new = {"mode": "bulk_operation", "payload": order}
    await here.post("/jobs", new, "ours", 403)
    await here.send("PUT", "/schedules/all", "ours", 403, new | {"every_seconds": 9})


async def limited(here: Site) -> None:
    """Budgets, rate limits and queues are the installation's to set."""
    budget = {"amount": "2.5", "unit": "money", "period": "day"}
    assert (await here.send("PUT", "/budgets/all", "all", 200, budget))["amount"] == "2.5"
    [listed] = await here.get("/budgets")
    assert Decimal(listed["amount"]) == Decimal("2.5")
    await here.send("DELETE", "/budgets/all", "all", 200)
    await here.send("DELETE", "/budgets/none", "all", 404)
    limit = {"provider": "openai", "requests_per_minute": 3}
    [kept] = await here.send("PUT", "/limits", "all", 200, limit)
    assert kept["requests_per_minute"] == 3
    assert (await here.post("/queues/slow/pause"))["paused"]
    async with here.database.connection() as conn:
        assert [each.name for each in await queues.list_all(conn) if each.paused] == ["slow"]
    assert not (await here.post("/queues/slow/resume"))["paused"]
    assert (await here.get("/queues"))["queues"][0]["name"] == "slow"
    most = {"queue": "slow", "slots": 2}
    assert (await here.send("PUT", "/queues/limits/few", "all", 200, most))["slots"] == 2
    await here.send("PUT", "/queues/limits/few", "all", 422, {"slots": 0})
    [listed] = (await here.get("/queues"))["limits"]
    assert (listed["name"], listed["slots"]) == ("few", 2)
    removed = await here.client.delete("/queues/limits/few", headers=here.headers["all"])
    assert removed.status_code == 204
    await here.send("DELETE", "/queues/limits/few", "all", 404)


async def scheduled_and_remembered(here: Site) -> None:
    """A schedule is set, paused and removed; a memory gives its place to another; a run forks."""
    new = {"mode": "nightly", "cron": "0 7 * * *"}
    await here.send("PUT", "/schedules/nightly", "ours", 200, new)
    await here.send("PUT", "/schedules/nightly", "ours", 422, new | {"cron": "never"})
    assert (await here.post("/schedules/nightly/pause", who="ours"))["paused"]
    assert not (await here.post("/schedules/nightly/resume", who="ours"))["paused"]
    assert await here.get("/schedules/nightly/firings", "ours") == []
    removed = await here.client.delete("/schedules/nightly", headers=here.headers["ours"])
    assert (removed.status_code, removed.content) == (204, b"")

    async with here.database.connection() as conn:
        ids: list[Any] = []
        for text in ("old", "new"):
            row = await (await conn.execute(MEMORY, [text, here.teams["ours"]])).fetchone()
            assert row is not None
            ids.append(row[0])
        run = (await runs.start(conn, [Node("a", "x")], team_id=here.teams["ours"])).run_id
    by = {"successor_id": str(ids[1])}
    assert (await here.post(f"/memories/{ids[0]}/supersede", by, "ours"))["superseded_by"]
    await here.post(f"/memories/{ids[1]}/retract", {"reason": "wrong"}, "ours")
    async with here.database.connection() as conn:
        assert (await status.get(conn, ids[1])).status is MemoryStatus.RETRACTED
    planned = await here.post(f"/runs/{run}/fork", {"node": "a", "dry_run": True}, "ours")
    assert planned["run_id"] is None
    assert (await here.post(f"/runs/{run}/cancel", who="ours"))["status"] == "canceled"
    nowhere = await here.client.post(
        f"/runs/{run}/fork", json={"node": "b"}, headers=here.headers["ours"]
    )
    assert nowhere.status_code in (404, 422)
    check_problem(nowhere)


async def searched(here: Site) -> None:
    """A search finds the team's own memories, with the parts of each score."""
    async with here.database.connection() as conn:
        for who, team_id in here.teams.items():
            await conn.execute(MEMORY, [f"the harbour of {who} is deep", team_id])
    await embed_pending(here.database, HashingEmbedder(256))
    [hit] = await here.get("/memories/search?q=deep harbour", "ours")
    assert hit["text"] == "the harbour of ours is deep"
    assert hit["score"] == pytest.approx(sum(hit["parts"].values()))
    assert len(await here.get("/memories/search?q=deep harbour&limit=2")) == 2
    await here.get("/memories/search?q=", "ours", 422)


async def paged(here: Site) -> None:
    """Messages, approvals, deployments and memories turn both ways, from any row."""
    team = here.teams["ours"]
    async with here.database.connection() as conn:
        thread = await threads.get_or_create(conn, "api", "paged", team_id=team)
        said = [await messages.insert(conn, thread.id, MessageRole.USER, str(n)) for n in range(5)]
        asked = [await approvals.create(conn, f"{n}?", team_id=team) for n in range(5)]
        shipped = [await (await conn.execute(DEPLOYMENT, [team])).fetchone() for _ in range(5)]
        known = [await (await conn.execute(MEMORY, [f"m {n}", team])).fetchone() for n in range(5)]
    for path, ids, newest_first in (
        (f"/messages?thread_id={thread.id}&", [one.id for one in said], False),
        ("/approvals?", [one.id for one in asked], False),
        ("/deployments?environment=paged&", [one[0] for one in shipped if one], True),
        ("/memories?", [one[0] for one in known if one], True),
    ):
        for where, wanted in (
            (f"before={ids[3]}", ids[1:3]),
            (f"after={ids[1]}", ids[2:4]),
        ):
            page = await here.get(f"{path}{where}&limit=2", "ours")
            shown = [UUID(one["id"]) for one in page]
            assert shown == (wanted[::-1] if newest_first else wanted), (path, where)
        await here.get(f"{path}before={ids[3]}&after={ids[1]}", "ours", 422)
