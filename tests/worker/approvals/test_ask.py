"""Asking, in full: a yes is for exactly what was asked, is used once, and replays read it."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import anyio
import pytest

from db.approvals import approvals, consumption
from db.approvals.approvals import Approval, ApprovalStatus
from db.queue.jobs import JobStatus, WaitReason
from db.steps import unsafe
from jobsworth import Fail, Job, NotApproved, handler
from tests.worker.job_api import JobApi
from worker.steps.declaration import StepEffect

STEPS: LiteralString = "select name, kind, effect::text from jobsworth.steps order by started_at"
FINISH_STEPS: LiteralString = """
update jobsworth.steps set finished_at = now(), output = '"by hand"' where finished_at is null
"""


async def vote(
    api: JobApi, approval_id: UUID, option: str = "approve", who: str = "Ann", **options: Any
) -> approvals.Resolution:
    async with api.database.connection() as connection:
        return await approvals.resolve(connection, approval_id, option, who, **options)


async def read(api: JobApi, approval_id: UUID) -> Approval:
    async with api.database.connection() as connection:
        return await approvals.get_by_id(connection, approval_id)


async def test_a_yes_is_consumed_by_the_asks_own_step(api: JobApi) -> None:
    seen: list[Any] = []

    @handler("ask")
    async def ask(job: Job) -> None:
        decision = await job.ask("Ship it?", shows={"n": 1}, name="ship")
        seen.append((job.attempt, decision))
        if job.attempt == 2:
            raise ConnectionError("after the yes")

    job = await api.run("ask")
    asked = await api.approval(job.id)
    await api.decide(job.id, "approve")
    await api.work()
    stands = await read(api, asked.id)
    assert stands.consumed_by == "approval:ship"
    assert await api.rows(STEPS) == [
        {"name": "approval:ship", "kind": "approval", "effect": "idempotent"}
    ]
    assert [attempt for attempt, _ in seen] == [2, 3]
    assert seen[0][1] == seen[1][1]
    assert (seen[1][1].shown, seen[1][1].approval_id) == ({"n": 1}, asked.id)
    assert not (await vote(api, asked.id, "reject")).accepted


async def test_a_no_that_comes_before_the_job_goes_on_is_what_it_gets(api: JobApi) -> None:
    @handler("ask")
    async def ask(job: Job) -> list[Any]:
        decision = await job.ask("Ship it?")
        return [decision.approved, decision.decided_by]

    job = await api.run("ask")
    asked = await api.approval(job.id)
    await vote(api, asked.id)
    assert (await vote(api, asked.id, "reject", "Bob")).accepted
    await api.work()
    assert (await api.job(job.id)).result == [False, "Bob"]
    assert await api.rows(STEPS) == []


async def test_a_changed_question_is_asked_anew_with_its_difference(api: JobApi) -> None:
    plans = ["a", "a\nb"]

    @handler("ask")
    async def ask(job: Job) -> Any:
        decision = await job.ask("Carry it out?", shows=plans[min(job.attempt, 2) - 1], name="p")
        return decision.shown

    job = await api.run("ask")
    first = await api.approval(job.id)
    await vote(api, first.id)
    await api.work()
    waiting = await api.job(job.id)
    assert (waiting.status, waiting.waiting_for) == (JobStatus.WAITING, WaitReason.APPROVAL)
    second = await api.approval(job.id)
    assert (await read(api, first.id)).superseded_by == second.id
    assert second.supersedes == first.id
    assert (second.difference or "").endswith(" a\n+b")
    await vote(api, second.id)
    await api.work()
    assert (await api.job(job.id)).result == "a\nb"


async def test_what_was_approved_and_used_cannot_become_something_else(api: JobApi) -> None:
    @handler("ask")
    async def ask(job: Job) -> None:
        await job.ask("Carry it out?", shows=max(job.attempt, 2), name="p")
        raise ConnectionError("after the yes")

    job = await api.run("ask", failures_max=2)
    await api.decide(job.id, "approve")
    await api.work()
    ended = await api.job(job.id)
    assert ended.status is JobStatus.FAILED
    assert "was approved and used; now it asks something else" in (ended.error or "")


async def test_several_must_agree_and_an_edit_comes_back(api: JobApi) -> None:
    @handler("ask")
    async def ask(job: Job) -> Any:
        return (await job.ask("Send?", shows={"to": "all"}, votes=2, editable=True)).shown

    job = await api.run("ask")
    asked = await api.approval(job.id)
    await vote(api, asked.id, who="Ann", edited={"to": "some"})
    await api.work()
    assert (await api.job(job.id)).status is JobStatus.WAITING
    await vote(api, asked.id, who="Bob")
    await api.work()
    assert (await api.job(job.id)).result == {"to": "some"}


async def test_a_rejected_question_that_changed_is_asked_anew(api: JobApi) -> None:
    words = ["no", "yes"]

    @handler("ask")
    async def ask(job: Job) -> bool:
        decision = await job.ask(f"Say {words[0]}?", name="p")
        if not decision.approved:
            words.pop(0)
            raise ConnectionError("try another one")
        return True

    job = await api.run("ask")
    await api.decide(job.id, "reject")
    await api.work()
    asked = await api.approval(job.id)
    assert asked.proposal_text == "Say yes?"
    assert (await read(api, asked.supersedes or asked.id)).status is ApprovalStatus.REJECTED
    await vote(api, asked.id)
    await api.work()
    assert (await api.job(job.id)).result is True


async def test_a_successor_by_hand_is_what_the_job_gets(api: JobApi) -> None:
    @handler("ask")
    async def ask(job: Job) -> Any:
        return (await job.ask("Send?", shows="all", editable=True)).shown

    job = await api.run("ask")
    asked = await api.approval(job.id)
    async with api.database.connection() as connection:
        new = await approvals.create(connection, "Send?", shown="some")
        await approvals.supersede(connection, asked.id, new.id)
    await api.work()
    assert (await api.job(job.id)).status is JobStatus.WAITING
    await vote(api, new.id)
    await api.work()
    assert (await api.job(job.id)).result == "some"


# A step that needs a yes.


def register_ship(ran: list[Any], **options: Any) -> None:
    @handler("ship")
    async def ship(job: Job) -> Any:
        def send(where: str, *, n: int) -> str:
            ran.append((job.attempt, where, n))
            if len(ran) < int(options.get("fails", 0)) + 1:
                raise ConnectionError("the line is dead")
            return f"sent to {where}"

        asking = {k: v for k, v in options.items() if k != "fails"}
        return await job.approved_step("send", send, "here", n=3, proposal="Send it?", **asking)


async def test_a_step_runs_only_with_a_yes_to_its_arguments(api: JobApi) -> None:
    ran: list[Any] = []
    register_ship(ran)
    job = await api.run("ship")
    asked = await api.approval(job.id)
    assert asked.shown == {"step": "send", "args": ["here"], "kwargs": {"n": 3}}
    assert ran == []
    await vote(api, asked.id)
    await api.work()
    assert (await api.job(job.id)).result == "sent to here"
    assert ran == [(2, "here", 3)]
    assert (await read(api, asked.id)).consumed_by == "send"
    assert await api.rows(STEPS) == [{"name": "send", "kind": "step", "effect": "idempotent"}]


async def test_of_several_options_the_chosen_one_is_consumed_by_the_step_it_is_for(
    api: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    @handler("order")
    async def order(job: Job) -> Any:
        sizes = ("small", "large")
        decision = await job.ask("Which?", options=sizes, name="size", for_step="order")
        if not decision.approved:
            return f"not ordered: {decision.comment}"
        return await job.step("order", ran.append, decision.option)

    job = await api.run("order")
    asked = await api.approval(job.id)
    await vote(api, asked.id, "large")
    consume = consumption.consume

    async def consume_after_the_no(*args: Any) -> Approval:
        monkeypatch.setattr(consumption, "consume", consume)
        assert (await vote(api, asked.id, "reject", "Bob", comment="too dear")).accepted
        return await consume(*args)

    monkeypatch.setattr(consumption, "consume", consume_after_the_no)
    await api.work()
    assert ((await api.job(job.id)).result, ran) == ("not ordered: too dear", [])

    job = await api.run("order")
    asked = await api.approval(job.id)
    await vote(api, asked.id, "small")
    await api.work()
    assert ran == ["small"]
    assert (await read(api, asked.id)).consumed_by == "order"
    assert not (await vote(api, asked.id, "reject", "Bob")).accepted
    assert await api.violations() == []


async def test_a_step_that_was_refused_does_not_run(api: JobApi) -> None:
    ran: list[Any] = []
    register_ship(ran)
    job = await api.run("ship")
    await api.decide(job.id, "reject", comment="not today")
    await api.work()
    ended = await api.job(job.id)
    assert (ended.status, ran) == (JobStatus.FAILED, [])
    assert ended.error == "step 'send' was not approved, by Ann: not today"
    assert issubclass(NotApproved, Exception)


async def test_an_idempotent_step_uses_its_approval_again(api: JobApi) -> None:
    ran: list[Any] = []
    register_ship(ran, fails=1)
    job = await api.run("ship")
    await api.decide(job.id, "approve")
    await api.work()
    ended = await api.job(job.id)
    assert (ended.result, [attempt for attempt, *_ in ran]) == ("sent to here", [2, 3])


async def test_an_unsafe_step_that_was_begun_waits_for_a_person(api: JobApi) -> None:
    ran: list[Any] = []
    register_ship(ran, fails=1, effect="unsafe")
    job = await api.run("ship")
    await api.decide(job.id, "approve")
    await api.work()
    waiting = await api.job(job.id)
    assert (waiting.status, waiting.waiting_for) == (JobStatus.WAITING, WaitReason.PERSON)
    assert len(ran) == 1
    await api.database.execute(FINISH_STEPS)
    async with api.database.connection() as connection:
        await connection.execute(
            "select jobsworth.reconsider(array[%s::uuid], wait_for_locks => true)", [job.id]
        )
    await api.work()
    assert ((await api.job(job.id)).result, len(ran)) == ("by hand", 1)


async def test_a_yes_is_unspent_by_a_step_that_says_it_did_not_happen(api: JobApi) -> None:
    @handler("ship")
    async def ship(job: Job) -> Any:
        async def send() -> None:
            raise Fail("the shop is closed")

        return await job.approved_step("send", send, proposal="Send it?", effect="unsafe")

    job = await api.run("ship")
    asked = await api.approval(job.id)
    await api.decide(job.id, "approve")
    await api.work()
    assert (await api.job(job.id)).error == "the shop is closed"
    assert await api.violations() == []
    assert (await vote(api, asked.id, "reject")).accepted


async def test_a_step_that_may_run_again_uses_its_yes_again(api: JobApi) -> None:
    ran: list[Any] = []
    register_ship(ran, fails=1, effect="unsafe")
    job = await api.run("ship")
    asked = await api.approval(job.id)
    await api.decide(job.id, "approve")
    await api.work()
    async with api.database.connection() as connection:
        await unsafe.decide(connection, job.id, "send", "again", decided_by="Bob")
    assert await api.violations() == []
    assert (await read(api, asked.id)).consumed_by is None
    await api.work()
    assert ((await api.job(job.id)).result, len(ran)) == ("sent to here", 2)
    assert (await read(api, asked.id)).consumed_by == "send"


async def test_the_arguments_that_a_person_wrote_are_those_it_runs_with(api: JobApi) -> None:
    ran: list[Any] = []
    register_ship(ran, editable=True)
    job = await api.run("ship")
    asked = await api.approval(job.id)
    await vote(api, asked.id, edited={"step": "send", "args": ["there"], "kwargs": {"n": 4}})
    await api.work()
    assert (await api.job(job.id)).result == "sent to there"
    assert ran == [(2, "there", 4)]


async def test_an_edit_that_names_no_arguments_runs_nothing(api: JobApi) -> None:
    ran: list[Any] = []
    register_ship(ran, editable=True)
    job = await api.run("ship", failures_max=1)
    asked = await api.approval(job.id)
    await vote(api, asked.id, edited={"step": "send", "args": "there", "kwargs": {}})
    await api.work()
    assert (await api.job(job.id)).status is JobStatus.FAILED
    assert ran == []


@pytest.mark.parametrize(
    ("asking", "reason"),
    [({"effect": "odd"}, "effect='odd'"), ({"votes": 0}, "0 votes")],
)
async def test_what_cannot_be_asked_is_named(
    api: JobApi, asking: dict[str, Any], reason: str
) -> None:
    register_ship([], **asking)
    assert reason in ((await api.run("ship", failures_max=1)).error or "")


async def test_a_no_just_before_the_step_begins_stops_it(
    api: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler has read the yes already; the transaction that begins the step finds the no."""
    ran: list[Any] = []
    register_ship(ran)
    job = await api.run("ship")
    asked = await api.approval(job.id)
    await vote(api, asked.id)
    consume = consumption.consume

    async def consume_after_the_no(*args: Any) -> Approval:
        assert (await vote(api, asked.id, "reject", "Bob")).accepted
        return await consume(*args)

    monkeypatch.setattr(consumption, "consume", consume_after_the_no)
    await api.work()
    ended = await api.job(job.id)
    assert (ended.status, ended.failures, ran) == (JobStatus.FAILED, 1, [])
    assert ended.error == "step 'send' was not approved, by Bob"
    assert await api.rows(STEPS) == []


@pytest.mark.parametrize("effect", ["idempotent", "unsafe"])
async def test_a_worker_that_dies_in_the_step_leaves_it_to_the_next_or_to_a_person(
    api: JobApi, effect: StepEffect
) -> None:
    begun = anyio.Event()
    ran: list[int] = []

    @handler("ship")
    async def ship(job: Job) -> Any:
        async def send() -> int:
            ran.append(job.attempt)
            if len(ran) == 1:
                begun.set()
                await anyio.sleep_forever()
            return job.attempt

        return await job.approved_step("send", send, proposal="Send it?", effect=effect)

    job = await api.run("ship")
    await api.decide(job.id, "approve")
    async with api.dying() as worker:
        with anyio.fail_after(20):
            await begun.wait()
        worker.kill()
    await api.work()
    stands = await api.job(job.id)
    if effect == "idempotent":
        assert (stands.status, ran) == (JobStatus.DONE, [2, 3])
    else:
        assert (stands.waiting_for, ran) == (WaitReason.PERSON, [2])


async def test_a_worker_that_dies_after_the_yes_was_consumed_reads_it_back(api: JobApi) -> None:
    begun = anyio.Event()
    seen: list[Any] = []

    @handler("ask")
    async def ask(job: Job) -> bool:
        decision = await job.ask("Ship it?")
        seen.append(decision)
        if len(seen) == 1:
            begun.set()
            await anyio.sleep_forever()
        return decision.approved

    job = await api.run("ask")
    asked = await api.approval(job.id)
    await api.decide(job.id, "approve")
    async with api.dying() as worker:
        with anyio.fail_after(20):
            await begun.wait()
        worker.kill()
    assert not (await vote(api, asked.id, "reject")).accepted
    await api.work()
    assert (await api.job(job.id)).result is True
    assert seen[0] == seen[1]
