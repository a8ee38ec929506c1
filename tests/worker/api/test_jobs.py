"""`/jobs`: what is enqueued, found and changed through the API."""

from __future__ import annotations

from uuid import uuid4

import pytest

from db.pool import Database
from tests.worker.api.site import check_problem, site

pytestmark = pytest.mark.anyio


async def test_jobs_are_enqueued_listed_and_changed(database: Database) -> None:
    async with site(database) as here:
        made = [
            (
                await here.post(
                    "/jobs", {"mode": "greet", "payload": {"n": n, "of": {"a": 1}}}, status=201
                )
            )["id"]
            for n in range(7)
        ]
        # Paged both ways, whatever comes meanwhile.
        first = await here.get("/jobs?limit=3&mode=greet")
        await here.post("/jobs", {"mode": "greet", "payload": {"n": 7}}, status=201)
        second = await here.get(f"/jobs?limit=3&mode=greet&before={first['next']}")
        third = await here.get(f"/jobs?limit=3&mode=greet&before={second['next']}")
        pages = [[job["id"] for job in page["items"]] for page in (first, second, third)]
        assert [*pages[0], *pages[1], *pages[2]] == made[::-1]
        assert third["next"] is None
        back = await here.get(f"/jobs?limit=3&after={third['previous']}")
        assert [job["id"] for job in back["items"]] == pages[1]
        newer = await here.get(f"/jobs?after={first['previous']}")
        assert [job["payload"]["n"] for job in newer["items"]] == [7]

        found = await here.get('/jobs?payload={"of":{"a":1},"n":4}')
        assert [job["id"] for job in found["items"]] == [made[4]]
        shown = await here.get(f"/jobs/{made[4]}")
        assert shown["job"]["payload"]["n"] == 4
        assert shown["why"]["status"] == "queued"

        assert (await here.post(f"/jobs/{made[0]}/cancel"))["status"] == "canceled"
        assert (await here.get(f"/jobs/{made[0]}"))["job"]["error"] == "canceled through the API"
        assert (await here.post(f"/jobs/{made[0]}/retry"))["status"] == "queued"
        await here.post(f"/jobs/{made[0]}/retry", status=409)
        await here.post(f"/jobs/{made[0]}/run-now", status=409)
        later = {"mode": "greet", "run_at": "2199-01-01T00:00Z"}
        timed = (await here.post("/jobs", later, status=201))["id"]
        assert (await here.post(f"/jobs/{timed}/run-now"))["status"] == "queued"
        for verb in ("cancel", "retry", "run-now"):
            await here.post(f"/jobs/{uuid4()}/{verb}", status=404)


async def test_a_repeated_request_enqueues_once(database: Database) -> None:
    async with site(database) as here:
        new = {"mode": "greet", "payload": {"n": 1}}

        async def send(who: str, body: object, key: str = "k") -> tuple[int, str]:
            headers = here.headers[who] | {"idempotency-key": key}
            answer = await here.client.post("/jobs", json=body, headers=headers)
            if answer.status_code >= 400:
                check_problem(answer)
            return answer.status_code, answer.json().get("id")

        status, first = await send("ours", new)
        assert status == 201
        assert await send("ours", new) == (200, first)
        await here.post(f"/jobs/{first}/cancel", who="ours")
        # After it has ended as well.
        assert await send("ours", new) == (200, first)
        assert (await send("ours", new | {"mode": "other"}))[0] == 409
        # The key is the team's own.
        status, other = await send("theirs", new)
        assert status == 201
        assert other != first
        assert (await send("ours", new | {"unique_key": "u"}))[0] == 422
        job = (await here.get(f"/jobs/{first}", who="ours"))["job"]
        assert job["team_id"] == str(here.teams["ours"])
        assert job["request_id"]
