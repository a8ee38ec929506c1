"""Effects and children in replays: told apart by what they are, whatever order they come in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, LiteralString

import anyio
import pytest

from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.worker.job_api import JobApi, new_thread
from tests.worker.steps.beside import TOGETHER

SAID: LiteralString = "select m.text from jobsworth.chat_messages m order by m.text"
FOLLOWED: LiteralString = """
select j.payload ->> 'word' as word from jobsworth.reactive_jobs j
where j.mode = 'follow' order by 1
"""


@pytest.mark.parametrize("form", TOGETHER)
async def test_effects_happen_once_though_branches_come_in_another_order(
    api: JobApi, form: str
) -> None:
    @handler("follow")
    def follow(word: str) -> str:
        return word

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        async def branch(word: str) -> None:
            # In turn: a b c, c b a, …
            late = "abc".index(word)
            await anyio.sleep(0.05 * (late if job.attempt % 2 else 2 - late))
            job.say(word)
            job.enqueue("follow", {"word": word})
            job.remember(word)
            await job.sleep(0.2)
            job.say(f"{word} again")

        await TOGETHER[form](*[lambda w=word: branch(w) for word in "abc"])

    job = await api.run("work", thread_id=await new_thread(api))
    assert job.status is JobStatus.DONE, job.error
    said = [row["text"] for row in await api.rows(SAID)]
    assert said == ["a", "a again", "b", "b again", "c", "c again"]
    assert [row["word"] for row in await api.rows(FOLLOWED)] == ["a", "b", "c"]
    assert await api.value("select count(*) from jobsworth.embeddings") == 3


async def test_equal_effects_are_as_many_as_were_made(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> None:
        job.say("tick")
        job.say("tick")
        await job.sleep(0.05)
        job.say("tick")

    await api.run("work", thread_id=await new_thread(api))
    assert len(await api.rows(SAID)) == 3


async def test_an_effect_that_only_the_first_attempt_makes_does_not_replace_another(
    api: JobApi,
) -> None:
    @handler("work")
    async def work(job: Job) -> None:
        if job.attempt == 1:
            job.say("working on it")
        await job.sleep(0.05)
        job.say("done")

    await api.run("work", thread_id=await new_thread(api))
    assert [row["text"] for row in await api.rows(SAID)] == ["done", "working on it"]


def make(job: Job, kind: str, n: int) -> None:
    """An effect of this kind, whose name is the same for each `n`."""
    match kind:
        case "message":
            job.say(f"text {n}", name="it")
        case "job":
            job.enqueue("follow", {"word": f"{n}"}, name="it")
        case "memory":
            job.remember(f"text {n}", name="it")
        case "artifact":
            job.save("it", f"content {n}")
        case _:
            job.metric(f"metric {n}", 1, key="it")


KINDS = ("message", "job", "memory", "artifact", "metric")


@pytest.mark.parametrize("kind", KINDS)
async def test_another_effect_under_a_name_that_is_committed_is_told(
    api: JobApi, kind: str
) -> None:
    @handler("follow")
    def follow(word: str) -> str:
        return word

    @handler("work", failures_max=5)
    async def work(job: Job) -> None:
        make(job, kind, job.attempt)
        await job.sleep(0.05)

    job = await api.run("work", thread_id=await new_thread(api))
    assert (job.status, job.failures) == (JobStatus.FAILED, 1), job.error
    assert f"has made another '{kind}:it'" in (job.error or "")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_effect_under_a_name_is_made_once(api: JobApi, kind: str) -> None:
    @handler("follow")
    def follow(word: str) -> str:
        return word

    @handler("work", failures_max=5)
    async def work(job: Job) -> None:
        make(job, kind, 1)
        await job.sleep(0.05)

    job = await api.run("work", thread_id=await new_thread(api))
    assert job.status is JobStatus.DONE, job.error


async def test_a_metric_keeps_the_value_that_was_measured_first_under_its_key(api: JobApi) -> None:
    @handler("work", failures_max=5)
    async def work(job: Job) -> None:
        job.metric("took", job.attempt, key="took")
        await job.sleep(0.05)

    assert (await api.run("work")).status is JobStatus.DONE
    assert await api.value("select value from jobsworth.run_metrics") == 1


async def test_a_child_spawned_before_others_reads_none_of_their_results(api: JobApi) -> None:
    """As after an edit of the handler between two attempts."""

    @handler("double")
    def double(n: int) -> int:
        return 2 * n

    @handler("parent", failures_max=1)
    async def parent(job: Job) -> list[int]:
        numbers = [1, 2] if job.attempt == 1 else [7, 1, 2]
        return await job.gather(*[job.spawn("double", {"n": n}) for n in numbers])

    assert (await api.run("parent")).result == [14, 2, 4]


@pytest.mark.parametrize("changed", ["payload", "mode"])
async def test_a_named_child_that_has_changed_is_told(api: JobApi, changed: str) -> None:
    @handler("double")
    def double(n: int) -> int:
        return 2 * n

    @handler("triple")
    def triple(n: int) -> int:
        return 3 * n

    @handler("parent", failures_max=5)
    async def parent(job: Job) -> list[int]:
        first = job.attempt == 1
        mode = "double" if first or changed == "payload" else "triple"
        n = 1 if first or changed == "mode" else 2
        return await job.gather(job.spawn(mode, {"n": n}, name="it"))

    job = await api.run("parent")
    assert (job.status, job.failures) == (JobStatus.FAILED, 1)
    assert "'child:it' of an earlier attempt" in (job.error or "")


async def test_a_child_that_is_another_one_in_each_attempt_is_told_and_not_spawned_for_ever(
    api: JobApi,
) -> None:
    @handler("child")
    def child(at: str) -> str:
        return at

    @handler("parent", failures_max=5)
    async def parent(job: Job) -> list[str]:
        return await job.gather(job.spawn("child", {"at": datetime.now(UTC).isoformat()}))

    job = await api.run("parent")
    assert (job.status, job.failures) == (JobStatus.FAILED, 1), job.error
    assert "its payload differs between attempts" in (job.error or "")
    assert await api.value("select count(*) from jobsworth.reactive_jobs where is_child") == 1


async def test_branches_read_the_results_of_their_own_children(api: JobApi) -> None:
    @handler("double")
    async def double(n: int) -> int:
        return 2 * n

    @handler("parent", failures_max=1)
    async def parent(job: Job) -> list[Any]:
        async def branch(n: int) -> list[Any]:
            await anyio.sleep(0.05 * (n if job.attempt % 2 else 2 - n))
            first = await job.gather(job.spawn("double", {"n": n}))
            return [*first, *await job.gather(job.spawn("double", {"n": n + 10}))]

        return await TOGETHER["gather"](*[lambda n=n: branch(n) for n in range(3)])

    job = await api.run("parent")
    assert job.result == [[0, 20], [2, 22], [4, 24]], job.error


async def test_sleeps_of_branches_are_told_by_their_length(api: JobApi) -> None:
    passed: list[tuple[str, int]] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        async def short() -> None:
            await anyio.sleep(0.1 if job.attempt == 2 else 0)
            await job.sleep(0.2)
            passed.append(("short", job.attempt))

        async def long() -> None:
            await anyio.sleep(0.1 if job.attempt == 1 else 0)
            await job.sleep(3600)
            passed.append(("long", job.attempt))

        await TOGETHER["gather"](short, long)

    job = await api.run("work")
    assert job.status is JobStatus.WAITING
    assert {name for name, _ in passed} == {"short"}


async def test_a_sleep_of_a_branch_that_is_as_long_as_chance_has_it_ends(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> int:
        async def nap() -> None:
            await job.sleep(0.2 + job.attempt / 1000)

        await TOGETHER["gather"](nap, nap)
        return job.attempt

    job = await api.run("work")
    assert job.status is JobStatus.DONE, job.error
