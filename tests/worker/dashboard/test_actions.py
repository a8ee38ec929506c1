"""What people do on the pages, and what comes of it in the database."""

from __future__ import annotations

import json

from db.approvals import approvals
from db.bulk.filters import MODE
from db.deployments import deployments
from db.deployments.deployments import DeploymentStatus
from db.people import agents, sessions, teams, tokens, users
from db.pool import Connection, Database, fetch_val
from db.queue import jobs
from tests.db import rows as jobs_in_a_state
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


async def test_an_edited_payload_is_retried_and_an_edited_document_approved(
    database: Database, conn: Connection
) -> None:
    failed = (await jobs.enqueue(conn, "greet", {"name": "Ada"})).job_id
    secret = (await jobs.enqueue(conn, "greet", {"key": "sk-" + "a1B2" * 12})).job_id
    for each in (failed, secret):
        await jobs.cancel(conn, each)
    waits = await jobs_in_a_state.parked_job(conn)
    asked = await approvals.create(
        conn, "Send it?", job_id=waits, shown={"to": "Ada"}, editable=True
    )
    async with browser(database) as client:
        page = (await client.get(f"/ui/jobs/{failed}")).text
        assert "&#34;name&#34;: &#34;Ada&#34;\n}</textarea>" in page
        held_back = (await client.get(f"/ui/jobs/{secret}")).text
        assert "<textarea" not in held_back, "stars would replace the secret"
        back = {"back": f"/ui/jobs/{failed}"}
        wrong = await sent(client, f"/jobs/{failed}/retry", {"payload": '{"name": '} | back)
        assert "the payload is not JSON" in wrong.text
        await sent(client, f"/jobs/{failed}/retry", {"payload": '{"name": "Eve"}'} | back)
        found = await jobs.get_by_id(conn, failed)
        assert (found.status, found.payload) == ("queued", {"name": "Eve"})
        late = await sent(client, f"/jobs/{failed}/retry", {"payload": '{"name": "Bob"}'} | back)
        assert "Nothing was changed" in late.text
        assert (await jobs.get_by_id(conn, failed)).payload == {"name": "Eve"}

        page = (await client.get(f"/ui/approvals/{asked.id}")).text
        assert "Approve this version" in page
        fields = {"edit": "approve", "edited": '{"to": "Eve"}', "comment": "to Eve instead"}
        path = f"/approvals/{asked.id}/decide"
        old = await sent(client, path, fields | {"seen": "0" * 64, "back": "/ui/approvals"})
        assert "has changed" in old.text
        await sent(client, path, fields | {"seen": asked.shown_hash})
        decided = await approvals.get_by_id(conn, asked.id)
        assert (decided.status, decided.document) == ("approved", {"to": "Eve"})
        assert decided.comment == "to Eve instead"


async def test_a_message_is_said_once_with_its_job(database: Database, conn: Connection) -> None:
    async with browser(database) as client:
        await client.get("/ui/threads")
        said = {"key": "a" * 16, "mode": "answer", "text": "Hello", "title": "Greetings"}
        page = await sent(client, "/threads", said)
        again = await sent(client, "/threads", said)
        assert page.url == again.url
        assert "Greetings" in page.text
        [job] = await jobs.list_jobs(conn)
        assert (job.mode, str(job.thread_id)) == ("answer", page.url.path.rpartition("/")[2])
        more = {"key": "b" * 16, "mode": "answer", "text": "Are you there?"}
        for _ in range(2):
            await sent(client, f"/threads/{job.thread_id}/say", more)
        assert len(await jobs.list_jobs(conn)) == 2
        listed = await client.get(f"/ui/threads/{job.thread_id}")
        assert listed.text.count("Are you there?") == 1
        assert "<option>answer</option><option>classify" in listed.text
        empty = {"key": "c" * 16, "mode": "answer", "text": " "}
        back = {"back": "/ui/threads"}
        assert (
            "no message" in (await sent(client, f"/threads/{job.thread_id}/say", empty | back)).text
        )


async def test_a_fork_shows_what_it_reads_and_then_is_made(
    database: Database, conn: Connection
) -> None:
    nodes = [
        {"node": "one", "mode": "greet", "payload": {"name": "Ada"}},
        {"node": "two", "mode": "greet", "after": ["one"]},
    ]
    started = "select jobsworth.start_run(%(nodes)s::jsonb)"
    run_id = await fetch_val(conn, started, {"nodes": json.dumps(nodes)})
    async with browser(database) as client:
        page = await client.get(f"/ui/runs/{run_id}")
        assert page.text.count('class="g-box"') == 2
        assert page.text.count('class="g-line"') == 1
        assert f"/ui/runs/{run_id}/fork?node=two" in Page(page.text).links
        assert (await client.get(f"/ui/runs/{run_id}/fork")).status_code == 400
        plan = await client.get(f"/ui/runs/{run_id}/fork?node=one")
        assert "forks here" in plan.text
        assert "runs again, after it" in plan.text
        fields = {"node": "one", "changes": '{"name": "Eve"}'}
        branch = await sent(client, f"/runs/{run_id}/fork", fields)
        assert "Forked off" in branch.text
        assert str(run_id) in branch.text
        newest = (await jobs.list_jobs(conn, limit=2))[::-1]
        assert newest[0].payload == {"name": "Eve"}


async def test_people_and_deployments(database: Database, conn: Connection) -> None:
    agent = await agents.save(conn, "ada", personality="You are brief.")
    session = await sessions.create(conn, title="Report", agent_id=agent.id)
    sha = {name: name * 8 for name in ("0a1b2c3d", "4e5f6a7b")}
    for each in sha.values():
        made = await deployments.create(conn, environment="staging", sha=each)
        for status in ("deploying", "healthy"):
            await deployments.update_status(
                conn, made.id, DeploymentStatus(status), probe={"passed": True}
            )
    async with browser(database) as client:
        page = await client.get("/ui/deployments")
        assert "Roll back staging" in page.text
        job = await sent(client, "/deployments/rollback", {"environment": "staging"})
        assert "back to 0a1b2c3d0a1b" in job.text
        await sent(client, "/deployments/deploy", {"environment": "staging", "commit": "main"})
        found = [each.payload for each in await jobs.list_jobs(conn, mode="deploy")]
        assert found[0] == {"environment": "staging", "sha": "main"}
        assert set(found[1]) == {"environment", "rollback_to"}
        nowhere = await send(client, "/deployments/rollback", {"environment": "mars"})
        assert nowhere.status_code == 404
        assert "nothing was ever healthy" in nowhere.text

        page = await client.get("/ui/people")
        assert "You are brief." in page.text
        back = {"back": "/ui/people"}
        closed = await sent(client, f"/people/sessions/{session.id}/close", back)
        assert "The session is closed" in closed.text
        issued = await tokens.issue(conn, "old", ["*"])
        token = await tokens.issue(conn, "boss", ["*"])
        await send(client, "/login", {"token": token.text})
        gone = await sent(client, f"/people/tokens/{issued.token.id}/revoke", back)
        assert "Token old lets nobody in" in gone.text
        assert token.text not in gone.text
        clerk = await tokens.issue(conn, "clerk", ["agents:read"])
        await send(client, "/login", {"token": clerk.text})
        assert "may not see tokens" in (await client.get("/ui/people")).text
        path = f"/people/tokens/{token.token.id}/revoke"
        assert (await send(client, path, back)).status_code == 403
