"""What the pages show of limits, schedules, the database and one memory, and what is done there."""

from __future__ import annotations

from db.approvals import approvals
from db.diagnosis import upkeep_of_tables
from db.limits import job_limits
from db.memory import memories, status
from db.memory.memories import Text
from db.pool import Connection, Database, execute
from db.schedules import schedules
from db.schedules.schedules import NewSchedule
from tests.db.protocol import add, claim, register
from tests.worker.dashboard.hostile import EVIL, Page
from tests.worker.dashboard.site import browser, send, sent
from worker.cli.terminal import times


async def test_a_limit_shows_who_holds_it_and_takes_another_bound(
    database: Database, conn: Connection
) -> None:
    await job_limits.set_limit(conn, "crawl", mode="plan", per="key", slots=1)
    await job_limits.set_limit(conn, "starts", rate=3, per_seconds=60)
    wanted = [await add(conn, "plan", limit_key=key) for key in ("a", "a", EVIL[:40])]
    await claim(conn, await register(conn))
    async with browser(database) as client:
        page = Page((await client.get("/ui/system")).text)
        assert "mode plan, for each key" in page.words
        assert f"3 in {times.span(60)}" in page.words
        assert page.problems == []
        answer = await client.get("/ui/limits/crawl?key=a")
        page = Page(answer.text)
        assert page.problems == []
        assert f"/ui/jobs/{wanted[0]}" in page.links
        assert f"/ui/jobs/{wanted[1]}" not in page.links

        back = {"back": "/ui/limits/crawl"}
        for wrong in ("0", "-1", "many", "99999999999"):
            said = await sent(client, "/limits/crawl/change", {"bound": wrong} | back)
            assert "Nothing was changed" in said.text, wrong
        assert (
            "is 2 now" in (await sent(client, "/limits/crawl/change", {"bound": "2"} | back)).text
        )
        assert (
            "is 5 now" in (await sent(client, "/limits/starts/change", {"bound": "5"} | back)).text
        )
        found = {each.name: each for each in await job_limits.list_all(conn)}
        assert (found["crawl"].slots, found["crawl"].per) == (2, "key")
        assert (found["starts"].rate, found["starts"].per_seconds) == (5, 60)
        gone = await sent(client, "/limits/crawl/remove", back)
        assert gone.url.path == "/ui/system"
        assert (await client.get("/ui/limits/crawl")).status_code == 404
        assert (await send(client, "/limits/crawl/remove", back)).status_code == 404


async def test_the_times_of_schedules_before_and_after_now(
    database: Database, conn: Connection
) -> None:
    schedule_id = await schedules.add(conn, NewSchedule("morning", "greet", cron="0 8 * * *"))
    job_id = await add(conn, "plan")
    await execute(
        conn,
        """
        with handled as (
          update jobsworth.schedules set next_at = '2199-01-01 08:00+00' where id = %(id)s)
        insert into jobsworth.schedule_firings (schedule_id, at, outcome, job_id, reason)
        values (%(id)s, '2026-01-01 08:00+00', 'fired', %(job_id)s, %(evil)s)
        """,
        {"id": schedule_id, "job_id": job_id, "evil": EVIL},
    )
    async with browser(database) as client:
        answer = await client.get("/ui/system")
        page = Page(answer.text)
        assert page.problems == []
        assert "2199-01-04 08:00:00 UTC" in answer.text
        assert f"/ui/jobs/{job_id}" in page.links
        assert "<img src=x onerror=alert(1)>" in page.words


async def test_the_largest_tables_and_the_standbys(conn: Connection) -> None:
    await execute(conn, "analyze jobsworth.reactive_jobs")
    found = await upkeep_of_tables.largest_tables(conn, 3)
    assert len(found) == 3
    assert sorted((each.bytes for each in found), reverse=True) == [each.bytes for each in found]
    names = {each.name for each in await upkeep_of_tables.largest_tables(conn, 1_000)}
    assert {"reactive_jobs", "embeddings"} <= names
    assert not any(name.startswith("embeddings_") for name in names), "parts count for their whole"
    assert await upkeep_of_tables.standbys(conn) == []


async def test_a_memory_shows_its_evidence_and_is_taken_back(
    database: Database, conn: Connection
) -> None:
    old, new, other = await memories.put(
        conn, [Text(each, "note", EVIL) for each in ("Open at 9.", EVIL, "Ada likes tea.")]
    )
    await status.supersede(conn, old, new)
    async with browser(database) as client:
        listed = Page((await client.get("/ui/memory")).text)
        assert {f"/ui/memory/{each}" for each in (new, other)} <= set(listed.links)
        page = Page((await client.get(f"/ui/memory/{new}")).text)
        assert page.problems == []
        assert f"/ui/memory/{old}" in page.links
        assert "<img src=x onerror=alert(1)>" in page.words
        assert f"/ui/memory/{new}" in Page((await client.get(f"/ui/memory/{old}")).text).links

        back = {"back": f"/ui/memory/{other}"}
        said = await sent(client, f"/memory/{other}/retract", {"reason": "no more"} | back)
        assert "It is recalled no more" in said.text
        found = await status.get(conn, other)
        assert (found.status, found.status_reason) == ("retracted", "no more")
        assert "recalled again" in (await sent(client, f"/memory/{other}/restore", back)).text
        assert (await status.get(conn, other)).status == "active"
        late = await sent(client, f"/memory/{old}/restore", back)
        assert "Nothing was changed" in late.text
        assert (await client.get("/ui/memory/nothing")).status_code == 400
        nobody = "00000000-0000-7000-8000-000000000000"
        assert (await client.get(f"/ui/memory/{nobody}")).status_code == 404


async def test_an_approval_says_what_was_spent_before_it(
    database: Database, conn: Connection
) -> None:
    job_id = await add(conn, "plan")
    asked = await approvals.create(conn, "Go on?", job_id=job_id)
    await execute(
        conn,
        """
        insert into jobsworth.llm_calls (
          job_id, provider, model, status, request_id, cost, settled_at)
        select %(job_id)s, 'p', 'm', 'ok', coalesce(c.cost, 0)::text, c.cost, now()
        from unnest(array[0.25, null]::numeric[]) as c(cost)
        """,
        {"job_id": job_id},
    )
    async with browser(database) as client:
        page = Page((await client.get(f"/ui/approvals/{asked.id}")).text)
        assert "0.25+ USD" in page.words
        assert "2 model calls of its job" in page.words
