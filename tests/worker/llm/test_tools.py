"""Tools of agents inside jobs: recorded, declared, parallel, and asked for where they must be."""

from __future__ import annotations

import datetime
from typing import Any

import anyio
import pytest
from psycopg.types.json import Jsonb
from pydantic_ai import Agent, ApprovalRequired, BinaryContent, CallDeferred, RunContext, ToolReturn

from db.approvals import consumption
from db.approvals.approvals import Approval
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.openai_stub import OpenAIStub
from tests.worker.job_api import JobApi
from tests.worker.llm.support import model_at, steps_of


async def test_a_tool_declared_no_step_is_run_in_every_replay(
    api: JobApi, provider: OpenAIStub
) -> None:
    ran: list[str] = []
    agent = Agent(model_at(provider))

    @agent.tool_plain
    def now() -> str:
        ran.append("now")
        return f"time {len(ran)}"

    @agent.tool_plain
    def charge() -> str:
        ran.append("charge")
        return "charged"

    @handler("work")
    async def work(job: Job) -> str:
        prompt = "[[call now {} ;; call charge {} ;; say {results}]]"
        answer = await job.agent("pay", agent, prompt, effects={"now": None, "charge": "pure"})
        if job.attempt == 1:
            raise ConnectionError("after the answer")
        return answer

    job = await api.run("work")
    assert job.result == "charged"
    assert ran == ["now", "charge", "now"]
    assert "pay/request 1/tool now 1" not in await steps_of(api, job.id)


async def test_effects_of_a_tool_that_the_agent_does_not_have_are_refused(
    api: JobApi, provider: OpenAIStub
) -> None:
    agent = Agent(model_at(provider))

    @agent.tool_plain
    def charge() -> str:
        return "charged"

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("pay", agent, "hi", effects={"chrage": "unsafe"})

    job = await api.run("work")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert "chrage, which the agent does not have; its tools are: charge" in (job.error or "")
    assert provider.requests == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"effects": {"charge": "unsave"}}, "effect 'unsave' of tool 'charge' is not known"),
        ({"if_changed": "ignore"}, "if_changed='ignore' is not known"),
    ],
    ids=["effect", "if_changed"],
)
async def test_an_option_that_is_not_known_is_refused(
    api: JobApi, provider: OpenAIStub, options: Any, said: str
) -> None:
    agent = Agent(model_at(provider))

    @handler("work", failures_max=1)
    async def work(job: Job) -> str:
        return await job.agent("pay", agent, "hi", **options)

    assert said in ((await api.run("work")).error or "")
    assert provider.requests == []


async def test_a_result_that_cannot_be_recorded_is_refused_by_name(
    api: JobApi, provider: OpenAIStub
) -> None:
    agent = Agent(model_at(provider))

    @agent.tool_plain
    def connect() -> Any:
        return object()

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("open", agent, "[[call connect {} ;; say done]]")

    job = await api.run("work")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert "tool 'connect' returned a object that cannot be recorded" in (job.error or "")
    assert "effects={'connect': None}" in (job.error or "")


async def test_tools_run_side_by_side_and_are_recorded_by_their_place(
    api: JobApi, provider: OpenAIStub
) -> None:
    met = anyio.Event()
    agent = Agent(model_at(provider))

    @agent.tool_plain
    async def meet(n: int) -> int:
        # The first waits for the second: one after the other, they would never end.
        if n == 1:
            await met.wait()
        met.set()
        return n

    @handler("work", timeout_seconds=5)
    async def work(job: Job) -> str:
        prompt = '[[call meet {"n": 1} + call meet {"n": 2} ;; say {results}]]'
        return await job.agent("pair", agent, prompt)

    job = await api.run("work")
    assert job.result == "1, 2"
    rows = await api.rows("select name, output from jobsworth.steps where name like '%%tool%%'")
    assert {row["name"]: row["output"]["result"] for row in rows} == {
        "pair/request 1/tool meet 1": 1,
        "pair/request 1/tool meet 2": 2,
    }


async def test_rich_results_come_out_of_the_record_as_they_went_in(
    api: JobApi, provider: OpenAIStub
) -> None:
    agent = Agent(model_at(provider))

    @agent.tool_plain
    def look() -> ToolReturn:
        picture = BinaryContent(b"\x89PNG", media_type="image/png")
        return ToolReturn({"day": datetime.date(2026, 1, 2)}, content=["a picture", picture])

    @handler("work")
    async def work(job: Job) -> str:
        answer = await job.agent("look", agent, "[[call look {} ;; say {results}]]")
        if job.attempt == 1:
            raise ConnectionError("after the answer")
        return answer

    job = await api.run("work")
    assert (job.result, job.failures) == ('{"day":"2026-01-02"}', 1)
    assert "image/png" in str(provider.requests[1].body["messages"])
    assert len(provider.bill) == 2


# Consent.


def paying(provider: OpenAIStub, charged: list[int], prompt: str) -> None:
    """The handler "work": an agent that may charge only what somebody has approved."""
    agent = Agent(model_at(provider))

    @agent.tool_plain(requires_approval=True)
    def charge(euros: int) -> str:
        charged.append(euros)
        return f"{euros} charged"

    @agent.tool
    def refund(ctx: RunContext[object], euros: int) -> str:
        if euros > 10 and not ctx.tool_call_approved:
            raise ApprovalRequired
        return f"{euros} refunded"

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("pay", agent, prompt)


async def test_a_tool_that_requires_approval_parks_the_job_and_is_run_once(
    api: JobApi, provider: OpenAIStub
) -> None:
    charged: list[int] = []
    paying(provider, charged, '[[call charge {"euros": 5} ;; say {results}]]')
    job = await api.run("work")
    assert (job.status, job.waiting_for, charged) == (JobStatus.WAITING, "approval", [])
    asked = await api.approval(job.id)
    assert asked.proposal_text == 'Let pay call charge({"euros":5})?'
    assert asked.shown == {"tool": "charge", "arguments": {"euros": 5}}
    await api.decide(job.id, "approve")
    await api.work()
    job = await api.job(job.id)
    assert (job.result, charged) == ("5 charged", [5])
    assert len(provider.bill) == 2
    [spent] = await api.rows("select consumed_by from jobsworth.approvals")
    assert spent["consumed_by"] == "pay/request 1/tool charge 1"


async def test_a_person_may_change_what_a_tool_is_called_with(
    api: JobApi, provider: OpenAIStub
) -> None:
    charged: list[int] = []
    paying(provider, charged, '[[call charge {"euros": 5} ;; say {results}]]')
    job = await api.run("work")
    asked = await api.approval(job.id)
    await api.rows(
        "select jobsworth.resolve(%(id)s, 'approve', decided_by => 'Ann', edited => %(edited)s)",
        id=asked.id,
        edited=Jsonb({"tool": "charge", "arguments": {"euros": 3}}),
    )
    await api.work()
    assert ((await api.job(job.id)).result, charged) == ("3 charged", [3])


async def test_a_yes_to_the_call_of_another_tool_runs_nothing(
    api: JobApi, provider: OpenAIStub
) -> None:
    charged: list[int] = []
    paying(provider, charged, '[[call charge {"euros": 5} ;; say {results}]]')
    job = await api.run("work")
    await api.rows(
        "select jobsworth.resolve(%(id)s, 'approve', 'Ann', edited => "
        """'{"tool": "refund", "arguments": {"euros": 5}}')""",
        id=(await api.approval(job.id)).id,
    )
    await api.work()
    job = await api.job(job.id)
    assert (job.status, charged) == (JobStatus.FAILED, [])
    assert "not a call of tool 'charge'" in (job.error or "")


async def test_a_no_that_comes_before_the_tool_begins_counts(
    api: JobApi, provider: OpenAIStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent has read the yes already; the transaction that begins the step finds the no."""
    charged: list[int] = []
    paying(provider, charged, '[[call charge {"euros": 5} ;; say it said {results}]]')
    job = await api.run("work")
    asked = await api.approval(job.id)
    await api.decide(job.id, "approve")
    consume = consumption.consume

    async def consume_after_the_no(*args: Any) -> Approval:
        await api.rows(
            "select jobsworth.resolve(%(id)s, 'reject', decided_by => 'Bob')", id=asked.id
        )
        return await consume(*args)

    monkeypatch.setattr(consumption, "consume", consume_after_the_no)
    await api.work()
    job = await api.job(job.id)
    assert (job.result, charged) == ("it said The tool call was denied.", [])


async def test_a_rejected_tool_is_not_run_and_the_model_hears_why(
    api: JobApi, provider: OpenAIStub
) -> None:
    charged: list[int] = []
    paying(provider, charged, '[[call charge {"euros": 5} ;; say it said {results}]]')
    job = await api.run("work")
    await api.decide(job.id, "reject", comment="too much")
    await api.work()
    assert ((await api.job(job.id)).result, charged) == ("it said too much", [])


async def test_several_tools_are_asked_for_at_once(api: JobApi, provider: OpenAIStub) -> None:
    charged: list[int] = []
    paying(
        provider,
        charged,
        '[[call charge {"euros": 5} + call refund {"euros": 3} + call refund {"euros": 30} '
        '+ call charge {"euros": 6} ;; say {results}]]',
    )
    job = await api.run("work")
    pending = await api.rows("select id, proposal_text from jobsworth.approvals order by id")
    assert [row["proposal_text"] for row in pending] == [
        'Let pay call charge({"euros":5})?',
        'Let pay call refund({"euros":30})?',
        'Let pay call charge({"euros":6})?',
    ]
    for row, option in zip(pending, ("approve", "approve", "reject"), strict=True):
        await api.rows(
            "select jobsworth.resolve(%(id)s, %(option)s, decided_by => 'Ann')",
            id=row["id"],
            option=option,
        )
        await api.work()
    job = await api.job(job.id)
    assert job.result == "5 charged, 3 refunded, 30 refunded, The tool call was denied."
    assert charged == [5]


@pytest.mark.parametrize("kind", ["external", "question"])
async def test_calls_to_be_answered_from_outside_are_refused(
    api: JobApi, provider: OpenAIStub, kind: Any
) -> None:
    agent = Agent(model_at(provider))

    @agent.tool_plain
    def elsewhere() -> str:
        raise CallDeferred(kind=kind)

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("defer", agent, "[[call elsewhere {} ;; say done]]")

    job = await api.run("work")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert "defers calls of elsewhere" in (job.error or "")


async def test_a_tool_may_park_the_job_itself(api: JobApi, provider: OpenAIStub) -> None:
    agent = Agent(model_at(provider), deps_type=Job)

    @agent.tool
    async def nap(ctx: RunContext[Job]) -> str:
        await ctx.deps.sleep(0.05, name="nap")
        return "slept"

    @handler("work")
    async def work(job: Job) -> str:
        prompt = "[[call nap {} ;; say {results}]]"
        return await job.agent("rest", agent, prompt, deps=job, effects={"nap": None})

    job = await api.run("work")
    assert (job.result, job.attempt, job.failures) == ("slept", 2, 0)
    assert len(provider.bill) == 2
