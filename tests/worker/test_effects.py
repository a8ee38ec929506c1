"""What a handler says, saves, enqueues and remembers commits with its job: once, or not at all."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from db.queue.jobs import JobStatus
from jobsworth import Job, Retry, handler
from tests.worker.job_api import JobApi, new_thread

THREAD_MESSAGES = """
select m.text, m.role::text, m.model, m.effect_key from jobsworth.chat_messages m order by m.id
"""


async def test_effects_have_the_same_keys_in_every_replay_and_happen_once(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> int:
        job.say("one")
        job.say("two", role="system", model="m-1")
        await job.sleep(0.01)
        job.say("three", name="last")
        await job.ask("Go on?")
        job.say("four")
        return job.attempt

    job = await api.run("work", thread_id=await new_thread(api))
    assert [m["text"] for m in await api.rows(THREAD_MESSAGES)] == ["one", "two", "three"]
    await api.decide(job.id, "approve")
    await api.work()
    # On a slow machine the sleep is over before the job has parked for it.
    assert (await api.job(job.id)).result in (2, 3)
    messages = await api.rows(THREAD_MESSAGES)
    assert [m["text"] for m in messages] == ["one", "two", "three", "four"]
    assert [m["effect_key"].partition("#")[0] for m in messages] == [
        *("message", "message", "message:last", "message")
    ]
    assert (messages[1]["role"], messages[1]["model"]) == ("system", "m-1")


async def test_a_failed_attempt_drops_its_effects(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> None:
        job.say(f"attempt {job.attempt}")
        job.save("report.txt", f"attempt {job.attempt}")
        job.enqueue("follow", {"attempt": job.attempt})
        job.remember(f"attempt {job.attempt}")
        if job.attempt == 1:
            raise Retry(reason="not yet")

    @handler("follow")
    def follow(attempt: int) -> int:
        return attempt

    await api.run("work", thread_id=await new_thread(api))
    assert [m["text"] for m in await api.rows(THREAD_MESSAGES)] == ["attempt 2"]
    assert await api.value("select content from jobsworth.artifacts") == b"attempt 2"
    assert await api.rows("select text from jobsworth.memories") == [{"text": "attempt 2"}]
    assert await api.value("select result from jobsworth.reactive_jobs where mode = 'follow'") == 2


async def test_say_without_a_thread_says_what_is_missing(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        job.say("to nobody")

    assert "enqueue it with thread_id" in ((await api.run("work")).error or "")


async def test_say_can_name_another_thread(api: JobApi) -> None:
    thread_id = await new_thread(api)

    @handler("work")
    def work(job: Job) -> None:
        job.say("elsewhere", thread_id=thread_id)

    assert (await api.run("work")).status is JobStatus.DONE
    [message] = await api.rows("select thread_id, text from jobsworth.chat_messages")
    assert message == {"thread_id": thread_id, "text": "elsewhere"}


async def test_what_the_database_refuses_to_write_fails_that_job_alone(api: JobApi) -> None:
    @handler("work")
    def work(job: Job, thread: UUID | None = None) -> str:
        if thread is not None:
            job.say("nobody there", thread_id=thread)
        return "done"

    good = await api.enqueue("work")
    bad = await api.run("work", {"thread": str(UUID(int=1))})
    assert bad.status is JobStatus.FAILED
    assert "what the job wrote was refused" in (bad.error or "")
    assert (await api.job(good)).result == "done"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"delay_seconds": object()}, "delay must be seconds"),
        ({"delay_seconds": float("nan")}, "delay nan is not between"),
        ({"queue": "\ud800"}, "queue '\\ud800' is not Unicode text"),
        ({"unique_key": "a\0b"}, "contains a NUL character"),
        ({"priority": 9}, "priority 9 is not 1 to 4"),
        ({"agent_id": "ada"}, "agent_id must be a UUID"),
    ],
    ids=["not JSON", "NaN", "a lone surrogate", "NUL", "out of bounds", "no UUID"],
)
async def test_an_impossible_option_of_a_follow_up_fails_that_job_alone(
    api: JobApi, options: dict[str, Any], reason: str
) -> None:
    @handler("work")
    def work(job: Job, bad: bool = False) -> str:
        chosen: dict[str, Any] = options if bad else {"delay_seconds": 3600}
        job.enqueue("later", **chosen)
        return "done"

    good = await api.enqueue("work")
    bad = await api.run("work", {"bad": True})
    assert bad.status is JobStatus.FAILED
    assert reason in (bad.error or "")
    assert (await api.job(good)).status is JobStatus.DONE


async def test_an_unknown_option_of_a_follow_up_is_named(api: JobApi) -> None:
    @handler("work", failures_max=1)
    def work(job: Job) -> None:
        job.enqueue("later", delay=3)  # pyright: ignore[reportCallIssue]

    error = (await api.run("work")).error or ""
    assert "delay is not an option of a job" in error
    assert "delay_seconds" in error


async def test_a_follow_up_takes_its_parents_place_in_the_lane(api: JobApi) -> None:
    order: list[str] = []

    @handler("classify")
    def classify(job: Job, message: str) -> None:
        order.append(f"classify {message}")
        job.enqueue("answer", {"message": message})

    @handler("answer")
    def answer(message: str) -> None:
        order.append(f"answer {message}")

    thread_id = await new_thread(api)
    for message in ("1", "2"):
        await api.enqueue("classify", {"message": message}, thread_id=thread_id)
    await api.work()
    assert order == ["classify 1", "answer 1", "classify 2", "answer 2"]
    lanes = await api.rows("select distinct lane, thread_id from jobsworth.reactive_jobs")
    assert lanes == [{"lane": str(thread_id), "thread_id": thread_id}]


async def test_files_are_kept_with_their_type_and_content(api: JobApi) -> None:
    @handler("work")
    def work(job: Job) -> None:
        job.save("report.html", "<p>ü</p>")
        job.save("raw", b"\x00\xff", media_type="application/x-raw")
        job.save("notes", "plain")
        job.save("far", uri="s3://bucket/far")

    await api.run("work")
    query = "select name, media_type, content, uri from jobsworth.artifacts order by name"
    assert [tuple(row.values()) for row in await api.rows(query)] == [
        ("far", "application/octet-stream", None, "s3://bucket/far"),
        ("notes", "text/plain", b"plain", None),
        ("raw", "application/x-raw", b"\x00\xff", None),
        ("report.html", "text/html", "<p>ü</p>".encode(), None),
    ]


@pytest.mark.parametrize("given", [{}, {"content": "both", "uri": "file:///x"}])
async def test_a_file_has_either_content_or_an_address(api: JobApi, given: dict[str, Any]) -> None:
    @handler("work", failures_max=1)
    def work(job: Job) -> None:
        job.save("report", **given)

    assert "needs either content or uri" in ((await api.run("work")).error or "")


async def test_metadata_that_could_not_be_read_back_fails_that_job_alone(api: JobApi) -> None:
    @handler("work", failures_max=1)
    def work(job: Job, digits: int) -> None:
        job.remember("a note", metadata={"n": 10**digits})

    good = await api.enqueue("work", {"digits": 400})
    bad = await api.run("work", {"digits": 5000})
    assert "the metadata of a memory could not be read back" in (bad.error or "")
    assert (await api.job(good)).status is JobStatus.DONE


async def test_what_is_remembered_is_recalled_after_the_job(api: JobApi) -> None:
    team_id = UUID(int=1)

    @handler("learn")
    def learn(job: Job, text: str) -> None:
        job.remember(text, kind="fact", source_id="s-1", metadata={"sure": True})

    @handler("ask")
    async def ask(job: Job) -> list[list[Any]]:
        hits = await job.recall("lunch at noon", limit=3, kind="fact")
        return [[hit.text, hit.source_id, hit.metadata] for hit in hits]

    await api.enqueue("learn", {"text": "lunch is at noon"}, team_id=team_id)
    await api.enqueue("learn", {"text": "lunch of another team is at noon"})
    await api.work()
    assert await api.value("select count(*) from jobsworth.embedding_outbox") == 0
    job = await api.run("ask", team_id=team_id)
    assert job.result == [["lunch is at noon", "s-1", {"sure": True}]]
