"""What a handler does to its `Job`, through a real worker: what is recorded, what commits, what is
done again and what never is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

import anyio
import pytest

from db.conversations import threads
from db.errors import InvalidInput
from db.fence import Lease
from db.queue import jobs
from db.queue.jobs import JobStatus, WaitReason
from tests.support import until
from tests.worker.job_api import JobApi, claimed_job
from worker import ChildFailed, Fail, Job, Retry, handler
from worker.job import Tools

THREAD_MESSAGES = """
select m.text, m.role::text, m.model, m.effect_key from jobsworth.chat_messages m order by m.id
"""
STEPS = "select name, kind, attempt, finished_at from jobsworth.steps order by started_at, name"


class Flaky:
    """Fails the first time it is asked to, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def once(self) -> None:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("the first time fails")


async def new_thread(api: JobApi) -> UUID:
    async with api.database.connection() as connection:
        return (await threads.get_or_create(connection, "test", "chat")).id


# Steps.


async def test_a_step_is_not_run_again_after_a_retry(api: JobApi) -> None:
    ran: list[int] = []
    flaky = Flaky()

    @handler("work")
    async def work(job: Job) -> list[int]:
        async def count(start: int, *, by: int) -> int:
            ran.append(start)
            return start + by

        first = await job.step("first", count, 1, by=10)
        flaky.once()
        return [first, await job.step("second", count, 2, by=20), job.attempt]

    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.DONE, 1)
    assert job.result == [11, 22, 2]
    assert ran == [1, 2]


async def test_the_record_is_what_json_keeps_in_the_first_attempt_as_well(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        return await job.step("pair", lambda: (1, {"at": UUID(int=7), "nul": "a\0b"}))

    job = await api.run("work")
    assert job.result == [1, {"at": str(UUID(int=7)), "nul": "a␀b"}]


async def test_a_plain_function_of_a_step_runs_in_a_thread(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> bool:
        name = await job.step("where", lambda: threading.current_thread().name)
        return name == threading.current_thread().name

    assert (await api.run("work")).result is False


async def test_a_step_that_raises_records_nothing_and_runs_again(api: JobApi) -> None:
    flaky = Flaky()

    @handler("work")
    async def work(job: Job) -> int:
        await job.step("flaky", flaky.once)
        return flaky.calls

    job = await api.run("work")
    assert (job.result, job.failures) == (2, 1)
    [step] = await api.rows(STEPS)
    assert (step["name"], step["attempt"]) == ("flaky", 2)


async def test_a_result_that_is_not_json_is_named_with_its_step(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        await job.step("lock", threading.Lock)

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert "the result of step 'lock' cannot be written as JSON" in (job.error or "")


async def test_a_stop_lands_before_the_next_statement(api: JobApi) -> None:
    """Though no statement can be interrupted, and none of these ever has to wait."""
    ran: list[str] = []
    kill: list[Callable[[], None]] = []

    @handler("work")
    async def work(job: Job) -> None:
        async def note(name: str) -> None:
            ran.append(name)
            if name == "second":
                kill[0]()

        for name in ("first", "second", "third"):
            await job.step(name, note, name)

    await api.enqueue("work")
    with anyio.fail_after(20):
        async with api.dying() as worker:
            kill.append(worker.kill)
            await anyio.sleep_forever()
    assert ran == ["first", "second"]
    assert [step["name"] for step in await api.rows(STEPS)] == ["first"]


# Effects.


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
    assert [(m["text"], m["effect_key"]) for m in messages] == [
        ("one", "message#1"),
        ("two", "message#2"),
        ("three", "message:last"),
        ("four", "message#3"),
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
    assert await api.rows("select text from jobsworth.embeddings") == [{"text": "attempt 2"}]
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
    "options",
    [{"delay_seconds": object()}, {"queue": "\ud800"}, {"unique_key": "a\0b"}, {"priority": 9}],
    ids=["not JSON", "a lone surrogate", "NUL", "out of bounds"],
)
async def test_an_impossible_option_of_a_follow_up_fails_that_job_alone(
    api: JobApi, options: dict[str, Any]
) -> None:
    @handler("work")
    def work(job: Job, bad: bool = False) -> str:
        chosen: dict[str, Any] = options if bad else {"delay_seconds": 3600}
        job.enqueue("later", **chosen)
        return "done"

    good = await api.enqueue("work")
    bad = await api.run("work", {"bad": True})
    assert bad.status is JobStatus.FAILED
    assert "what the job wrote was refused" in (bad.error or "")
    assert (await api.job(good)).status is JobStatus.DONE


async def test_an_unknown_option_of_a_follow_up_is_named(api: JobApi) -> None:
    @handler("work", failures_max=1)
    def work(job: Job) -> None:
        job.enqueue("later", delay=3)

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
async def test_a_file_has_either_content_or_an_address(api: JobApi, given: dict[str, str]) -> None:
    @handler("work", failures_max=1)
    def work(job: Job) -> None:
        job.save("report", **given)

    assert "needs either content or uri" in ((await api.run("work")).error or "")


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


# Children.


async def test_gather_brings_the_results_in_the_order_of_its_arguments(api: JobApi) -> None:
    @handler("square")
    def square(n: int) -> int:
        return n * n

    @handler("sum")
    async def add(job: Job) -> list[Any]:
        children = [job.spawn("square", {"n": n}) for n in (1, 2, 3)]
        return [await job.gather(*reversed(children)), await job.gather(), job.attempt]

    job = await api.run("sum", lane="a")
    assert job.result == [[9, 4, 1], [], 2]
    children = "select count(*) from jobsworth.reactive_jobs where is_child and lane is null"
    assert await api.value(children) == 3


async def test_a_child_that_fails_is_named_with_its_error(api: JobApi) -> None:
    @handler("child")
    def child(n: int) -> int:
        if n == 2:
            raise Fail("two is too much")
        return n

    @handler("parent")
    async def parent(job: Job) -> dict[str, Any]:
        try:
            await job.gather(*[job.spawn("child", {"n": n}, name=f"n{n}") for n in (1, 2)])
        except ChildFailed as failed:
            return dict(failed.children)
        return {}

    assert (await api.run("parent")).result == {"child:n2": ["failed", "two is too much"]}


async def test_children_of_a_canceled_parent_are_canceled(api: JobApi) -> None:
    @handler("child")
    async def child(job: Job) -> None:
        await job.wait("never")

    @handler("parent")
    async def parent(job: Job) -> None:
        await job.gather(job.spawn("child"), job.spawn("child"))

    job = await api.run("parent")
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.CHILDREN)
    async with api.database.connection() as connection:
        await jobs.cancel(connection, job.id)
    states = "select distinct mode, status::text, error from jobsworth.reactive_jobs order by 1"
    assert [tuple(row.values()) for row in await api.rows(states)] == [
        ("child", "canceled", "the job that spawned it has ended"),
        ("parent", "canceled", "canceled by a person"),
    ]


async def test_children_that_nobody_gathered_are_canceled_with_the_end_of_their_parent(
    api: JobApi,
) -> None:
    @handler("child")
    async def child(job: Job) -> None:
        await job.wait("never")

    @handler("parent")
    async def parent(job: Job) -> None:
        job.spawn("child")

    assert (await api.run("parent")).status == JobStatus.DONE
    states = "select status::text, error from jobsworth.reactive_jobs where mode = 'child'"
    assert [tuple(row.values()) for row in await api.rows(states)] == [
        ("canceled", "the job that spawned it has ended")
    ]


async def test_a_plain_function_cannot_spawn(api: JobApi) -> None:
    @handler("parent", failures_max=1)
    def parent(job: Job) -> None:
        job.spawn("child")

    assert "use enqueue instead" in str((await api.run("parent")).error)


async def test_a_child_cannot_wait_in_the_lane_of_its_parent(api: JobApi) -> None:
    @handler("parent", failures_max=1)
    async def parent(job: Job) -> None:
        await job.gather(job.spawn("child", lane="a"))

    assert "would wait for its parent for ever" in str((await api.run("parent", lane="a")).error)


async def test_a_name_stands_for_one_thing(api: JobApi) -> None:
    @handler("saves", failures_max=1)
    async def saves(job: Job) -> None:
        job.save("report.txt", "one")
        job.save("report.txt", "two")

    job = await api.run("saves")
    assert job.status == JobStatus.FAILED
    assert "the artifact 'report.txt' of job" in str(job.error)


async def test_the_trace_id_is_read_from_the_traceparent(api: JobApi) -> None:
    @handler("traced")
    async def traced(job: Job) -> str | None:
        return job.trace_id

    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    job = await api.run("traced", trace_parent=f"00-{trace}-00f067aa0ba902b7-01")
    assert job.result == trace


async def test_a_running_child_of_a_canceled_parent_is_stopped(api: JobApi) -> None:
    @handler("child")
    async def child() -> None:
        await anyio.sleep_forever()

    @handler("parent")
    async def parent(job: Job) -> None:
        await job.gather(job.spawn("child"))

    async def child_runs() -> bool:
        running = "select 1 from jobsworth.reactive_jobs where is_child and status = 'running'"
        return bool(await api.rows(running))

    async with api.working():
        parent_id = await api.enqueue("parent")
        await until(child_runs)
        async with api.database.connection() as connection:
            await jobs.cancel(connection, parent_id)
        await api.idle()
    status = "select status::text from jobsworth.reactive_jobs where is_child"
    assert await api.value(status) == "canceled"


async def test_a_child_cannot_have_a_unique_key(api: JobApi) -> None:
    """Another job could hold it: there would be no child, and gather would wait for ever."""

    @handler("parent", failures_max=1)
    async def parent(job: Job) -> None:
        await job.gather(job.spawn("child", unique_key="k"))

    job = await api.run("parent")
    assert "a child cannot have a unique_key" in (job.error or "")


# Plain functions.


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("step", ("name", print)),
        ("call", ("name", print)),
        ("agent", ("name", None)),
        ("approved_step", ("name", print)),
        ("checkpoint", ("name", 1)),
        ("parents", ()),
        ("rollback", ("staging",)),
        ("ask", ("really?",)),
        ("sleep", (1,)),
        ("wait", ("signal",)),
        ("gather", ()),
        ("recall", ("query",)),
        ("transaction", ("name", print)),
        ("deploy", ("staging", "main")),
    ],
)
def test_a_plain_function_is_told_which_methods_need_an_async_handler(
    method: str, arguments: tuple[Any, ...], plain_job: Job
) -> None:
    options: dict[str, Any] = {"provider": "a", "model": "b"} if method == "call" else {}
    with pytest.raises(InvalidInput, match=rf"job\.{method} needs an async handler") as refused:
        getattr(plain_job, method)(*arguments, **options)
    assert "write `async def`" in refused.value.remedy


async def test_a_plain_function_has_the_effects(api: JobApi) -> None:
    @handler("work")
    def work(job: Job) -> str:
        job.say("said")
        job.remember("remembered")
        job.save("saved", "x")
        job.enqueue("next")
        return threading.current_thread().name

    @handler("next")
    def follow(job: Job) -> str:
        return job.mode

    job = await api.run("work", thread_id=await new_thread(api))
    assert job.result != threading.current_thread().name
    jobs_done = "select count(*) from jobsworth.reactive_jobs where status = 'done'"
    assert await api.value(jobs_done) == 2


@pytest.fixture
def plain_job() -> Job:
    claimed = claimed_job()
    lease = Lease(claimed.id, claimed.lease_no, UUID(int=2))
    return Job(claimed, lease, cast(Tools, None), plain=True)
