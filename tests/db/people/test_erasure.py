"""Erasure: no column of the catalogue has anything of a person left, and the books still add up."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import uuid4

import anyio
import pytest

from db.conversations import messages, threads
from db.conversations.messages import MessageRole
from db.diagnosis import violations
from db.errors import Conflict, InvalidInput, NotFound, Refused
from db.people import erasure, roles, sessions, teams
from db.people.erasure import Trace
from db.people.scope import scoped
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs
from tests.db import rows
from tests.db.people import leavings, sweeping
from tests.db.people.sweeping import Place
from tests.support import connect, until

# The words of the canary that stay: names of the program's things, in the books and nobody's rows.
STAYING = {
    *("agents.", "projects.", "teams.", "workers."),
    *("llm_calls.", "token_ledger.", "ledger_days.", "deployments."),
    *("queues.", "fair_weights.", "fair_keys.queue", "job_limits.", "job_limit_rates.limit_name"),
    "embedding_spaces.",
}
# What a dropped rule would leave behind: one of each kind of column.
FORGOTTEN = ("memories", "steps", "artifacts", "webhook_outbox", "sessions")
FORGET: LiteralString = """
create or replace function jobsworth.stays(table_name text) returns boolean language sql immutable
  return table_name in ('llm_calls', 'token_ledger', 'call_windows', 'deployments',
    'schedule_firings', 'memories', 'steps', 'artifacts', 'webhook_outbox', 'sessions')
"""
SPARE: LiteralString = """
create function jobsworth.spare() returns trigger language plpgsql as 'begin return null; end';
create trigger spare before delete on jobsworth.embeddings
  for each row execute function jobsworth.spare()
"""
LEDGER: LiteralString = "select sum(cost), sum(input_tokens), count(*) from jobsworth.token_ledger"
VOTERS: LiteralString = """
select array_agg(d.decided_by::text order by d.decided_by) from jobsworth.approval_decisions d
"""
COUNTS: LiteralString = """
select json_build_object(
  'threads', (select count(*) from jobsworth.chat_threads),
  'messages', (select count(*) from jobsworth.chat_messages),
  'jobs', (select count(*) from jobsworth.reactive_jobs),
  'steps', (select count(*) from jobsworth.steps),
  'memories', (select count(*) from jobsworth.memories),
  'past vectors', (select count(*) from jobsworth.past_embeddings),
  'waiting texts', (select count(*) from jobsworth.embedding_outbox),
  'runs', (select count(*) from jobsworth.runs),
  'approvals', (select count(*) from jobsworth.approvals),
  'votes', (select count(*) from jobsworth.approval_decisions),
  'call texts', (select count(*) from jobsworth.call_texts),
  'users', (select count(*) from jobsworth.users))
"""


async def test_no_column_of_the_catalogue_keeps_a_canary(
    database_url: str, conn: Connection
) -> None:
    """A new table that has words, and that no rule reaches, is found here."""
    mine, other = Place(), Place()
    with connect(database_url) as plain:
        sweeping.release(plain)
        for place in (mine, other):
            sweeping.put_canaries(plain, place)
        plain.execute("delete from jobsworth.unproven_erasures")  # or it would go on with that
        plain.execute("update jobsworth.teams set owner_id = %s", [uuid4()])
        before = sweeping.with_text(plain, other)
        await erasure.erase(conn, "user", mine.row)
        left = sweeping.with_text(plain, mine)
        assert {c for c in left if not c.startswith(tuple(STAYING))} == set()
        words = {"llm_calls.error", "llm_calls.step_name", "deployments.report_text"}
        assert left & {*words, "llm_calls.request_id", "deployments.probe"} == set()
        assert sweeping.with_text(plain, other) == before


async def test_a_rule_that_is_dropped_is_found_by_the_proof(
    database_url: str, conn: Connection
) -> None:
    mine = Place()
    with connect(database_url) as plain:
        sweeping.release(plain)
        sweeping.put_canaries(plain, mine)
        plain.execute("delete from jobsworth.unproven_erasures")
        plain.execute("update jobsworth.teams set owner_id = %s", [uuid4()])
        plain.execute(FORGET)
        plain.execute(SPARE)
        done = await erasure.erase(conn, "user", mine.row)
    found = {trace.table_name for trace in done.proof.traces}
    assert {*FORGOTTEN, "embeddings"} <= found
    named = {f"{trace.table_name}.{trace.column_name}" for trace in done.proof.traces}
    assert {"memories.text", "artifacts.content", "sessions.title"} <= named


async def test_a_person_leaves_with_all_that_came_of_them_and_the_books_stay(
    conn: Connection,
) -> None:
    ada = await leavings.live(conn, "ada:4711", "[1,0,0]")
    bob = await leavings.live(conn, "bob:4712", "[0,1,0]")
    theirs = "select a.id from jobsworth.approvals a where a.job_id = %(job)s"
    approval = await fetch_val(conn, theirs, {"job": bob.job})
    await execute(conn, leavings.DECISION, {"approval": approval, "name": "ADA:4711"})
    ledger = await fetch_all(conn, LEDGER)
    planned = {one.table_name: one for one in await erasure.plan(conn, "user", ada.user)}
    before = await fetch_val(conn, COUNTS)
    assert (planned["chat_messages"].rows, planned["memories"].rows) == (2, 3)
    assert (planned["past_embeddings"].rows, planned["embedding_outbox"].rows) == (1, 3)
    assert planned["llm_calls"].stays

    done = await erasure.erase(conn, "user", ada.user)
    assert done.proof.traces == []
    assert done.proof.fragments > 10
    assert {one.table_name: one.rows for one in planned.values() if not one.stays} == done.removed
    assert await fetch_all(conn, LEDGER) == ledger
    after = await fetch_val(conn, COUNTS)
    half = {name: count // 2 for name, count in before.items()}
    assert after == {**half, "votes": 2, "call texts": 2}
    assert await fetch_val(conn, VOTERS) == ["bob:4712", "erased"]
    broken = {one.invariant for one in await violations.list_violations(conn)}
    assert broken <= {"superseded without its successor"}  # as the leavings have it
    with pytest.raises(NotFound, match="there is no user"):
        await erasure.erase(conn, "user", ada.user)

    # Somebody else wrote the words down.
    elsewhere = await threads.get_or_create(conn, "x", "7", title=f"I heard: {bob.words}")
    done = await erasure.erase(conn, "thread", bob.thread)
    [trace] = done.proof.traces
    assert trace == Trace(
        table_name="chat_threads", column_name="title", rows=1, keys=[str(elsewhere.id)]
    )
    left = {"threads": 1, "messages": 0, "jobs": 0, "steps": 0, "memories": 0, "runs": 0}
    left |= {"past vectors": 0, "waiting texts": 0}
    more = {"approvals": 0, "votes": 0, "call texts": 0, "users": 1}
    assert await fetch_val(conn, COUNTS) == {**left, **more}


async def test_what_is_written_meanwhile_leaves_too_or_is_refused(
    database: Database, conn: Connection
) -> None:
    ada = await leavings.live(conn, "ada:4711", "[1,0,0]")
    say: LiteralString = """
    insert into jobsworth.chat_messages (thread_id, role, text) values (%(thread)s, 'user', 'more')
    """
    thread = {"thread": ada.thread}
    results: list[Any] = []

    async def erase(on: Connection) -> None:
        results.append(await erasure.erase(on, "user", ada.user))

    async with (
        database.connection() as writer,
        database.connection() as late,
        database.connection() as eraser,
        anyio.create_task_group() as tasks,
    ):
        await execute(writer, "begin")
        await execute(writer, say, thread)  # holds its thread
        await execute(late, "begin")
        await fetch_val(late, leavings.JOB, {**thread, "words": "a wish that comes late"})
        tasks.start_soon(erase, eraser)
        await until(lambda: rows.is_blocked(database, eraser))
        await execute(writer, "commit")
        gone = "select not exists (select 1 from jobsworth.users)"
        await until(lambda: database.fetch_val(gone))
        assert results == []  # It waits for the late one.
        with pytest.raises(NotFound, match="there is no thread"):
            await messages.insert(conn, ada.thread, MessageRole.USER, "after it")
        await execute(late, "commit")
    [done] = results
    assert done.late == 1
    assert done.removed["chat_messages"] == 3
    assert done.proof.traces == []
    assert await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs") == 0


async def test_what_cannot_leave_now_is_refused(conn: Connection) -> None:
    ada = await leavings.live(conn, "ada:4711", "[1,0,0]")
    nobody = uuid4()
    for of, which, error, words in (
        ("user", nobody, NotFound, "there is no user .* and nothing that names it"),
        ("thread", ada.user, NotFound, "there is no thread .*: the id is of something else"),
        ("agent", ada.user, InvalidInput, "not user, thread or session"),
    ):
        with pytest.raises(error, match=words):
            await erasure.erase(conn, of, which)  # pyright: ignore[reportArgumentType]
    team = await teams.save(conn, "research", ada.user)
    with pytest.raises(Conflict, match="owns team research .*another owner"):
        await erasure.erase(conn, "user", ada.user)
    session = (await sessions.create(conn, team_id=team.id)).id
    job = (await jobs.enqueue(conn, "answer", session_id=session)).job_id
    await rows.take(conn, job)
    with pytest.raises(Conflict, match=f"job {job} is running.*jobsworth job cancel {job}"):
        await erasure.erase(conn, "session", session)
    await rows.end(conn, job)
    await roles.create(conn)
    with pytest.raises(Refused, match="does not see every row"):
        async with scoped(conn, team.id, role="jobsworth_reader"):
            await erasure.plan(conn, "session", session)
    await execute(conn, "update jobsworth.sessions set title = 'a sitting about nothing'")
    done = await erasure.erase(conn, "session", session)
    assert (done.removed, done.proof.traces) == ({"reactive_jobs": 1, "sessions": 1}, [])
