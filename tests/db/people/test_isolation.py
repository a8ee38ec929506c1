"""Who sees what: every table, view and function, tried as another team and as another session."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier

from db.conversations import messages, threads
from db.diagnosis import fitness
from db.errors import DatabaseError, InvalidInput, Refused
from db.people import roles, sessions, teams, users
from db.people.scope import scoped
from db.people.teams import Team
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob
from tests.db import rows
from tests.db.people import sweeping
from tests.db.people.sweeping import Place
from tests.support import connect

# Nobody's data, or what only a worker needs: no scoped role sees any of it.
CLOSED = {
    *("environments", "queues", "retention", "fair_keys", "fair_weights", "workers"),
    *("job_limits", "job_limit_rates", "embedding_spaces"),
    *roles.READ_BY_NOBODY,
}
# What people are and have is their team's, also within a session.
OF_THE_TEAM = {"teams", "users", "team_memberships", "agents", "projects"}

COUNT: LiteralString = "select count(*) from jobsworth.reactive_jobs"
HOT: tuple[LiteralString, ...] = (
    # What the claim, the finish and the enqueue do with the jobs.
    """select r.id from jobsworth.reactive_jobs r
    where r.status = 'queued' and r.queue = 'default' and r.priority = 3 and r.position > 0
      and r.mode = any('{a,b}') and jobsworth.may_start(r, 5, true, false)
    order by r.position limit 10 for no key update skip locked""",
    """update jobsworth.reactive_jobs j set status = 'running', attempt = j.attempt + 1
    where j.id = any(array['00000000-0000-0000-0000-000000000000'::uuid]) returning j.id""",
    "insert into jobsworth.reactive_jobs (mode) values ('a') returning id",
    """select m.text from jobsworth.chat_messages m
    where m.thread_id = '00000000-0000-0000-0000-000000000000' order by m.id desc limit 9""",
)


@pytest.fixture
async def conn(database: Database) -> AsyncGenerator[Connection]:
    """A connection to an installation with its roles."""
    async with database.connection() as connection:
        await roles.create(connection)
        yield connection


async def team_of(conn: Connection, name: str) -> Team:
    return await teams.save(conn, name, (await users.save(conn, name)).id)


def closed(conn: psycopg.Connection[DictRow], table: str, change: LiteralString) -> bool:
    """Whether a stranger still sees no canary of the table after a change of it."""
    with conn.transaction(force_rollback=True):
        conn.execute(SQL(change).format(Identifier(table)))
        return table not in sweeping.seen(conn, uuid4(), only=table)


async def test_no_team_and_no_session_sees_a_canary_of_another(
    database_url: str, conn: Connection
) -> None:
    """And a table whose policy is taken away is found, whichever it is."""
    mine, other = Place(), Place()
    with connect(database_url) as plain:
        sweeping.release(plain)
        for place in (mine, other):
            sweeping.put_canaries(plain, place)
        tables = set(sweeping.tables(plain))
        for stranger in (None, uuid4()):
            assert sweeping.seen(plain, stranger) == set()
        own = sweeping.seen(plain, mine.team)
        assert tables - own == CLOSED
        assert sweeping.seen(plain, mine.team, uuid4()) == OF_THE_TEAM
        within = sweeping.seen(plain, mine.team, mine.session)
        made_there = {"reactive_jobs", "runs", "chat_threads", "chat_messages", "steps"}
        made_there |= {"artifacts", "llm_calls", "token_ledger", "approvals", "memories"}
        assert made_there | {"embeddings", "embedding_outbox", "message_artifacts"} <= within
        told = sweeping.told(plain, mine.team, mine)
        assert {name.partition("(")[0] for name in told} >= {"jobsworth.why"}
        assert sweeping.told(plain, other.team, mine) == set()

        open_it: LiteralString = "alter table jobsworth.{} disable row level security"
        assert [t for t in tables - {*roles.READ_BY_NOBODY} if closed(plain, t, open_it)] == []
        plain.execute("drop policy in_scope on jobsworth.steps")
        assert sweeping.seen(plain, mine.team) & tables == (own & tables) - {"steps"}
        plain.execute("create table jobsworth.later as select * from jobsworth.signals")
        plain.execute("grant select on jobsworth.later to jobsworth_reader")
        assert sweeping.seen(plain, uuid4()) == {"later"}


@pytest.mark.both
async def test_a_scope_ends_with_its_transaction(conn: Connection) -> None:
    a, b = await team_of(conn, "a"), await team_of(conn, "b")
    session = (await sessions.create(conn, team_id=a.id)).id
    await jobs.enqueue(conn, "x", team_id=a.id, session_id=session)
    await jobs.enqueue(conn, "x", team_id=a.id)
    await jobs.enqueue(conn, "x", team_id=b.id)
    await jobs.enqueue(conn, "x")
    counts: list[int] = []
    for team, within in ((a.id, None), (a.id, session), (b.id, None), (b.id, session)):
        async with scoped(conn, team, within, role="jobsworth_reader"):
            counts.append(await fetch_val(conn, COUNT))
    assert counts == [2, 1, 1, 0]
    assert await fetch_val(conn, COUNT) == 4
    with pytest.raises(Refused, match="sees every row, whatever the team"):
        async with scoped(conn, a.id):
            raise AssertionError
    async with conn.transaction():
        with pytest.raises(InvalidInput, match="is in a transaction"):
            async with scoped(conn, a.id, role="jobsworth_reader"):
                raise AssertionError
    with pytest.raises(DatabaseError, match="invalid input syntax"):
        async with scoped(conn, "x' or true", role="jobsworth_reader"):  # pyright: ignore[reportArgumentType]
            await fetch_val(conn, COUNT)


async def test_the_api_writes_into_its_own_team_alone(conn: Connection) -> None:
    a, b = await team_of(conn, "a"), await team_of(conn, "b")
    theirs = await threads.get_or_create(conn, "x", "1", team_id=b.id)
    async with scoped(conn, a.id, role="jobsworth_api"):
        own = await threads.get_or_create(conn, "x", "1", team_id=a.id)
        await messages.insert(conn, own.id, messages.MessageRole.USER, "hello")
    say: LiteralString = """
    insert into jobsworth.chat_messages (team_id, thread_id, role, text)
    values (%(team)s, %(thread)s, 'user', 'not mine')
    """
    for team, thread in ((a.id, theirs.id), (b.id, theirs.id), (None, own.id), (b.id, own.id)):
        with pytest.raises(DatabaseError, match="row-level security"):
            async with scoped(conn, a.id, role="jobsworth_api"):
                await execute(conn, say, {"team": team, "thread": thread})
    async with scoped(conn, a.id, role="jobsworth_api"):
        change: LiteralString = "update jobsworth.chat_threads set title = 'mine'"
        assert await execute(conn, change) == 1
    assert await fetch_val(conn, "select count(*) from jobsworth.chat_messages") == 1


async def test_an_enqueuer_and_an_approver_may_do_nothing_else(conn: Connection) -> None:
    a, b = await team_of(conn, "a"), await team_of(conn, "b")
    submit: LiteralString = "select jobsworth.submit('answer', team_id => %(team)s::uuid)"
    theirs = (await threads.get_or_create(conn, "x", "1", team_id=b.id)).id
    async with scoped(conn, a.id, role="jobsworth_enqueuer"):
        job_id: UUID = await fetch_val(conn, submit, {"team": None})
    assert (await jobs.get_by_id(conn, job_id)).team_id == a.id
    into_theirs: LiteralString = "select jobsworth.submit('answer', thread_id => %(id)s::uuid)"
    refused: tuple[tuple[str, LiteralString, dict[str, UUID]], ...] = (
        ("jobsworth_enqueuer", submit, {"team": b.id}),
        ("jobsworth_enqueuer", into_theirs, {"id": theirs}),
        ("jobsworth_enqueuer", COUNT, {}),
        ("jobsworth_enqueuer", "select jobsworth.enqueue('answer')", {}),
        ("jobsworth_enqueuer", "select jobsworth.vote(%(id)s, 'x', 'x')", {"id": theirs}),
        ("jobsworth_approver", COUNT, {}),
        ("jobsworth_approver", submit, {"team": a.id}),
        ("jobsworth_reader", "update jobsworth.chat_threads set title = 'x'", {}),
        ("jobsworth_reader", "select jobsworth.see_all_rows('jobsworth_reader')", {}),
        ("jobsworth_api", "select hash from jobsworth.api_tokens", {}),
    )
    for role, statement, values in refused:
        with pytest.raises(DatabaseError, match="permission denied|is not of team|must be owner"):
            async with scoped(conn, a.id, role=role):
                await execute(conn, statement, values)
    parked = await rows.parked_job(conn)
    ask: LiteralString = """
    insert into jobsworth.approvals (job_id, effect_key, team_id, proposal_text, shown_hash)
    values (%(job)s, 'k', %(team)s, 'Ship it?', 'h') returning id
    """
    approval = await fetch_val(conn, ask, {"job": parked, "team": a.id})
    vote: LiteralString = "select accepted from jobsworth.vote(%(id)s, 'approve', 'ada')"
    with pytest.raises(Exception, match="there is no approval"):
        async with scoped(conn, b.id, role="jobsworth_approver"):
            await fetch_val(conn, vote, {"id": approval})
    async with scoped(conn, a.id, role="jobsworth_approver"):
        assert await fetch_val(conn, vote, {"id": approval})


async def test_a_workers_role_has_the_plans_of_a_superuser_and_every_row(conn: Connection) -> None:
    await jobs.enqueue(conn, "x", team_id=uuid4())
    plans: dict[str, list[list[list[str]]]] = {}
    for role in ("none", "jobsworth_daemon"):
        async with conn.transaction():
            await fetch_val(conn, "select set_config('role', %(role)s, true)", {"role": role})
            await execute(conn, "set local enable_seqscan = off")
            plans[role] = [
                [conditions(row["QUERY PLAN"]) for row in await fetch_all(conn, explained)]
                for explained in map(explain, HOT)
            ]
            assert await fetch_val(conn, COUNT) == 1
            if role != "none":
                # COPY is refused where a table has policies; the jobs come by another way.
                assert await enqueue_many(conn, [NewJob("y"), NewJob("z", priority=1)]) == 2
                missing = await fitness.missing_rights(conn)
                assert missing == []
    assert plans["none"] == plans["jobsworth_daemon"]
    assert "current_setting" not in str(plans)
    await execute(conn, 'drop policy "every row for jobsworth_daemon" on jobsworth.runs')
    async with conn.transaction():
        await execute(conn, "set local role jobsworth_daemon")
        [lacking] = await fitness.missing_rights(conn)
        assert "every row on table runs" in lacking.text


def conditions(line: str) -> list[str]:
    """A line of a plan, whatever the order in which it checks conditions of one cost."""
    return sorted(part.strip("() ") for part in line.split(" AND "))


def explain(statement: LiteralString) -> LiteralString:
    return "explain (costs off) " + statement
