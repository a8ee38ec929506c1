"""Jobs' texts are embedded while the provider fails a fifth of its requests and daemons are killed.

None is missing, none is there twice, and the books agree with the provider's own bill, request by
request. `JOBSWORTH_CHAOS_EMBEDDINGS` sets how many jobs.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import LiteralString

from db.memory import outbox
from db.money import books, settlements
from db.pool import Connection, execute, fetch_all, fetch_val
from tests.providers.openai_stub import OpenAIStub
from tests.support import Workers, until
from worker.memory.account import upper_tokens

JOBS = int(os.environ.get("JOBSWORTH_CHAOS_EMBEDDINGS", "240"))
DIMENSIONS = 16
FAULTS = {
    "429": 0.04,
    "500": 0.04,
    "cut": 0.04,
    "shorter_vectors": 0.02,
    "missing_index": 0.03,
    "half_batch": 0.03,
}
KILLS = 1 + JOBS // 2_000

ENQUEUE: LiteralString = """
insert into jobsworth.reactive_jobs (mode, payload, team_id)
select 'remember', jsonb_build_object('text', 'note number ' || n || ' of team ' || n %% 3),
  ('00000000-0000-0000-0000-00000000000' || n %% 3)::uuid
from generate_series(1, %(jobs)s) n
"""
CALLS: LiteralString = """
select c.request_id, c.status::text, c.usage_source::text, c.input_tokens, c.limited,
  c.estimated_input_tokens, c.team_id, c.job_id, c.scope::text
from jobsworth.llm_calls c
"""
STORED: LiteralString = """
select m.text, count(e.memory_id) as vectors
from jobsworth.memories m left join jobsworth.embeddings e on e.memory_id = m.id
group by m.text
"""
STATUSES: LiteralString = "select j.status::text, j.attempt from jobsworth.reactive_jobs j"
# Those of a killed daemon end after a minute.
END_LEASES: LiteralString = """
update jobsworth.embedding_outbox set next_try_at = now()
where next_try_at > now() + interval '15 seconds'
"""
AGE: LiteralString = """
update jobsworth.llm_calls set started_at = now() - interval '2 hours' where status = 'started'
"""
VIOLATIONS: LiteralString = "select v.invariant, v.detail from jobsworth.violations v"


async def test_finished_jobs_are_embedded_through_faults_and_kills(
    conn: Connection, workers: Workers, database_url: str
) -> None:
    with OpenAIStub(dimensions=DIMENSIONS, faults=FAULTS, seed=JOBS) as provider:
        env = {
            "JOBSWORTH_HANDLERS": "tests.worker.memory.remembering",
            "JOBSWORTH_EMBEDDER_URL": provider.url,
            "JOBSWORTH_EMBEDDER_MODEL": "embed-1",
            "JOBSWORTH_EMBEDDER_DIMENSIONS": str(DIMENSIONS),
            "JOBSWORTH_EMBED_BATCH_MAX": "8",
        }
        doomed = workers.start(database_url, env)
        workers.start(database_url, env)
        await execute(conn, ENQUEUE, {"jobs": JOBS})
        for kill in range(1, KILLS + 1):
            share = JOBS * kill // (KILLS + 1)
            await until(partial(_stored, conn, share), 1200, f"{share} texts are embedded")
            doomed.kill()
            await execute(conn, END_LEASES)
            doomed = workers.start(database_url, env)
        await until(partial(_over, conn), 1200, "every job is done and every text embedded")
        workers.end()
        requests, bill = provider.requests, provider.bill

    jobs = await fetch_all(conn, STATUSES)
    assert Counter(row["status"] for row in jobs) == {"done": JOBS}
    stored = await fetch_all(conn, STORED)
    assert len(stored) == JOBS
    assert Counter(row["vectors"] for row in stored) == {1: JOBS}

    # What a killed daemon had on its way counts at its estimate an hour later.
    await execute(conn, AGE)
    await settlements.settle_abandoned(conn, 1000)
    calls = {row["request_id"]: row for row in await fetch_all(conn, CALLS)}
    sent = {one.headers["X-Request-Id"]: one.body["input"] for one in requests}
    assert len(sent) == len(requests)
    assert sent.keys() <= calls.keys()
    unsent = [calls[request]["status"] for request in calls.keys() - sent.keys()]
    assert set(unsent) <= {"unknown", "error"}
    assert len(unsent) <= KILLS * 4
    billed = {charge.request_id: charge.input_tokens for charge in bill}
    assert len(billed) == len(bill)
    for request_id, texts in sent.items():
        call, charge = calls[request_id], billed.get(request_id, 0)
        assert call["estimated_input_tokens"] == upper_tokens(texts)
        teams = {int(text.split()[-1]) for text in texts}
        assert [call["team_id"].int] == list(teams), "a request is of one team"
        assert (call["job_id"], call["scope"]) == (None, "proactive")
        if call["status"] == "unknown":
            assert charge <= call["input_tokens"] == call["estimated_input_tokens"]
        else:
            assert call["input_tokens"] == charge, call
    statuses = Counter(call["status"] for call in calls.values())
    spared = {"texts": JOBS, "requests": len(requests), "billed": len(bill), **statuses}
    print(f"{spared}, {sum(billed.values()):,} tokens billed, {KILLS} kills")
    assert len(bill) < len(requests)
    assert {"ok", "cut", "error", "unknown"} <= statuses.keys()
    assert await books.check(conn) == []
    assert await fetch_all(conn, VIOLATIONS) == []


async def _stored(conn: Connection, count: int) -> bool:
    query: LiteralString = "select count(*) from jobsworth.embeddings"
    return await fetch_val(conn, query) >= count


async def _over(conn: Connection) -> bool:
    query: LiteralString = "select count(*) from jobsworth.reactive_jobs where status <> 'done'"
    state = await outbox.counts(conn)
    return state.pending == state.dead == 0 == await fetch_val(conn, query)
