"""Teams, users, agents, projects, sessions, tokens: what is kept, and what is refused."""

from datetime import timedelta
from typing import LiteralString
from uuid import uuid4

import pytest

from db.conversations import messages, threads
from db.errors import Conflict, InvalidInput, JobsworthError, NotFound
from db.people import agents, projects, sessions, teams, tokens, users
from db.pool import Connection, execute, fetch_all, fetch_val
from db.queue import effects, jobs
from db.queue.effects import JobEffect, Origin
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob
from db.runs import runs
from db.runs.new_run import Node
from tests.db import rows

SIT_DOWN: LiteralString = "update jobsworth.chat_threads set session_id = %(session)s"
ENTER: LiteralString = """
update jobsworth.reactive_jobs set session_id = %(session)s where id = %(job)s
"""
MODES: LiteralString = "select mode, session_id from jobsworth.reactive_jobs order by mode"


async def test_a_team_has_its_owner_in_it_and_keeps_it(conn: Connection) -> None:
    ada = await users.save(conn, "telegram:4711", "Ada")
    assert await users.save(conn, "telegram:4711", metadata={"a": 1}) == await users.get(
        conn, "telegram:4711"
    )
    assert (await users.get(conn, ada.id)).name == "Ada"
    grace = await users.save(conn, "grace")
    team = await teams.save(conn, "research", ada.id)
    await teams.put_in(conn, team.id, grace.id, "viewer")
    assert [m.role for m in await teams.members(conn, team.id)] == ["owner", "viewer"]
    for change in (
        teams.put_in(conn, team.id, ada.id, "member"),
        teams.take_out(conn, team.id, ada.id),
    ):
        with pytest.raises(JobsworthError, match="owns the team") as refused:
            await change
        assert "another owner first" in refused.value.remedy
    with pytest.raises(InvalidInput, match="role 'boss' is unknown"):
        await teams.put_in(conn, team.id, grace.id, "boss")
    handed = await teams.save(conn, "research", grace.id)
    assert handed.id == team.id
    assert await teams.take_out(conn, team.id, ada.id)
    assert not await teams.take_out(conn, team.id, ada.id)
    assert [m.external_id for m in await teams.members(conn, team.id)] == ["grace"]
    await execute(conn, "delete from jobsworth.teams")
    assert await fetch_val(conn, "select count(*) from jobsworth.team_memberships") == 0


async def test_the_skills_in_effect_are_all_but_the_disabled_ones(conn: Connection) -> None:
    made = await agents.save(
        conn,
        "writer",
        model="openai:gpt-5-mini",
        skills_shared=["search", "deploy"],
        skills_private=["verse", "search"],
        skills_disabled=["deploy", "unknown"],
        half_life_seconds=86_400,
    )
    assert made.skills == ["search", "verse"]
    changed = await agents.save(conn, "writer", skills_disabled=[], model=None)
    assert (changed.id, changed.model, changed.half_life_seconds) == (made.id, None, 86_400)
    assert changed.skills == ["deploy", "search", "verse"]
    for ways, message in (
        ({"skills_private": "verse"}, "is not a text"),
        ({"recency_weight": float("nan")}, "recency_weight_is_0_to_1000"),
        ({"half_life_seconds": 0}, "half_life_seconds_is_1_to_100_years"),
        ({"colour": "red"}, "no option 'colour'"),
    ):
        with pytest.raises(JobsworthError, match=message):
            await agents.save(conn, "writer", **ways)  # pyright: ignore[reportArgumentType]


async def test_a_session_is_made_closed_and_resumed(conn: Connection) -> None:
    ada = await users.save(conn, "ada")
    team = await teams.save(conn, "research", ada.id)
    launch = await projects.save(conn, "launch", team.id, "To the moon.")
    again = await projects.save(conn, "launch", team.id)
    assert (again.id, again.description) == (launch.id, "To the moon.")
    made = await sessions.create(conn, team_id=team.id, project_id=launch.id, user_id=ada.id)
    assert (await sessions.close(conn, made.id)).status == "closed"
    with pytest.raises(Conflict, match="is closed"):
        await sessions.close(conn, made.id)
    resumed = await sessions.resume(conn, made.id)
    assert (resumed.status, resumed.closed_at) == ("open", None)
    await jobs.enqueue(conn, "answer", session_id=made.id)
    assert (await sessions.get(conn, made.id)).last_active_at > resumed.last_active_at
    assert [s.id for s in await sessions.list_sessions(conn, project_id=launch.id)] == [made.id]
    for missing in (
        sessions.resume(conn, uuid4()),
        sessions.close(conn, uuid4()),
        projects.get(conn, "x"),
        teams.get(conn, "x"),
        users.get(conn, "x"),
        agents.get(conn, "x"),
    ):
        with pytest.raises(NotFound, match="there is no"):
            await missing


async def test_what_a_job_makes_belongs_to_its_session(conn: Connection) -> None:
    """By every way in which a job is made."""
    session = (await sessions.create(conn)).id
    await jobs.enqueue(conn, "a", session_id=session)
    await enqueue_many(conn, [NewJob("b", session_id=session)])
    await enqueue_many(conn, [NewJob("c", session_id=session, delay=1)])
    thread = await threads.get_or_create(conn, "x", "1")
    await execute(conn, SIT_DOWN, {"session": session})
    await messages.receive(conn, thread.id, "hello", "d")
    await runs.start(conn, [Node("n", "e")], session_id=session)
    lease = await rows.running_job(conn)
    await execute(conn, ENTER, {"job": lease.job_id, "session": session})
    origin = Origin(lease.job_id)
    await effects.write(
        conn, [(origin, JobEffect("f", "f")), (origin, JobEffect("g", "g", is_child=True))]
    )
    found = await fetch_all(conn, MODES)
    assert [(row["mode"], row["session_id"]) for row in found] == [
        *((mode, session) for mode in ("a", "answer", *"bcdefg")),
    ]


async def test_a_token_is_kept_as_its_hash_alone(conn: Connection) -> None:
    issued = await tokens.issue(conn, "ci", ["jobs:read"], expires_in=timedelta(hours=1))
    row = await fetch_val(conn, "select k::text from jobsworth.api_tokens k")
    assert issued.text not in row
    assert issued.text.removeprefix(tokens.PREFIX) not in row
    used = await tokens.use(conn, issued.text, "jobs:read")
    assert (used.id, used.last_used_at) == (issued.token.id, None)
    [after] = await tokens.list_tokens(conn)
    assert after.last_used_at is not None
    with pytest.raises(JobsworthError, match="is not for 'jobs:write'"):
        await tokens.use(conn, issued.text, "jobs:write")
    with pytest.raises(NotFound, match="no such token"):
        await tokens.use(conn, issued.text[:-1], "jobs:read")
    await execute(conn, "update jobsworth.api_tokens set expires_at = now() - interval '1 second'")
    with pytest.raises(JobsworthError, match="token ci is expired"):
        await tokens.use(conn, issued.text, "jobs:read")
    await tokens.revoke(conn, issued.token.id)
    with pytest.raises(JobsworthError, match="token ci is revoked"):
        await tokens.use(conn, issued.text, "jobs:read")
    for scopes, expires_in, message in (
        ([], None, "is not a list of scopes"),
        ("all", None, "is not a list of scopes"),
        (["*"], timedelta(0), "is not positive"),
    ):
        with pytest.raises(InvalidInput, match=message):
            await tokens.issue(conn, "x", scopes, expires_in=expires_in)
    every = await tokens.issue(conn, "all", ["*"])
    assert (await tokens.use(conn, every.text, "anything")).name == "all"
