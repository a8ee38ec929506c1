"""What a step's name and input mean: changed code is noticed, and one name is one step."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from db import documents
from db.errors import InvalidInput
from db.queue.jobs import JobStatus
from jobsworth import Job, Retry, Snooze, StepChanged, handler
from tests.worker.job_api import JobApi
from tests.worker.steps.rows import STEPS


def changing(**options: Any) -> list[int]:
    """Registers a job whose second attempt gives its step another input; what ran is returned."""
    ran: list[int] = []

    def double(n: int) -> int:
        ran.append(n)
        return 2 * n

    @handler("work", failures_max=5)
    async def work(job: Job) -> int:
        doubled = await job.step("double", double, job.attempt, **options)
        if job.attempt == 1:
            raise Retry(0)
        return doubled

    return ran


async def test_a_step_that_is_met_again_with_another_input_fails_the_job_for_good(
    api: JobApi,
) -> None:
    ran = changing()
    job = await api.run("work")
    assert (job.status, job.failures, ran) == (JobStatus.FAILED, 2, [1])
    assert job.error is not None
    assert "step 'double' is recorded with another input" in job.error
    assert "a new name" in job.error
    assert "any_input=True" in job.error


async def test_any_input_keeps_what_is_recorded(api: JobApi) -> None:
    ran = changing(any_input=True)
    job = await api.run("work")
    assert (job.result, ran) == (2, [1])


async def test_a_pure_step_is_computed_anew_for_another_input(api: JobApi) -> None:
    ran = changing(effect="pure")
    job = await api.run("work")
    assert (job.result, ran) == (4, [1, 2])
    [step] = await api.rows(STEPS)
    assert (step["effect"], step["output"], step["attempt"]) == ("pure", 4, 2)


async def test_the_same_name_with_another_input_is_told_within_an_attempt_too(api: JobApi) -> None:
    told: list[str] = []

    @handler("work")
    async def work(job: Job) -> list[int]:
        first = await job.step("n", int, "1")
        again = await job.step("n", int, "1")
        try:
            await job.step("n", int, "2")
        except StepChanged as error:
            told.append(error.reason)
        return [first, again]

    assert (await api.run("work")).result == [1, 1]
    assert len(told) == 1


async def test_a_step_recorded_without_a_hash_fits_any_input(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job, n: int) -> int:
        made = await job.step("n", int, n + job.attempt)
        if job.attempt == 1:
            raise Snooze(3600)
        return made

    job = await api.run("work", {"n": 1})
    await api.database.execute("update jobsworth.steps set input_hash = null")
    await api.database.execute("select jobsworth.retry(%(id)s)", {"id": job.id})
    await api.work()
    assert (await api.job(job.id)).result == 2


async def test_the_job_itself_is_the_same_input_in_every_attempt(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> int:
        async def look(job: Job) -> int:
            return job.attempt

        first = await job.step("look", look, job)
        if job.attempt == 1:
            raise Retry(0)
        return first

    assert (await api.run("work")).result == 1


@pytest.mark.parametrize("effect", ["idempotent", "unsafe"])
async def test_two_steps_of_one_name_at_once_are_refused(api: JobApi, effect: Any) -> None:
    """The second would be given the answer of the first, or would wait for a person."""
    ran: list[int] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        async def double(n: int) -> None:
            ran.append(n)
            await anyio.sleep_forever()

        async def doubled(n: int) -> None:
            await job.step("double", double, n, effect=effect)

        async with anyio.create_task_group() as tasks:
            for n in (1, 2):
                tasks.start_soon(doubled, n)

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert 2 not in ran
    assert "step 'double' runs already in this attempt" in (job.error or "")


@pytest.mark.parametrize("name", ["", "  ", 3, "x" * 501, "a\0b"])
async def test_a_step_needs_a_name_that_can_be_kept(api: JobApi, name: Any) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        await job.step(name, str)

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert repr(name)[:100] in (job.error or "")


async def test_a_result_larger_than_a_document_may_be_is_refused(
    api: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "DOCUMENT_BYTES_MAX", 1_000)

    @handler("work", failures_max=1)
    async def work(job: Job, inside: bool) -> str:
        return await job.step("read", str, "x" * 999) if inside else "x" * 999

    for inside, thing in ((True, "the result of step 'read'"), (False, "the result of 'work'")):
        job = await api.run("work", {"inside": inside})
        assert job.status is JobStatus.FAILED
        assert f"{thing} has 1,001 bytes; at most 1,000 are allowed" in (job.error or "")


async def test_an_effect_that_is_not_known_is_refused(api: JobApi) -> None:
    told: list[str] = []

    @handler("work")
    async def work(job: Job) -> None:
        try:
            await job.step("n", int, effect="harmless")  # pyright: ignore[reportArgumentType]
        except InvalidInput as error:
            told.append(str(error))

    await api.run("work")
    assert told == [
        "effect='harmless' of step 'n' is not known (use one of pure, idempotent, unsafe)"
    ]
