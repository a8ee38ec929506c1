"""Who is let in, what bounds a request, and how a mistake is answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from db.people import tokens, users
from db.pool import Database
from db.runs import runs
from tests.worker.api.site import check_problem, client_of, site
from worker.api import bounds
from worker.web.face import app_for

pytestmark = pytest.mark.anyio

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


async def test_without_a_token_only_this_machine_is_answered(database: Database) -> None:
    app = app_for(database)
    async with client_of(app) as here, client_of(app, "192.0.2.7") as there:
        assert (await here.get("/jobs")).json()["items"] == []
        refused = [
            await there.get("/jobs"),
            # Through a proxy, from a page of another site, and by another site's name.
            await here.get("/jobs", headers={"x-forwarded-for": "192.0.2.7"}),
            await here.get("/jobs", headers={"origin": "http://evil.example"}),
            await here.get("/jobs", headers={"host": "evil.example"}),
        ]
        for answer in refused:
            assert answer.status_code == 401
            assert "jobsworth token issue" in check_problem(answer)["remedy"]
        async with database.connection() as conn:
            issued = await tokens.issue(conn, "one", ["jobs:read"])
        assert (await here.get("/jobs")).status_code == 401
        # A token that was revoked leaves the door shut.
        async with database.connection() as conn:
            await tokens.revoke(conn, issued.token.id)
        assert (await here.get("/jobs")).status_code == 401


async def test_a_token_is_for_its_scopes_and_its_actor(database: Database) -> None:
    async with database.connection() as conn:
        ann = await users.save(conn, "ann")
        reader = await tokens.issue(conn, "reader", ["jobs:read", "runs:read"], user_id=ann.id)
        any_run = await tokens.issue(conn, "any", ["runs:read", "runs:any"], user_id=ann.id)
        late = await tokens.issue(conn, "late", ["*"], expires_in=timedelta(microseconds=1))
        own = (await runs.upsert(conn, actor="ann", trace_id="a")).run_id
        other = (await runs.upsert(conn, actor="bob", trace_id="b")).run_id

    async with client_of(app_for(database)) as client:

        async def get(path: str, text: str) -> tuple[int, str]:
            answer = await client.get(path, headers={"authorization": f"Bearer {text}"})
            if answer.status_code >= 400:
                check_problem(answer)
            return answer.status_code, answer.text

        status, said = await get("/jobs", "jw_wrong")
        assert status == 401
        assert "jw_wrong" not in said
        assert (await get("/jobs", late.text))[0] == 401
        assert (await get("/jobs", reader.text))[0] == 200
        sent = {"authorization": f"Bearer {reader.text}"}
        forbidden = await client.post("/jobs", json={"mode": "greet"}, headers=sent)
        assert forbidden.status_code == 403
        assert "jobs:write" in check_problem(forbidden)["detail"]

        for tail in ("", "/steps", "/artifacts", "/stats"):
            assert (await get(f"/runs/{own}{tail}", reader.text))[0] == 200
            status, said = await get(f"/runs/{other}{tail}", reader.text)
            assert (status, "another actor" in said) == (403, True)
            assert (await get(f"/runs/{other}{tail}", any_run.text))[0] == 200
        _, said = await get("/runs", reader.text)
        assert str(own) in said
        assert str(other) not in said
        _, said = await get("/runs", any_run.text)
        assert str(other) in said


async def test_what_is_too_much_or_wrong_is_a_problem(database: Database) -> None:
    async with client_of(app_for(database, read_only=True)) as client:
        answers = {
            413: await client.post("/jobs", content=b"x" * (bounds.BODY_BYTES_MAX + 1)),
            431: await client.get("/jobs", headers={"x-long": "x" * bounds.HEADER_BYTES_MAX}),
            404: await client.get("/nothing"),
            405: await client.delete("/jobs"),
            403: await client.post("/jobs", json={"mode": "greet"}),
            422: await client.get("/jobs", params={"stauts": "done"}),
        }
        for status, answer in answers.items():
            assert answer.status_code == status, answer.text
            check_problem(answer)

        async def pieces() -> AsyncGenerator[bytes]:
            for _ in range(bounds.BODY_BYTES_MAX // 2**16 + 2):
                yield b"x" * 2**16

        assert (await client.post("/jobs", content=pieces())).status_code == 413
        for path in (
            *("/jobs?limit=0", "/jobs?status=odd", "/jobs?payload=[", "/jobs?payload=[]"),
            *("/jobs/x", "/runs/x", "/jobs?queue=%00", "/runs?since=yesterday"),
            "/jobs?before=00000000-0000-0000-0000-000000000000"
            "&after=00000000-0000-0000-0000-000000000000",
        ):
            answer = await client.get(path)
            assert answer.status_code == 422, path
            check_problem(answer)
        kind = {"content-type": "application/json"}
        for body, status, said, remedy in (
            (b'{"mode": "greet",}', 422, "body: is not JSON: ", "double quotes"),
            (b'{"mode": greet}', 422, "Expecting value at character 9", "double quotes"),
            (b'{"mode": "\xff"}', 400, "not UTF-8", "UTF-8"),
        ):
            answer = await client.post("/jobs", content=body, headers=kind)
            assert answer.status_code == status, answer.text
            assert said in answer.json()["detail"]
            assert remedy in check_problem(answer)["remedy"]
        given = await client.get("/jobs", headers={"x-request-id": "my-own"})
        assert given.headers["x-request-id"] == "my-own"
        odd = await client.get("/jobs", headers={"x-request-id": "two words"})
        assert odd.headers["x-request-id"] != "two words"


async def test_a_database_that_is_down_is_a_problem_too() -> None:
    async with (
        Database(NOWHERE, pool_min=0, pool_max=1, acquire_seconds=0.2) as nowhere,
        client_of(app_for(nowhere, base_path="/base")) as client,
    ):
        answer = await client.get("/base/jobs")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        check_problem(answer)


async def test_without_the_role_of_the_api_no_team_is_shown_anything(database: Database) -> None:
    async with site(database) as here:
        async with database.connection() as conn:
            await conn.execute("create role nobody_of_the_api login")
            await conn.execute("grant usage on schema jobsworth to nobody_of_the_api")
            grant = "grant select, update on all tables in schema jobsworth to nobody_of_the_api"
            await conn.execute(grant)
        try:
            url = database.url.replace("postgres@", "nobody_of_the_api@")
            async with (
                Database(url, pool_min=1, pool_max=2) as weak,
                client_of(app_for(weak)) as client,
            ):
                answer = await client.get("/jobs", headers=here.headers["ours"])
                assert answer.status_code in (401, 503)
                check_problem(answer)
        finally:
            async with database.connection() as conn:
                await conn.execute("drop owned by nobody_of_the_api")
                await conn.execute("drop role nobody_of_the_api")
