"""What people do on the pages, and what comes of it in the database."""

from __future__ import annotations

from db.bulk.filters import MODE
from db.people import agents, teams, tokens, users
from db.pool import Connection, Database
from db.queue import jobs
from tests.worker.dashboard.hostile import Page
from tests.worker.dashboard.site import browser, send, sent


async def test_an_operation_on_all_that_match_is_shown_first_and_can_be_undone(
    database: Database, conn: Connection
) -> None:
    agent = await agents.save(conn, "ada")
    wanted = [
        (await jobs.enqueue(conn, "greet", {"n": n}, agent_id=agent.id)).job_id for n in range(3)
    ]
    other = (await jobs.enqueue(conn, "greet", {"n": 9})).job_id
    async with browser(database) as client:
        listed = (await client.get("/ui/jobs?agent=ada&mode=greet&until=2999-01-01")).text
        assert all(str(each) in listed for each in wanted)
        assert str(other) not in listed
        assert '<input type="hidden" name="agent" value="ada">' in listed
        assert "no agent is called" in (await client.get("/ui/jobs?agent=eve")).text
        preview = await client.get("/ui/jobs/bulk?agent=ada&mode=greet&do=cancel")
        assert "3 jobs would be canceled" in preview.text
        assert "/ui/jobs?mode=greet&agent=ada" in Page(preview.text).links or (
            "/ui/jobs?agent=ada&mode=greet" in Page(preview.text).links
        )
        # Without a filter nothing is done, and with an unknown operation neither.
        assert (await client.get("/ui/jobs/bulk?do=cancel")).status_code == 400
        assert (await client.get("/ui/jobs/bulk?mode=greet&do=drop")).status_code == 400
        nothing = await sent(client, "/jobs/bulk", {"do": "cancel", "back": "/ui/jobs"})
        assert "Nothing was changed" in nothing.text

        filters = {"agent": "ada", "mode": "greet"}
        page = await sent(client, "/jobs/bulk", {"do": "cancel"} | filters)
        [made] = [job for job in await jobs.list_jobs(conn) if job.mode == MODE]
        assert str(page.url).endswith(f"/ui/jobs/{made.id}")
        assert (made.status, made.payload["expected"]) == ("waiting", 3)
        assert "0 <span" in page.text
        assert "can be undone until then" in page.text
        back = [link for link in Page(page.text).links if "agent_id" in link or "agent=" in link]
        assert back == [f"/ui/jobs?mode=greet&agent={agent.id}"], "the filter outlives the action"

        undone = await sent(client, f"/jobs/{made.id}/undo", {"back": f"/ui/jobs/{made.id}"})
        assert "no job was touched" in undone.text
        assert (await jobs.get_by_id(conn, made.id)).status == "canceled"
        assert {job.status for job in await jobs.list_jobs(conn, mode="greet")} == {"queued"}

        # A team's operation is for its own jobs, though its filter would match others too.
        team = await teams.save(conn, "ours", (await users.save(conn, "boss")).id)
        ours = await jobs.enqueue(conn, "greet", {"n": 1}, team_id=team.id)
        text = (await tokens.issue(conn, "clerk", ["*"], team_id=team.id)).text
        await send(client, "/login", {"token": text})
        mine = await sent(client, "/jobs/bulk", {"do": "cancel", "mode": "greet"})
        assert "Cancel: 1 job." in mine.text
        [made] = await jobs.list_jobs(conn, mode=MODE, limit=1)
        assert made.team_id == team.id
        assert made.payload["filter"]["team_id"] == str(team.id)
        assert (await jobs.get_by_id(conn, ours.job_id)).status == "queued"
