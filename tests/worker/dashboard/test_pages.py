"""The pages before a real database, called without a network."""

from __future__ import annotations

import re

from db.approvals import approvals
from db.people import tokens
from db.pool import Connection, Database
from db.queue import jobs
from tests.db import rows as jobs_in_a_state
from tests.worker.dashboard.hostile import Page, fill
from tests.worker.dashboard.site import ORIGIN, browser, send

PAGES = (
    *(
        "",
        "/jobs",
        "/jobs?status=failed",
        "/jobs?error=img",
        "/jobs/bulk?do=retry&error=img",
        "/approvals",
        "/approvals?show=all",
    ),
    *("/runs", "/spend", "/spend?by=provider", "/deployments", "/memory", "/memory?q=evil"),
    *("/threads", "/people", "/system", "?span=week"),
)


async def test_what_models_and_users_write_is_text_on_every_page(
    database: Database, conn: Connection
) -> None:
    rows = await fill(conn)
    shown, marked = 0, 0
    async with browser(database) as client:
        for path in (
            *PAGES,
            f"/jobs/{rows.job_id}",
            f"/approvals/{rows.approval_id}",
            f"/runs/{rows.run_id}",
            f"/runs/{rows.run_id}/fork?node=one",
            f"/threads/{rows.thread_id}",
            "/jobs/nothing%3Cimg%3E",
        ):
            answer = await client.get(f"/ui{path}")
            assert answer.status_code == (400 if "nothing" in path else 200), (path, answer.text)
            page = Page(answer.text)
            assert page.problems == [], path
            shown += "<img src=x onerror=alert(1)>" in page.words
            marked += "⟨U+202E⟩" in page.words
            policy = answer.headers["content-security-policy"]
            assert "unsafe" not in policy
            nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
            assert nonce is not None
            assert f'nonce="{nonce[1]}"' in answer.text
        assert shown >= 12, "the hostile text is to be read"
        assert marked >= 8, "its hidden characters are shown by their numbers"

        assert (await client.get("/")).headers["location"] == "/ui"
        file = await client.get(f"/ui/artifacts/{rows.artifact_id}")
        assert file.headers["content-disposition"].startswith("attachment")
        assert file.headers["x-content-type-options"] == "nosniff"
        assert file.headers["content-type"] == "application/octet-stream"
        listed = await client.get("/ui/spend?by=provider&as=csv")
        assert listed.headers["content-type"].startswith("text/csv")


async def test_a_form_counts_only_from_our_own_page(database: Database, conn: Connection) -> None:
    job_id = (await jobs.enqueue(conn, "greet", {"name": "Ada"})).job_id
    path = f"/jobs/{job_id}/cancel"
    async with browser(database) as client:
        page = await client.get(f"/ui/jobs/{job_id}")
        assert "no worker" in page.text
        for form, origin in (("x" * 32, ORIGIN), (None, "http://evil.example"), (None, None)):
            fields = {} if form is None else {"form": form}
            assert (await send(client, path, fields, origin)).status_code in (401, 403, 303)
        assert (await jobs.get_by_id(conn, job_id)).status == "queued"

        done = await send(client, path, {"back": f"/ui/jobs/{job_id}?a=b"})
        assert (done.status_code, done.headers["location"]) == (303, f"/ui/jobs/{job_id}?a=b")
        assert (await jobs.get_by_id(conn, job_id)).status == "canceled"
        assert "is canceled" in (await client.get(done.headers["location"])).text
        assert "is canceled, or" not in (await client.get(f"/ui/jobs/{job_id}")).text, "said once"
        away = await send(client, f"/jobs/{job_id}/retry", {"back": "//evil.example/ui"})
        assert away.headers["location"] == "/ui"
        assert (await jobs.get_by_id(conn, job_id)).status == "queued"
        again = await send(client, f"/jobs/{job_id}/retry", {"back": "/ui/jobs"})
        assert "Nothing was changed" in (await client.get(again.headers["location"])).text


async def test_a_yes_is_for_what_was_shown_and_an_answer_that_comes_late_says_so(
    database: Database, conn: Connection
) -> None:
    job_id = await jobs_in_a_state.parked_job(conn)
    asked = await approvals.create(conn, "Really?", job_id=job_id, shown={"to": "Ada"})
    path = f"/approvals/{asked.id}/decide"
    async with browser(database) as client:
        page = (await client.get(f"/ui/approvals/{asked.id}")).text
        assert "&#34;to&#34;: &#34;Ada&#34;" in page
        assert asked.shown_hash in page

        old = await send(client, path, {"option": "approve", "seen": "0" * 64})
        assert "has changed" in (await client.get(old.headers["location"])).text
        assert await approvals.check_status(conn, asked.id) == "pending"

        yes = {"option": "approve", "seen": asked.shown_hash, "comment": "go ahead"}
        await send(client, path, yes)
        decided = await approvals.get_by_id(conn, asked.id)
        assert (decided.status, decided.comment) == ("approved", "go ahead")
        assert (decided.decided_by, decided.channel) == ("local", "dashboard")
        assert (await jobs.get_by_id(conn, job_id)).status == "queued"

        # A no counts until the yes is spent; a yes after it does not.
        await send(client, path, {"option": "reject"})
        late = await send(client, path, yes)
        assert "came too late" in (await client.get(late.headers["location"])).text
        assert await approvals.check_status(conn, asked.id) == "rejected"


async def test_a_token_signs_in_and_the_filters_stay_in_the_address(
    database: Database, conn: Connection
) -> None:
    wanted = [(await jobs.enqueue(conn, "greet", {"n": n})).job_id for n in range(2)]
    text = (await tokens.issue(conn, "reader", ["jobs:read"])).text
    async with browser(database) as client:
        away = await client.get("/ui/jobs?mode=greet")
        assert away.headers["location"] == "/ui/login?back=%2Fui%2Fjobs%3Fmode%3Dgreet"
        await client.get("/ui/login")
        wrong = await send(client, "/login", {"token": "nonsense"})
        assert wrong.headers["location"] == "/ui/login"
        done = await send(client, "/login", {"token": text, "back": "/ui/jobs?mode=greet"})
        assert done.headers["location"] == "/ui/jobs?mode=greet"
        page = await client.get("/ui/jobs?mode=greet&payload=%7B%22n%22%3A1%7D")
        assert str(wanted[1]) in page.text
        assert str(wanted[0]) not in page.text
        tabs = [link for link in Page(page.text).links if "status=" in link]
        assert len(tabs) == 6
        assert all("mode=greet" in link and "payload=" in link for link in tabs)
        assert "<button" not in (await client.get(f"/ui/jobs/{wanted[0]}")).text.split("<dialog")[
            0
        ].replace("Sign out", "").replace('<button class="plain">', "")
        refused = await send(client, f"/jobs/{wanted[0]}/cancel", {})
        assert refused.status_code == 403
        assert (await client.get("/ui/spend")).status_code == 403
        out = await send(client, "/logout", {})
        assert out.headers["location"] == "/ui/login"
        assert (await client.get("/ui")).status_code == 303
