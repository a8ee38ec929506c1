"""An answer that was paid for and cannot be used ends its job once, for good, and is kept."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import InvalidInput
from db.money.amount import checked_amount
from db.money.calls import CallStatus, UsageSource
from db.queue.jobs import JobStatus
from jobsworth import Answer, Job, Sending, Usage, handler
from tests.support import run_cli
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of
from worker.money import unusable

CALL: dict[str, Any] = {"provider": "scripted", "model": "m-1", "estimate": (100, 50)}
USAGE = Usage(7, 3)


@dataclass
class Reply:
    """What an SDK returns: no JSON, but its text is in it."""

    text: str
    close: Any = print


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError("no")


# Mistakes that a type checker would show.
LOOSE: Any = Answer


@pytest.mark.parametrize(
    ("answer", "says", "kept"),
    [
        (LOOSE(content="gold", usage=USAGE, cost=0.01), "give a Decimal", '"gold"'),
        (LOOSE(content="gold", usage=USAGE, cost="1"), "is a str, not an amount", '"gold"'),
        (LOOSE(content="gold", usage=(7, 3)), "is not a Usage", '"gold"'),
        (LOOSE(content="gold", usage=USAGE, price_version=1), "is not a text", '"gold"'),
        (LOOSE(content="gold", usage=USAGE, price={"x": print}), "its price", '"gold"'),
        ("gold", "it is a str and not an Answer", '"gold"'),
        (Answer(Reply("gold"), USAGE), "the answer of call 'think'", None),
        (Answer({"said": b"gold\xff"}, USAGE), "the answer of call 'think'", None),
    ],
    ids=lambda value: "" if isinstance(value, Answer) else str(value),
)
async def test_it_is_paid_once_and_kept(
    api: JobApi, answer: Any, says: str, kept: str | None
) -> None:
    sent: list[int] = []

    @handler("work", failures_max=3)
    async def work(job: Job) -> Any:
        async def send(_: Sending) -> Any:
            sent.append(job.attempt)
            return answer

        return await job.call("think", send, **CALL)

    job = await api.run("work")
    assert (job.status, job.failures, sent) == (JobStatus.FAILED, 1, [1]), job.error
    assert says in (job.error or "")
    assert f"jobsworth job show {job.id}" in (job.error or "")
    [call] = await calls_of(api, job.id)
    assert call.status is CallStatus.OK
    source = UsageSource.ESTIMATED if "Usage" in says or "Answer" in says else UsageSource.PROVIDER
    assert call.usage_source == source
    recorded = await api.value("select max(output::text) from jobsworth.steps")
    assert recorded == kept
    assert "gold" in (kept or call.error or "")
    shown = run_cli("job", "show", str(job.id), url=api.url).stdout
    assert "gold" in shown
    if kept is not None:
        # A retry reads what was paid for.
        async with api.database.connection() as connection:
            await connection.execute("select jobsworth.retry(%s)", [job.id])
        await api.work()
        assert ((await api.job(job.id)).result, sent) == ("gold", [1])


@pytest.mark.parametrize("swallowed", [False, True])
async def test_a_block_that_is_left_without_an_answer_is_paid_once(
    api: JobApi, swallowed: bool
) -> None:
    sent: list[int] = []

    @handler("work", failures_max=3)
    async def work(job: Job) -> Any:
        async with job.call("think", provider="scripted", model="m", estimate=(100, 50)) as call:
            if not call.recorded:
                sent.append(job.attempt)
                if swallowed:
                    await call.answered(Reply("gold"), 7, 3)
        return call.output

    job = await api.run("work")
    assert (job.status, job.failures, sent) == (JobStatus.FAILED, 1, [1]), job.error
    [call] = await calls_of(api, job.id)
    if swallowed:
        assert (call.status, call.input_tokens) == (CallStatus.OK, 7)
        assert "gold" in (call.error or "")
    else:
        assert "left without an answer" in (job.error or "")
        assert (call.status, call.input_tokens) == (CallStatus.UNKNOWN, 100)


async def test_its_text_is_bounded_and_masked(api: JobApi) -> None:
    key = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"

    @handler("work")
    async def work(job: Job) -> Any:
        async def send(_: Sending) -> Any:
            return Answer({"said": f"{key} gold", "x": [print] * 50_000}, USAGE)

        return await job.call("think", send, **CALL)

    job = await api.run("work")
    [call] = await calls_of(api, job.id)
    assert key not in f"{call.error} {job.error}"
    assert "gold" in (call.error or "")
    assert len(call.error or "") <= unusable.TEXT_CHARACTERS_MAX


ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.decimals(),
    st.builds(object),
    st.builds(Silent),
    st.lists(st.builds(Silent), max_size=2),
    st.dictionaries(st.text(max_size=3), st.floats(), max_size=2),
)


@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_nothing_that_a_handler_gives_raises_before_it_is_settled(
    content: Any, usage: Any, cost: Any, version: Any, price: Any
) -> None:
    for given_answer in (content, LOOSE(content, usage, cost, version, price)):
        found, wrong = unusable.sound(given_answer)
        assert isinstance(found.usage, Usage | None)
        assert isinstance(found.cost, Decimal | None)
        assert isinstance(found.price_version, str | None)
        assert all(wrong)
        assert isinstance(unusable.text_of(found.content), str)


@pytest.mark.parametrize("value", [0.5, float("nan"), True, "1", 10**12, Decimal("inf")])
def test_an_amount_is_a_decimal_or_a_whole_number(value: Any) -> None:
    assert checked_amount(3) == Decimal(3)
    with pytest.raises(InvalidInput):
        checked_amount(value)
