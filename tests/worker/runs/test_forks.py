"""Forks: a branch reads what was done before the cut, pays for none of it, and runs the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import anyio
import pytest

from db.money.calls import Answer, Usage
from db.queue.jobs import Job as JobRow
from db.queue.jobs import JobStatus
from db.runs import branches
from db.runs.branches import Fork
from db.steps import checkpoints
from jobsworth import Job, Retry, Sending, handler
from tests.db import lineage
from tests.worker.job_api import JobApi

ran: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


def did(what: str, value: Any = None) -> Any:
    ran[what] += 1
    return value if value is not None else f"{what} {ran[what]}"


async def paid(job: Job, name: str) -> str:
    async def send(sending: Sending) -> Answer:
        return Answer(did(name), Usage(70, 30))

    return await job.call(name, send, provider="scripted", model="m-1", estimate=(100, 50))


def write_handlers() -> None:
    """`research` and `draft` record and pay; `publish` needs both."""

    @handler("research")
    async def research(job: Job) -> str:
        return await job.step("look", did, "look")

    @handler("draft")
    async def draft(job: Job, words: int = 10) -> dict[str, Any]:
        page = await job.step("fetch", did, "fetch")
        outline = await paid(job, "outline")
        await job.checkpoint("outlined", outline)
        text = await paid(job, f"write {words}")
        sent = await job.step("send", did, "send", words, effect="unsafe")
        return {"page": page, "outline": outline, "text": text, "sent": sent}

    @handler("publish")
    async def publish(job: Job) -> str:
        parents = await job.database.fetch_all(
            "select p.result from jobsworth.job_edges e"
            " join jobsworth.reactive_jobs p on p.id = e.needs_job_id"
            " where e.job_id = %(id)s order by p.node",
            {"id": job.id},
        )
        did("publish")
        return str([parent["result"] for parent in parents])


NODES: dict[str, tuple[str, dict[str, Any]]] = {
    "research": ("research", {}),
    "draft": ("draft", {"words": 10}),
    "publish": ("publish", {}),
}
EDGES = {"publish": ("draft", "research")}


async def start(
    api: JobApi, nodes: Any = None, edges: Mapping[str, tuple[str, ...]] | None = None
) -> UUID:
    async with api.database.connection() as connection:
        if nodes is None:
            return await lineage.start(connection, NODES, EDGES)
        return await lineage.start(connection, nodes, edges)


async def done_run(api: JobApi) -> UUID:
    """The three nodes, done; nothing is counted any more."""
    write_handlers()
    run_id = await start(api)
    await api.work()
    jobs = await jobs_of(api, run_id)
    assert {job.status for job in jobs.values()} == {JobStatus.DONE}, jobs
    ran.clear()
    return run_id


async def fork(api: JobApi, run_id: UUID, **options: Any) -> Fork:
    async with api.database.connection() as connection:
        return await branches.fork(connection, run_id, **options)


async def forked(api: JobApi, run_id: UUID, **options: Any) -> tuple[UUID, dict[str, JobRow]]:
    """The branch's id, and its jobs once it has run."""
    made = await fork(api, run_id, **options)
    assert made.run_id is not None
    await api.work()
    return made.run_id, await jobs_of(api, made.run_id)


async def jobs_of(api: JobApi, run_id: UUID) -> dict[str, JobRow]:
    async with api.database.connection() as connection:
        ids = await lineage.jobs_of(connection, run_id)
    return {node: await api.job(job_id) for node, job_id in ids.items()}


async def calls(api: JobApi) -> int:
    return await api.value("select count(*) from jobsworth.llm_calls")


async def test_steps_and_calls_before_the_cut_are_read_and_not_paid(api: JobApi) -> None:
    run_id = await done_run(api)
    before = await calls(api)
    _, jobs = await forked(api, run_id, node="draft", step="write 10")
    assert dict(ran) == {"write 10": 1, "send": 1, "publish": 1}
    assert await calls(api) == before + 1
    assert set(jobs) == {"draft", "publish"}
    assert jobs["draft"].result["page"] == "fetch 1"
    assert jobs["draft"].result["outline"] == "outline 1"
    steps = "select name from jobsworth.steps where job_id = %(id)s order by name"
    own = [row["name"] for row in await api.rows(steps, id=jobs["draft"].id)]
    assert own == ["send", "write 10"]


async def test_whoever_reads_its_parents_reads_those_that_were_done_elsewhere(api: JobApi) -> None:
    run_id = await done_run(api)
    _, jobs = await forked(api, run_id, step="send")
    assert "look 1" in jobs["publish"].result
    assert "fetch 1" in jobs["publish"].result


async def test_at_a_checkpoint_the_checkpoint_is_read(api: JobApi) -> None:
    run_id = await done_run(api)
    branch, jobs = await forked(api, run_id, step="outlined", changes={"draft": {"words": 20}})
    assert dict(ran) == {"write 20": 1, "send": 1, "publish": 1}
    assert jobs["draft"].payload == {"words": 20}
    async with api.database.connection() as connection:
        latest = await checkpoints.latest_checkpoint(connection, run_id=branch)
        named = await checkpoints.checkpoint_at(connection, "outlined", job_id=jobs["draft"].id)
    assert latest is not None
    assert latest == named
    assert latest.state == "outline 1"


async def test_without_a_step_the_node_runs_from_its_start(api: JobApi) -> None:
    run_id = await done_run(api)
    _, jobs = await forked(api, run_id, node="draft")
    assert dict(ran) == {"fetch": 1, "outline": 1, "write 10": 1, "send": 1, "publish": 1}
    assert set(jobs) == {"draft", "publish"}


async def test_a_change_that_reaches_a_step_before_the_cut_is_told_with_where_to_fork(
    api: JobApi,
) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job, n: int) -> Any:
        doubled = await job.step("double", did, "double", 2 * n)
        return await job.step("add", did, "add", doubled + 1)

    run_id = await start(api, {"work": ("work", {"n": 1})})
    await api.work()
    _, jobs = await forked(api, run_id, step="add", changes={"work": {"n": 2}})
    error = jobs["work"].error or ""
    assert jobs["work"].status is JobStatus.FAILED
    assert "step 'double', recorded before the fork, is met with another input" in error
    assert f"--node {jobs['work'].node} --at double" in error
    _, jobs = await forked(api, run_id, step="double", changes={"work": {"n": 2}})
    assert jobs["work"].result == 5


async def test_forks_of_forks_read_through_the_chain(api: JobApi) -> None:
    run_id = await done_run(api)
    first, _ = await forked(api, run_id, step="outlined", changes={"draft": {"words": 20}})
    ran.clear()
    before = await calls(api)
    second, jobs = await forked(api, first, node="draft", step="send")
    assert dict(ran) == {"send": 1, "publish": 1}
    assert await calls(api) == before
    assert (jobs["draft"].result["page"], jobs["draft"].result["text"]) == ("fetch 1", "write 20 1")
    # From the third on, the cut may lie before the second's own steps.
    ran.clear()
    _, jobs = await forked(api, second, node="draft", step="outline")
    assert dict(ran) == {"outline": 1, "write 20": 1, "send": 1, "publish": 1}
    assert jobs["draft"].result["page"] == "fetch 1"
    # A node that no branch has run again is forked where it is.
    ran.clear()
    _, jobs = await forked(api, second, node="research")
    assert dict(ran) == {"look": 1, "publish": 1}
    assert "write 20 1" in jobs["publish"].result


async def test_a_branch_of_a_failed_attempt_reads_in_every_attempt(api: JobApi) -> None:
    failing = True

    @handler("work")
    async def work(job: Job) -> str:
        first = await job.step("first", did, "first")
        await job.step("second", did, "second")
        if failing and job.attempt < 3:
            raise Retry(0)
        return first

    run_id = await start(api, {"work": ("work", {})})
    await api.work()
    ran.clear()
    _, jobs = await forked(api, run_id, step="second")
    assert (jobs["work"].result, jobs["work"].attempt) == ("first 1", 3)
    assert dict(ran) == {"second": 1}


async def test_children_that_were_done_before_the_cut_are_gathered_and_not_spawned_again(
    api: JobApi,
) -> None:
    @handler("child")
    async def child(n: int) -> str:
        return did(f"child {n}")

    @handler("work")
    async def work(job: Job, more: int = 0) -> list[Any]:
        first = [job.spawn("child", {"n": n}, name=str(n)) for n in range(3)]
        brought = await job.gather(*first)
        await job.step("between", did, "between")
        last = job.spawn("child", {"n": 3 + more}, name="last")
        return [*brought, *await job.gather(last)]

    run_id = await start(api, {"work": ("work", {})})
    await api.work()
    ran.clear()
    branch, jobs = await forked(api, run_id, step="between", changes={"work": {"more": 6}})
    assert jobs["work"].result == ["child 0 1", "child 1 1", "child 2 1", "child 9 1"]
    assert dict(ran) == {"between": 1, "child 9": 1}
    assert set(jobs) == {"work", "work/child:last"}
    ran.clear()
    _, jobs = await forked(api, branch, node="work", step="between")
    assert dict(ran) == {"between": 1, "child 9": 1}
    assert jobs["work"].result[:3] == ["child 0 1", "child 1 1", "child 2 1"]


async def test_a_dry_run_tells_of_the_children_that_are_started_again(api: JobApi) -> None:
    """Those that were done before the cut are read, a fork of a fork included; the others pay."""

    @handler("child")
    async def child(job: Job, n: int) -> str:
        await job.step("send", did, f"send {n}", effect="unsafe")
        return await paid(job, f"ask {n}")

    @handler("work")
    async def work(job: Job) -> list[Any]:
        brought = await job.gather(job.spawn("child", {"n": 1}, name="first"))
        await job.step("between", did, "between")
        job.enqueue("child", {"n": 3}, name="later")
        return [*brought, *await job.gather(job.spawn("child", {"n": 2}, name="last"))]

    run_id = await start(api, {"work": ("work", {})})
    await api.work()
    ran.clear()
    told = await fork(api, run_id, step="between", dry_run=True)
    assert {each.node: each.part for each in told.nodes} == {
        "work": "fork",
        "work/child:first": "read",
        "work/child:last": "again",
        "work/job:later": "again",
    }
    assert {each.node for each in told.unsafe} == {"work/child:last", "work/job:later"}
    assert (told.reused.calls, told.rerun.calls) == (1, 2)
    branch, _ = await forked(api, run_id, step="between")
    assert dict(ran) == dict.fromkeys(("between", "send 2", "ask 2", "send 3", "ask 3"), 1)

    told = await fork(api, branch, node="work", step="between", dry_run=True)
    assert (told.reused.calls, told.rerun.calls) == (1, 2)
    assert {each.node: each.part for each in told.nodes}["work/child:first"] == "read"
    told = await fork(api, run_id, node="work", dry_run=True)
    assert (told.reused.calls, told.rerun.calls, len(told.unsafe)) == (0, 3, 3)


async def test_a_branch_asks_again_and_says_again(api: JobApi) -> None:
    thread = await api.value(
        "insert into jobsworth.chat_threads (platform, chat_id) values ('test', '1') returning id"
    )

    @handler("work")
    async def work(job: Job) -> str:
        await job.step("first", did, "first")
        decision = await job.ask("Ship it?")
        await job.step("second", did, "second")
        job.say("shipped", thread_id=UUID(str(thread)))
        return decision.option

    run_id = await start(api, {"work": ("work", {})})
    await api.work()
    [first] = (await jobs_of(api, run_id)).values()
    await api.decide(first.id, "approve")
    await api.work()
    _, jobs = await forked(api, run_id, step="second")
    assert jobs["work"].waiting_for == "approval"
    await api.decide(jobs["work"].id, "approve")
    await api.work()
    assert dict(ran) == {"first": 1, "second": 2}
    assert await api.value("select count(*) from jobsworth.chat_messages") == 2


async def test_a_run_that_still_runs_can_be_forked(api: JobApi) -> None:
    """What it has recorded by then is read; what it has not done, both do."""
    here, go = anyio.Event(), anyio.Event()

    @handler("work")
    async def work(job: Job) -> str:
        first = await job.step("first", did, "first")
        if not go.is_set():
            here.set()
            await go.wait()
        return first + " " + await job.step("second", did, "second")

    @handler("side")
    async def side(job: Job) -> str:
        return await job.step("look", did, "look")

    run_id = await start(api, {"side": ("side", {}), "work": ("work", {})})
    async with api.working():
        await here.wait()
        made = await fork(api, run_id, node="side")
        go.set()
        await api.idle()
    assert made.run_id is not None
    assert {each.node: each.part for each in made.nodes} == {"side": "fork", "work": "open"}
    jobs = await jobs_of(api, made.run_id)
    assert jobs["work"].result.startswith("first 1 second ")
    assert (ran["first"], ran["second"]) == (1, 2)


async def test_a_dry_run_changes_nothing_and_says_what_then_happens(api: JobApi) -> None:
    run_id = await done_run(api)
    rows = "select (select count(*) from jobsworth.runs), (select count(*) from jobsworth.branches)"
    counts = await api.rows(rows)
    told = await fork(api, run_id, step="write 10", dry_run=True)
    assert told.run_id is None
    assert await api.rows(rows) == counts
    assert (told.node, told.step) == ("draft", "write 10")
    assert {each.node: each.part for each in told.nodes} == {
        "draft": "fork",
        "publish": "after",
        "research": "read",
    }
    assert [each.name for each in told.unsafe] == ["send"]
    # look, fetch, outline, outlined; write 10, send
    assert (told.reused.steps, told.reused.calls, told.reused.tokens) == (4, 1, 100)
    assert (told.rerun.steps, told.rerun.calls, told.rerun.tokens) == (2, 1, 100)

    before = await calls(api)
    made = await fork(api, run_id, step="write 10")
    assert (made.reused, made.rerun, made.nodes) == (told.reused, told.rerun, told.nodes)
    await api.work()
    assert sum(count for what, count in ran.items() if what != "publish") == told.rerun.steps
    assert {each.name for each in told.steps if not each.reused} == set(ran) - {"publish"}
    assert await calls(api) - before == told.rerun.calls


async def test_a_dry_run_of_a_fork_of_a_fork_counts_what_lies_further_back(api: JobApi) -> None:
    run_id = await done_run(api)
    first, _ = await forked(api, run_id, step="outlined", changes={"draft": {"words": 20}})
    told = await fork(api, first, node="draft", step="send", dry_run=True)
    assert (told.reused.calls, told.rerun.calls) == (2, 0)
    told = await fork(api, first, node="draft", step="outline", dry_run=True)
    assert (told.reused.calls, told.rerun.calls) == (0, 2)
    assert [each.name for each in told.steps if each.node == "draft" and not each.reused] == [
        "outline",
        "outlined",
        "write 20",
        "send",
    ]


async def test_checkpoints_are_saved_once_read_and_pruned(api: JobApi) -> None:
    seen: list[Any] = []

    @handler("work")
    async def work(job: Job) -> Any:
        if job.attempt == 1:
            assert await job.latest_checkpoint() is None
        latest = await job.latest_checkpoint()
        seen.append(latest and latest.name)
        state: Any = None
        for n in range(5):
            state = await job.checkpoint(f"page {n}", {"n": n, "attempt": job.attempt})
            if n == 2 and job.attempt == 1:
                raise Retry(0)
        assert await job.prune_checkpoints(keep=2) == 3
        assert await job.prune_checkpoints(keep=2) == 0
        assert await job.checkpoint_at("page 0") is None
        # One that is pruned is passed, and not saved anew.
        assert await job.checkpoint("page 0", "again") == "again"
        latest = await job.latest_checkpoint()
        assert latest is not None
        return [state, latest.name, latest.state]

    job = await api.run("work")
    assert job.status is JobStatus.DONE, job.error
    state = {"n": 4, "attempt": 2}
    assert job.result == [state, "page 4", state]
    assert seen == [None, "page 2"]


async def test_the_first_state_of_a_checkpoint_stands(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        state = await job.checkpoint("here", job.attempt)
        if job.attempt == 1:
            raise Retry(0)
        return state

    assert (await api.run("work")).result == 1


async def test_what_a_branch_reads_is_not_pruned(api: JobApi) -> None:
    go = anyio.Event()
    here = anyio.Event()
    pruned: list[int] = []

    @handler("work")
    async def work(job: Job) -> Any:
        for n in range(3):
            await job.checkpoint(f"page {n}", n)
        if not go.is_set():
            here.set()
            await go.wait()
            pruned.append(await job.prune_checkpoints(keep=1))
        found = [await job.checkpoint_at(f"page {n}") for n in range(3)]
        return [one and one.state for one in found]

    run_id = await start(api, {"work": ("work", {})})
    async with api.working():
        await here.wait()
        made = await fork(api, run_id, step="page 1")
        go.set()
        await api.idle()
    assert made.run_id is not None
    assert pruned == [0]
    jobs = await jobs_of(api, made.run_id)
    assert jobs["work"].result == [0, 1, 2]


async def test_a_name_is_a_step_or_a_checkpoint(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        await job.step("here", did, "here")
        await job.checkpoint("here", 1)

    job = await api.run("work")
    assert "'here' is a step of job" in (job.error or "")
