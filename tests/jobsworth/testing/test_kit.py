"""The test kit, used as its users use it: jobs that really run, in this process."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobsworth import Fail, Job, handler
from jobsworth.testing import Jobs, Refusal, ToolUse
from tests.support import connect


def test_runs_one_job_and_not_what_it_enqueued(jobs: Jobs) -> None:
    seen: list[str] = []

    @handler("parent")
    async def parent(job: Job, name: str) -> str:
        seen.append(name)
        job.enqueue("follow", {"name": name, "n": 1})
        return f"Hello, {name}"

    @handler("follow")
    async def follow(job: Job, name: str, n: int) -> None:
        seen.append(f"{name} {n}")

    job = jobs.run("parent", {"name": "Ada"})
    assert (job.status, job.result) == ("done", "Hello, Ada")
    assert seen == ["Ada"]
    jobs.assert_enqueued("follow", {"n": 1})
    jobs.refute_enqueued("follow", {"n": 2})
    [followed] = jobs.drain()
    assert (followed.mode, seen) == ("follow", ["Ada", "Ada 1"])
    assert jobs.violations() == []


def test_a_question_is_answered_by_script(jobs: Jobs) -> None:
    @handler("publish")
    async def publish(job: Job, text: str) -> str:
        return "out" if (await job.ask(f"Publish {text}?")).approved else "kept"

    first, second = jobs.run("publish", {"text": "this"}), jobs.run("publish", {"text": "that"})
    assert (first.status, first.waiting_for) == ("waiting", "approval")
    with pytest.raises(AssertionError, match=r"(?s)2 open approvals.*Publish this\?"):
        jobs.approve("Publish")
    jobs.approve("this")
    jobs.reject("that", comment="not now")
    assert {job.id: job.result for job in jobs.drain()} == {first.id: "out", second.id: "kept"}


def test_time_moves_on_for_all_that_is_stored(jobs: Jobs) -> None:
    tries: list[int] = []

    @handler("flaky", failures_max=3)
    async def flaky(job: Job) -> str:
        tries.append(job.attempt)
        if len(tries) < 3:
            raise ValueError("not yet")
        await job.sleep(2 * 24 * 3600)
        return "at last"

    @handler("ask")
    async def ask(job: Job) -> str:
        decision = await job.ask("Go?", deadline_seconds=3600, on_timeout="reject")
        return decision.option

    job = jobs.run("flaky")
    assert (job.status, job.waiting_for, job.failures) == ("waiting", "timer", 1)
    later = jobs.enqueue("flaky", delay=3600)
    asked = jobs.run("ask")
    jobs.move_time(timedelta(minutes=59))
    assert jobs.drain() == []
    jobs.move_time(timedelta(minutes=1))
    assert [ended.id for ended in jobs.drain()] == [asked.id]
    assert jobs.get(asked.id).result == "reject"
    assert {ended.id for ended in jobs.drain(timers=True)} == {job.id, later}
    assert jobs.violations() == []


def test_a_scripted_model_is_metered_as_a_real_one(jobs: Jobs) -> None:
    from pydantic_ai import Agent

    weather = Agent(name="weather")

    @weather.tool_plain
    def temperature(city: str) -> int:
        return len(city)

    @handler("forecast")
    async def forecast(job: Job, city: str) -> str:
        return await job.agent("look", weather, f"How warm is {city}?")

    jobs.model.answers(
        Refusal(429, retry_after_seconds=30),
        ToolUse("temperature", '{"city": "Oslo"}'),
        "4 degrees",
    )
    job = jobs.run("forecast", {"city": "Oslo"})
    assert (job.waiting_for, job.failures) == ("limit", 0)
    [job] = jobs.drain(timers=True)
    assert (job.status, job.result) == ("done", "4 degrees")
    assert [request["messages"][0]["content"] for request in jobs.model.requests] == [
        "How warm is Oslo?"
    ] * 3
    assert jobs.paid() == jobs.model.tokens
    assert len(jobs.model.bill) == 2


def test_a_kill_at_any_point_is_survived(jobs: Jobs) -> None:
    @handler("careful")
    async def careful(job: Job) -> str:
        return await job.step("once", lambda: "made")

    job_id = jobs.enqueue("careful")
    jobs.crash("step.committed")
    assert jobs.get(job_id).status == "running"
    [job] = jobs.drain()
    assert (job.status, job.result, job.attempt, job.crashes) == ("done", "made", 2, 1)
    with pytest.raises(AssertionError, match=r"step\.committed was not reached"):
        jobs.crash("step.committed")
    with pytest.raises(ValueError, match="is not a crash point"):
        jobs.crash("nowhere")


def test_says_what_there_is_instead_of_what_was_expected(jobs: Jobs) -> None:
    @handler("broken")
    async def broken(job: Job) -> None:
        raise Fail("no such page")

    jobs.enqueue("other", {"page": 1}, queue="slow")
    with pytest.raises(
        AssertionError, match=r"no jobs .* 'mail'.*\n  other .'page': 1. in queue slow"
    ):
        jobs.assert_enqueued("mail")
    with pytest.raises(AssertionError, match="1 jobs are enqueued"):
        jobs.refute_enqueued(queue="slow")
    job = jobs.run("broken")
    assert (job.status, job.error) == ("failed", "no such page")
    with pytest.raises(AssertionError, match=r"'brokn'; did you mean 'broken'\? Import its module"):
        jobs.run("brokn")


def test_work_that_does_not_end_is_given_up(jobs: Jobs) -> None:
    @handler("endless")
    async def endless(job: Job) -> None:
        job.enqueue("endless")

    jobs.enqueue("endless")
    with pytest.raises(AssertionError, match=r"not settled after 0\.5 s:\n  endless"):
        jobs.drain(seconds_max=0.5)


async def test_serves_async_tests(jobs: Jobs) -> None:
    @handler("declared in one test")
    def declared(word: str) -> str:
        return word.upper()

    assert jobs.run("declared in one test", {"word": "loud"}).result == "LOUD"


def test_forgets_the_handlers_of_other_tests(jobs: Jobs) -> None:
    job_id = jobs.enqueue("declared in one test", {"word": "loud"})
    assert jobs.drain() == []
    job = jobs.get(job_id)
    assert (job.status, job.waiting_for) == ("waiting", "handler")


def test_another_worker_that_does_not_know_the_mode_holds_nothing_up(jobs: Jobs) -> None:
    @handler("known")
    async def known() -> str:
        return "ran"

    with connect(jobs.url) as conn:
        conn.execute(
            "insert into jobsworth.workers (id, host, pid, version, modes, queues, slots)"
            " values (gen_random_uuid(), 'elsewhere', 1, '0', '{other}', '{default}', 1)"
        )
    assert jobs.run("known").result == "ran"
