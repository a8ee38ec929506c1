"""Embedding requests are in the books, on the right account, within budgets, and paid once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest

from db.memory import memories, outbox
from db.memory.memories import Text
from db.money import books
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from jobsworth import Job, handler
from tests.providers.openai_stub import OpenAIStub, too_many
from tests.support import run_cli
from tests.worker.job_api import JobApi, registered
from worker.memory.account import Accounts, upper_tokens
from worker.memory.embed import embed_due
from worker.memory.openai_embedder import OpenAIEmbedder
from worker.money.group_commit import GroupCommit
from worker.money.pricing import Pricing

DIMENSIONS = 32
MODEL = "embed-1"

CALLS: LiteralString = """
select c.request_id, c.status::text, c.scope::text, c.step_name, c.job_id, c.team_id, c.agent_id,
  c.thread_id, c.run_id, c.mode, c.input_tokens, c.estimated_input_tokens, c.cost, c.limited
from jobsworth.llm_calls c order by c.started_at
"""
MAKE_DUE: LiteralString = """
update jobsworth.embedding_outbox set next_try_at = now() - interval '1 second'
"""
OUTBOX: LiteralString = "select o.tries, o.last_error from jobsworth.embedding_outbox o"
OF_MODE: LiteralString = """
insert into jobsworth.budgets (name, unit, amount, period, mode)
values ('talk', 'tokens', 9, 'day', 'talk')
"""
VIOLATIONS: LiteralString = "select v.invariant, v.detail from jobsworth.violations v"


@pytest.fixture
def provider() -> Iterator[OpenAIStub]:
    with OpenAIStub(dimensions=DIMENSIONS) as stub:
        yield stub


@pytest.fixture
async def embedder(provider: OpenAIStub) -> AsyncGenerator[OpenAIEmbedder]:
    embedder = OpenAIEmbedder(provider.url, MODEL, dimensions=DIMENSIONS, timeout_seconds=10)
    yield embedder
    await embedder.close()


async def embed(database: Database, embedder: OpenAIEmbedder, conn: Connection) -> int:
    await execute(conn, MAKE_DUE)
    accounts = Accounts(database, GroupCommit(database), pricing=Pricing())
    return (await embed_due(database, embedder, 64, 1.0, accounts)).written


async def in_balance(conn: Connection) -> bool:
    return await books.check(conn) == [] and await fetch_all(conn, VIOLATIONS) == []


async def test_each_request_is_a_call_of_whoever_its_texts_are_of(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    """Texts of two teams, agents or runs never share a request; refused ones cost nothing."""
    run_id: UUID = await fetch_val(
        conn, 'select jobsworth.start_run(\'[{"node": "a", "mode": "x"}]\'::jsonb)'
    )
    job_id: UUID = await fetch_val(conn, "select id from jobsworth.reactive_jobs")
    team, agent, thread = uuid4(), uuid4(), uuid4()
    ours: dict[str, Any] = {"team_id": team, "agent_id": agent, "thread_id": thread}
    texts = [
        Text("one two", **ours),
        Text("three", **ours),
        Text("four five six", team_id=team),
        Text("seven", job_id=job_id, effect_key="k"),
        Text("eight nine"),
    ]
    await memories.put(conn, texts)
    provider.script(too_many("0.1"))
    assert await embed(database, embedder, conn) < 5
    while (await outbox.counts(conn)).pending:
        await embed(database, embedder, conn)

    calls = {row["request_id"]: row for row in await fetch_all(conn, CALLS)}
    asked = [(one.headers["X-Request-Id"], one.body["input"]) for one in provider.requests]
    billed = {charge.request_id: charge.input_tokens for charge in provider.bill}
    assert calls.keys() == {request_id for request_id, _ in asked}
    whose: dict[str, Mapping[str, Any]] = {
        "one two": ours,
        "three": ours,
        "four five six": {"team_id": team},
        "seven": {"run_id": run_id, "mode": "x"},
        "eight nine": {},
    }
    for request_id, sent in asked:
        call = calls[request_id]
        for text in sent:
            for column in ("team_id", "agent_id", "thread_id", "run_id", "mode"):
                assert call[column] == whose[text].get(column), (text, column)
        assert (call["scope"], call["step_name"], call["job_id"]) == ("proactive", "embed", None)
        assert call["input_tokens"] == billed.get(request_id, 0) <= call["estimated_input_tokens"]
        assert call["estimated_input_tokens"] == upper_tokens(sent)
        assert call["limited"] == (request_id not in billed)
    assert len(billed) == len(calls) - 1 == 4
    assert await in_balance(conn)


async def test_texts_without_room_in_a_budget_wait_and_others_do_not(
    database: Database,
    conn: Connection,
    provider: OpenAIStub,
    embedder: OpenAIEmbedder,
    database_url: str,
) -> None:
    poor, rich = uuid4(), uuid4()
    budget: LiteralString = """
        insert into jobsworth.budgets (name, unit, amount, period, for_team_id)
        values ('poor', 'tokens', 55, 'day', %(team)s)"""
    await execute(conn, budget, {"team": poor})
    await memories.put(conn, [Text("a" * 40, team_id=poor), Text("b" * 40, team_id=poor)])
    await memories.put(conn, [Text("c" * 100, team_id=rich)])
    # Both together are too much, one is not; then 10 are spent, and the other is too much.
    assert await embed(database, embedder, conn) == 2
    assert await embed(database, embedder, conn) == 0
    [waiting] = await fetch_all(conn, OUTBOX)
    assert waiting["tries"] == 0
    assert "budget poor: 10 of 55 tokens" in waiting["last_error"]
    for words in (("status",), ("memory", "spaces"), ("doctor",)):
        said = run_cli(*words, url=database_url)
        told = " ".join((said.stdout + said.stderr).split())
        assert "budget poor: 10 of 55 tokens" in told, told
    # A budget of a mode is for what its jobs remember, too.
    job_id = await fetch_val(
        conn, "insert into jobsworth.reactive_jobs (mode) values ('talk') returning id"
    )
    await execute(conn, OF_MODE)
    await memories.put(conn, [Text("d" * 40, job_id=job_id, effect_key="d"), Text("e" * 40)])
    assert await embed(database, embedder, conn) == 1
    reasons = {row["last_error"] for row in await fetch_all(conn, OUTBOX)}
    assert any("budget talk: 0 of 9 tokens" in reason for reason in reasons), reasons
    before = len(provider.requests)
    await execute(conn, "update jobsworth.budgets set amount = 1000")
    assert await embed(database, embedder, conn) == 2
    assert len(provider.requests) == before + 2
    assert await fetch_all(conn, OUTBOX) == []
    assert await in_balance(conn)


async def test_a_rate_limit_is_asked_once_for_texts_that_it_has_no_room_for(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    """Or each part of the texts takes a turn that jobs wait for."""
    await execute(conn, "select jobsworth.set_rate_limit('openai', 'embed-1', 1)")
    await memories.put(conn, [Text("the first")])
    assert await embed(database, embedder, conn) == 1
    await memories.put(conn, [Text(f"note {n}") for n in range(16)])
    assert await embed(database, embedder, conn) == 0
    assert len(provider.requests) == 1
    waiting = await fetch_all(conn, OUTBOX)
    assert {row["tries"] for row in waiting} == {0}
    assert all("rate limit of openai embed-1" in row["last_error"] for row in waiting)
    turns: LiteralString = """
        select extract(epoch from l.turn_at - now())::float8 from jobsworth.rate_limits l"""
    assert await fetch_val(conn, turns) < 90


async def test_an_unknown_price_is_not_zero(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    """Under a budget of money; with a price it is within the budget and has a cost."""
    await execute(
        conn,
        "insert into jobsworth.budgets (name, unit, amount, period)"
        " values ('all', 'money', 1, 'day')",
    )
    await memories.put(conn, [Text("a b c d")])
    assert await embed(database, embedder, conn) == 0
    assert provider.requests == []
    [waiting] = await fetch_all(conn, OUTBOX)
    assert "jobsworth price set" in waiting["last_error"]
    await execute(
        conn,
        "insert into jobsworth.prices (provider, model, input, output)"
        f" values ('openai', '{MODEL}', 1000, 0)",
    )
    assert await embed(database, embedder, conn) == 1
    [call] = await fetch_all(conn, CALLS)
    assert float(call["cost"]) == pytest.approx(provider.bill[0].input_tokens / 1000)
    assert await in_balance(conn)


async def test_a_recall_pays_for_its_query_once_and_under_its_lease(
    database_url: str, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    """A later attempt reads the vector; one that is refused is told, and changes no job."""
    provider.script(too_many("0"))
    with registered():

        @handler("ask", failures_max=5)
        async def ask(job: Job) -> list[str]:
            found = [hit.text for hit in await job.recall("where is the tower")]
            if job.attempt < 3:
                raise RuntimeError("again")
            return found

        async with JobApi.open(database_url, embedder) as api:
            await memories.put(conn, [Text("the tower is here")])
            await embed(api.database, embedder, conn)
            while (await outbox.counts(conn)).pending:
                await embed(api.database, embedder, conn)
            job = await api.run("ask")
    assert job.result == ["the tower is here"]
    calls = [row for row in await fetch_all(conn, CALLS) if row["job_id"]]
    assert [(row["status"], row["scope"], row["job_id"]) for row in calls] == [
        ("ok", "reactive", job.id)
    ]
    queries = [one for one in provider.requests if one.body["input"] == ["where is the tower"]]
    assert [one.headers["X-Request-Id"] for one in queries] == [calls[0]["request_id"]]
    assert await in_balance(conn)


async def test_a_search_of_a_person_is_in_the_books(
    conn: Connection, provider: OpenAIStub, database_url: str
) -> None:
    env = {
        "JOBSWORTH_EMBEDDER_URL": provider.url,
        "JOBSWORTH_EMBEDDER_MODEL": MODEL,
        "JOBSWORTH_EMBEDDER_DIMENSIONS": str(DIMENSIONS),
    }
    assert run_cli("memory", "search", "tower", url=database_url, env=env).returncode == 0
    [call] = await fetch_all(conn, CALLS)
    assert (call["status"], call["scope"], call["step_name"]) == ("ok", "proactive", "search")
    assert call["request_id"] == provider.bill[0].request_id
    assert call["input_tokens"] == provider.bill[0].input_tokens
    assert await in_balance(conn)
