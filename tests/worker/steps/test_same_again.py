"""What is met under a name that has been used is the same, or is told to be another one."""

from __future__ import annotations

import functools
from typing import Any
from uuid import uuid4

import pytest

from db.money.calls import Answer, Usage
from db.queue.jobs import JobStatus
from jobsworth import Job, Retry, handler
from tests.worker.job_api import JobApi

PAGES = ["a", "b", "c"]


async def fetch(url: str, mark: str = "") -> str:
    return f"page of {url}{mark}"


class Site:
    def __init__(self, url: str) -> None:
        self.url = url

    def page(self) -> str:
        return f"page of {self.url}"


def _closure(url: str) -> Any:
    return lambda: f"page of {url}"


def _default(url: str) -> Any:
    def page(at: str = url) -> str:
        return f"page of {at}"

    return page


def _partial(url: str) -> Any:
    return functools.partial(fetch, url)


def _method(url: str) -> Any:
    return Site(url).page


MAKERS = {"closure": _closure, "default": _default, "partial": _partial, "method": _method}


@pytest.mark.parametrize("maker", MAKERS)
async def test_a_second_step_of_a_name_that_holds_other_values_is_refused(
    api: JobApi, maker: str
) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> list[str]:
        return [await job.step("page", MAKERS[maker](url)) for url in PAGES]

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert "step 'page'" in (job.error or "")
    assert "give each a name of its own" in (job.error or "")


async def test_a_loop_variable_that_a_lambda_holds_is_another_value(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> list[str]:
        return [await job.step("page", lambda: f"page of {url}") for url in PAGES]  # noqa: B023

    assert (await api.run("work")).status is JobStatus.FAILED


async def test_the_same_step_may_be_met_twice(api: JobApi) -> None:
    """From two places of a handler, say; the second reads the first one's record."""
    ran: list[str] = []

    async def load(path: str) -> str:
        ran.append(path)
        return path

    @handler("work", failures_max=1)
    async def work(job: Job) -> list[str]:
        async def here() -> str:
            return await job.step("load", load, "x")

        site = Site("a")
        twice = [await job.step("page", site.page), await job.step("page", site.page)]
        return [await here(), await here(), *twice]

    job = await api.run("work")
    assert (job.result, ran) == (["x", "x", "page of a", "page of a"], ["x"]), job.error


async def test_any_input_does_not_make_two_steps_one(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> list[str]:
        return [await job.step("page", fetch, url, any_input=True) for url in PAGES]

    assert "made twice in one attempt" in ((await api.run("work")).error or "")


@pytest.mark.parametrize("kind", ["transaction", "call"])
async def test_a_second_transaction_or_call_of_a_name_is_refused(api: JobApi, kind: str) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> list[Any]:
        found = list[Any]()
        for url in PAGES:

            async def write(_: Any, at: str = url) -> str:
                return at

            async def send(_: Any, at: str = url) -> Answer:
                return Answer(at, Usage(1, 1))

            if kind == "call":
                made = job.call("page", send, provider="acme", model="m")
            else:
                made = job.transaction("page", write)
            found.append(await made)
        return found

    assert "made twice in one attempt" in ((await api.run("work")).error or "")


async def test_a_step_may_be_tried_again_until_it_is_recorded(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> int:
        def fail_at(n: int) -> Any:
            def run() -> int:
                if n < 2:
                    raise ValueError(n)
                return n

            return run

        for n in range(3):
            try:
                return await job.step("try", fail_at(n))
            except ValueError:
                continue
        return -1

    assert (await api.run("work")).result == 2


async def test_a_step_that_became_a_transaction_is_told(api: JobApi) -> None:
    @handler("work", failures_max=5)
    async def work(job: Job) -> None:
        async def write(_: Any) -> None: ...

        if job.attempt == 1:
            await job.step("charge", lambda: 1)
            raise Retry(0)
        await job.transaction("charge", write)

    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.FAILED, 2)
    assert "'charge' is recorded as a step, and met as a transaction" in (job.error or "")


async def test_a_name_that_is_random_and_a_type_that_changed_are_logged(
    api: JobApi, capsys: pytest.CaptureFixture[str]
) -> None:
    @handler("work", failures_max=5)
    async def work(job: Job) -> None:
        def count() -> int:
            return 1

        def text() -> str:
            return "one"

        await job.step(f"page {uuid4()}", lambda: 1)
        await job.step("number", text if job.attempt == 1 else count, any_input=True)
        if job.attempt == 1:
            raise Retry(0)

    assert (await api.run("work")).status is JobStatus.DONE
    logged = capsys.readouterr().out
    assert "steps.not_met" in logged
    assert "page " in logged.partition("steps.not_met")[2]
    assert "step.type_changed" in logged


async def test_a_checkpoint_saved_again_in_an_attempt_is_the_new_state(api: JobApi) -> None:
    returned: list[Any] = []

    @handler("work", failures_max=3)
    async def work(job: Job) -> Any:
        returned.extend([await job.checkpoint("place", {"n": n}) for n in (1, 2, 3)])
        if job.attempt == 1:
            raise Retry(0)
        found = await job.checkpoint_at("place")
        return found and found.state

    assert (await api.run("work")).result == {"n": 3}
    assert [one["n"] for one in returned] == [1, 2, 3, 3, 2, 3]


async def test_an_attempt_that_goes_on_from_a_checkpoint_saves_the_next_one(api: JobApi) -> None:
    @handler("work", failures_max=3)
    async def work(job: Job) -> Any:
        found = await job.latest_checkpoint()
        n = found.state if found else 0
        while n < 5:
            n += 1
            await job.checkpoint("place", n)
            if job.attempt == 1 and n == 2:
                raise Retry(0)
        found = await job.checkpoint_at("place")
        return found and found.state

    assert (await api.run("work")).result == 5


async def test_bytes_stand_beside_a_state_and_old_checkpoints_leave_by_themselves(
    api: JobApi,
) -> None:
    @handler("work", failures_max=3)
    async def work(job: Job) -> Any:
        if job.attempt == 1:
            for n in range(1, 5):
                await job.checkpoint(f"epoch {n}", n, blob=bytes([n, 0, 255]), keep=2)
            await job.checkpoint("epoch 4", 44, blob=b"again")
            raise Retry(0)
        stands = await job.checkpoint("epoch 3", 0, blob=b"not this")
        found = [await job.checkpoint_at(at) for at in (3, "epoch 4", 1, "epoch 2", "epoch 5")]
        latest = await job.latest_checkpoint()
        assert latest == found[1]
        return stands, [one and (one.name, one.state, list(one.blob or b"")) for one in found]

    third, fourth = ["epoch 3", 3, [3, 0, 255]], ["epoch 4", 44, list(b"again")]
    assert (await api.run("work")).result == [3, [third, fourth, None, None, None]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0}, "0 checkpoints cannot be kept"),
        ({"blob": "text"}, "the blob of checkpoint 'a' is str, not bytes"),
    ],
)
async def test_a_checkpoint_that_cannot_be_saved_is_refused(
    api: JobApi, options: dict[str, Any], words: str
) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        return await job.checkpoint("a", 1, **options)

    assert words in ((await api.run("work")).error or "")


@pytest.mark.parametrize("given", ["list", "arguments", "generator"])
async def test_gather_takes_children_and_lists_of_them(api: JobApi, given: str) -> None:
    @handler("child")
    def child(n: int) -> int:
        return n

    @handler("parent", failures_max=1)
    async def parent(job: Job) -> list[int]:
        children = [job.spawn("child", {"n": n}) for n in range(3)]
        match given:
            case "list":
                return await job.gather(children)
            case "generator":
                return await job.gather(one for one in children)
            case _:
                return await job.gather(*children)

    assert (await api.run("parent")).result == [0, 1, 2]


async def test_gather_of_anything_else_fails_at_once_and_says_what_it_takes(api: JobApi) -> None:
    @handler("parent", failures_max=5)
    async def parent(job: Job) -> Any:
        wrong: Any = "child"
        return await job.gather(wrong)

    job = await api.run("parent")
    assert (job.status, job.failures) == (JobStatus.FAILED, 1)
    assert "it takes the children that job.spawn returned" in (job.error or "")
