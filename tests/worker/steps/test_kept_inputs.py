"""A step keeps its arguments for people to read, and one that failed leaves its row."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, LiteralString, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.documents import from_document
from jobsworth import Job, handler
from tests.worker.job_api import JobApi
from worker.steps.input_hash import input_hash, input_of

STEPS: LiteralString = """
select s.name, s.input, s.output, s.error, s.attempt, s.failed_at is not null as failed,
  s.finished_at is not null as recorded, s.failed_at - s.started_at as took
from jobsworth.steps s order by s.started_at, s.name
"""


async def rows(api: JobApi) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in await api.rows(STEPS)}


async def test_a_step_keeps_its_input_and_a_failed_one_its_error(
    api: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is recorded. A step of an attempt that ends well leaves its row too."""
    monkeypatch.setenv("SHOP_API_KEY", "canary-in-the-coal-mine")

    def add(start: int, *, by: int) -> int:
        return start + by

    async def fetch(job: Job, url: str, key: str) -> str:
        if job.attempt == 1:
            raise ConnectionError(f"{url} does not answer to {key}")
        return "page"

    async def hang() -> None:
        await anyio.sleep_forever()

    @handler("work", timeout_seconds=5)
    async def work(job: Job) -> str:
        await job.step("add", add, 1, by=10)
        with suppress(ZeroDivisionError):
            await job.step("optional", lambda: 1 / 0)
        return await job.step("fetch", fetch, job, "http://shop", "canary-in-the-coal-mine")

    @handler("late", timeout_seconds=0.05, failures_max=1)
    async def late(job: Job) -> None:
        await job.step("hang", hang)

    async with api.working():
        job_id = await api.enqueue("work")
        while (await api.job(job_id)).failures < 1:
            await anyio.sleep(0.01)
        failed = await rows(api)
        await api.idle()
    assert failed["add"]["input"] == [[1], {"by": 10}]
    assert failed["fetch"]["failed"] != failed["fetch"]["recorded"]
    now = await rows(api)
    assert (now["fetch"]["output"], now["fetch"]["error"], now["fetch"]["failed"]) == (
        "page",
        None,
        False,
    )
    assert now["optional"]["error"] == "ZeroDivisionError: division by zero"
    assert (now["optional"]["recorded"], now["optional"]["attempt"]) == (False, 2)
    assert "canary" not in json.dumps([*failed.values(), *now.values()], default=str)
    await api.run("late")
    hung = (await rows(api))["hang"]
    assert hung["error"] == "it was stopped while it ran"
    assert hung["took"].total_seconds() > 0.01


async def test_what_failed_as_a_step_may_become_a_call_a_sleep_or_an_unsafe_step(
    api: JobApi,
) -> None:
    """A failed row is no mark of a step that was begun, and stands in no answer's way."""

    def fail() -> None:
        raise ValueError("not yet")

    @handler("work", failures_max=2)
    async def work(job: Job) -> Any:
        if job.attempt == 1:
            await job.step("draft", fail)
        return await job.step("draft", lambda: "once", effect="unsafe")

    job = await api.run("work")
    assert (job.result, job.waiting_for) == ("once", None)


def texts_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        pairs = cast(dict[str, Any], value).items()
        return [text for pair in pairs for one in pair for text in texts_in(one)]
    if isinstance(value, list):
        return [text for one in cast(list[Any], value) for text in texts_in(one)]
    return [value] if isinstance(value, str) else []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just('password=abc\\"x'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(args=st.lists(values, max_size=3), kwargs=st.dictionaries(st.text(), values, max_size=2))
def test_any_arguments_become_a_document_of_bounded_length(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    given = input_of(args, kwargs, 200)
    assert given.hash == input_hash(args, kwargs)
    if args or kwargs:
        document = from_document(given.document or "")
        assert not any("\0" in text for text in texts_in(document))
        assert len(document) == 2
        assert len(given.document or "") < 3_000
    else:
        assert given.document is None
    assert input_of(args, kwargs, 0).document is None
