"""A request id goes from a message through its jobs, calls and log lines to the reply."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from structlog.testing import capture_logs

from db.conversations import messages
from db.diagnosis import requests
from db.money.calls import Usage
from db.queue import jobs
from jobsworth import Answer, Job, handler
from tests.support import run_cli
from tests.worker.job_api import JobApi, new_thread
from worker import events


async def test_a_request_is_found_again_with_all_that_came_of_it(api: JobApi) -> None:
    seen: dict[str, str | None] = {}

    @handler("answer")
    async def answer(job: Job) -> None:
        async def send(_: object) -> Answer:
            return Answer("hi", Usage(7, 3))

        await job.call("think", send, provider="scripted", model="m-1", estimate=(100, 50))
        child = job.spawn("child", {"n": 1})
        await job.gather(child)
        job.say("hello")
        job.enqueue("after")
        seen["answer"] = job.request_id

    @handler("child")
    async def child(job: Job, n: int) -> None:
        seen["child"] = job.request_id
        job.save("notes.txt", "noted")

    @handler("after")
    def after(job: Job) -> None:
        if job.request_id is not None:
            seen["after"] = job.request_id
            job.say("done")

    thread_id = await new_thread(api)
    async with api.database.connection() as connection:
        await messages.receive(connection, thread_id, "hi", "answer", request_id="order-17")
    other = await api.enqueue("after", thread_id=thread_id)
    with capture_logs() as captured:
        await api.work()
    ended = [line for line in captured if line["event"] == events.ATTEMPT_ENDED]
    assert [line["error"] for line in ended if "error" in line] == []
    assert seen == {"answer": "order-17", "child": "order-17", "after": "order-17"}
    async with api.database.connection() as connection:
        found = await requests.of_request(connection, "order-17")
        listed = await jobs.list_jobs(connection, request_id="order-17")
    kinds = [one.kind for one in found]
    assert kinds[:2] == ["message", "job"]
    assert sorted(kinds) == ["call", "file", *["job"] * 3, *["message"] * 3]
    assert [one.what for one in found if one.kind == "message"] == [
        "user: hi",
        "assistant: hello",
        "assistant: done",
    ]
    assert sorted(one.mode for one in listed) == ["after", "answer", "child"]
    assert other not in [one.id for one in listed]
    named = {UUID(line["job_id"]): line.get("request_id") for line in ended}
    assert named == {**{one.id: "order-17" for one in listed}, other: None}

    shown = run_cli("request", "show", "order-17", "--json", url=api.url)
    assert [row["kind"] for row in json.loads(shown.stdout)] == kinds
    rows = run_cli("jobs", "--request-id", "order-17", url=api.url).stdout.splitlines()
    assert len(rows) == 4
    assert "nothing belongs" in run_cli("request", "show", "nosuch", url=api.url).stderr


async def test_a_job_of_ones_own_may_name_its_request(api: JobApi) -> None:
    made: Any = json.loads(
        run_cli("enqueue", "talk", "--request-id", "web-1", "--json", url=api.url).stdout
    )
    assert (await api.job(UUID(made["id"]))).request_id == "web-1"
    assert "web-1" in run_cli("job", "show", made["id"], url=api.url).stdout
