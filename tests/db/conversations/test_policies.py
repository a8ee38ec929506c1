"""What a new message means for the work on earlier ones, as docs/messages.md says it."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from db.conversations import messages, threads
from db.conversations.messages import Received
from db.conversations.threads import MessagePolicy, Thread
from db.errors import InvalidInput, NotFound
from db.fence import Lease
from db.people import agents
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import effects, jobs
from db.queue.effects import JobEffect, MessageEffect, Origin
from db.runs import runs
from db.runs.new_run import Node
from tests.db.protocol import (
    add,
    ask,
    blocking,
    breaches,
    claim,
    done,
    finish,
    lease_of,
    parked,
    register,
    retry,
    settle,
    take,
    tried_again,
)

DOCS = Path(__file__).parents[3] / "docs/messages.md"
POLICIES = [*MessagePolicy]
TABLE = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in DOCS.read_text().splitlines()
    if line.startswith("| ")
][1:]

WAIT_ON_HANDLER: LiteralString = """
update jobsworth.reactive_jobs set status = 'waiting', waiting_for = 'handler' where id = %s
"""
PENDING: LiteralString = """
select count(*) from jobsworth.approvals where job_id = %s and status = 'pending'
"""
# Each message is the work of one job that was not stopped, or its job names a later message.
LOST: LiteralString = """
select m.id
from jobsworth.chat_messages m
where m.role = 'user' and not exists (
    select 1 from jobsworth.reactive_jobs j
    where j.trigger_message_id = coalesce(m.merged_into, m.id)
      and (j.superseded_by is null or j.superseded_by > m.id))
  or m.role = 'user' and (
    select count(*) from jobsworth.reactive_jobs j
    where j.trigger_message_id = coalesce(m.merged_into, m.id) and j.parent_id is null) <> 1
"""


@pytest.fixture
async def thread(conn: Connection) -> Thread:
    return await threads.get_or_create(conn, "telegram", "42", team_id=uuid4())


async def post(conn: Connection, thread: Thread, mode: str = "answer", **options: Any) -> Received:
    return await messages.receive(conn, thread.id, "hello", mode, **options)


async def posted(conn: Connection, thread: Thread, mode: str = "answer", **options: Any) -> UUID:
    job = (await post(conn, thread, mode, **options)).job
    assert job is not None
    return job.id


async def started(conn: Connection, thread: Thread) -> Any:
    job_id = await posted(conn, thread)
    _, lease = await take(conn, await register(conn))
    assert lease.job_id == job_id
    return lease


def waits(reason: str) -> Callable[[Connection, Thread], Awaitable[UUID]]:
    async def make(conn: Connection, thread: Thread) -> UUID:
        lease = await started(conn, thread)
        await settle(conn, parked(lease, reason, "x", 3600 if reason == "timer" else None))
        return lease.job_id

    return make


async def scheduled(conn: Connection, thread: Thread) -> UUID:
    return await posted(conn, thread, delay=3600)


async def behind(conn: Connection, thread: Thread) -> UUID:
    await add(conn, lane=str(thread.id))
    return await posted(conn, thread)


async def unknown_mode(conn: Connection, thread: Thread) -> UUID:
    job_id = await posted(conn, thread)
    await conn.execute(WAIT_ON_HANDLER, [job_id])
    return job_id


async def after_others(conn: Connection, thread: Thread) -> UUID:
    return await posted(conn, thread, after=[await add(conn)])


async def of_another_mode(conn: Connection, thread: Thread) -> UUID:
    return await posted(conn, thread, "plan")


async def running(conn: Connection, thread: Thread) -> UUID:
    return (await started(conn, thread)).job_id


async def queued_again(conn: Connection, thread: Thread) -> UUID:
    lease = await started(conn, thread)
    await settle(conn, tried_again(lease))
    assert await retry(conn, lease.job_id) == "queued"
    return lease.job_id


async def backing_off(conn: Connection, thread: Thread) -> UUID:
    lease = await started(conn, thread)
    await settle(conn, tried_again(lease))
    return lease.job_id


async def asking(conn: Connection, thread: Thread) -> UUID:
    lease = await started(conn, thread)
    await ask(conn, lease.job_id)
    await settle(conn, parked(lease, "approval"))
    return lease.job_id


async def parent(conn: Connection, thread: Thread) -> UUID:
    lease = await started(conn, thread)
    await effects.write(
        conn, [(await origin(conn, lease.job_id), JobEffect("c", "plan", "{}", True))]
    )
    await settle(conn, parked(lease, "children"))
    return lease.job_id


async def child(conn: Connection, thread: Thread) -> UUID:
    """Of a job that nothing stops: its lease is lost, and it is of no message."""
    job_id = await add(conn, thread_id=thread.id)
    message = await messages.insert(conn, thread.id, messages.MessageRole.USER, "x")
    made = Origin(job_id, thread_id=thread.id, trigger_message_id=message.id)
    await effects.write(conn, [(made, JobEffect("c", "answer", is_child=True))])
    return await made_by(conn, job_id)


async def origin(conn: Connection, job_id: UUID) -> Origin:
    job = await jobs.get_by_id(conn, job_id)
    return Origin(
        job_id,
        team_id=job.team_id,
        thread_id=job.thread_id,
        trigger_message_id=job.trigger_message_id,
    )


async def made_by(conn: Connection, job_id: UUID) -> UUID:
    query = "select id from jobsworth.reactive_jobs where parent_id = %s"
    return await fetch_val(conn, query, [job_id])


async def follow_up(conn: Connection, thread: Thread, delay: float | None = None) -> UUID:
    lease = await started(conn, thread)
    effect = JobEffect("job:1", "answer", delay_seconds=delay)
    async with conn.transaction():
        await finish(conn, done(lease))
        await effects.write(conn, [(await origin(conn, lease.job_id), effect)])
    return await made_by(conn, lease.job_id)


async def reminder(conn: Connection, thread: Thread) -> UUID:
    return await follow_up(conn, thread, 3600)


async def node(conn: Connection, thread: Thread) -> UUID:
    message = await messages.insert(conn, thread.id, messages.MessageRole.USER, "x")
    started_run = await runs.start(
        conn, [Node("a", "answer")], thread_id=thread.id, trigger_message_id=message.id
    )
    query = "select id from jobsworth.reactive_jobs where run_id = %s"
    return await fetch_val(conn, query, [started_run.run_id])


async def of_no_message(conn: Connection, thread: Thread) -> UUID:
    return await add(conn, thread_id=thread.id)


async def ended(conn: Connection, thread: Thread) -> UUID:
    lease = await started(conn, thread)
    await settle(conn, done(lease))
    return lease.job_id


SCENES: dict[str, Callable[[Connection, Thread], Awaitable[UUID]]] = {
    "queued, never started": posted,
    "waiting for its time, never started": scheduled,
    "waiting for its lane, never started": behind,
    "waiting for a handler, never started": unknown_mode,
    "waiting for other jobs": after_others,
    "of another mode, never started": of_another_mode,
    "running": running,
    "queued again, after a rescue or a shutdown": queued_again,
    "waiting for its retry": backing_off,
    "asleep": waits("timer"),
    "waiting for an approval": asking,
    "waiting for a signal": waits("signal"),
    "waiting for its children": parent,
    "waiting for a limit": waits("limit"),
    "waiting for a budget": waits("budget"),
    "waiting for a person": waits("person"),
    "a follow-up that is ready, like answer after classify": follow_up,
    "a follow-up for later, like a reminder": reminder,
    "a child of a job": child,
    "a node of a run that works on a message": node,
    "without a message": of_no_message,
    "ended": ended,
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
async def test_the_table_says_what_becomes_of_each_job(conn: Connection, row: list[str]) -> None:
    state, *wanted = row
    assert TABLE[len(SCENES) - 1 :] == [TABLE[-1]]
    for policy, becomes in zip(POLICIES, wanted, strict=True):
        thread = await threads.get_or_create(conn, "telegram", policy)
        await threads.update(conn, thread.id, message_policy=policy)
        job_id = await SCENES[state](conn, thread)
        before = await jobs.get_by_id(conn, job_id)
        received = await post(conn, thread)
        after = await jobs.get_by_id(conn, job_id)

        merged = received.message.merged_into
        assert (merged is not None) is (becomes == "takes it"), policy
        if becomes in ("canceled", "told to stop"):
            assert after.superseded_by == received.message.id
            assert str(received.message.id) in (await jobs.why(conn, job_id)).detail
            assert after.cancel_requested
            assert after.status == ("canceled" if becomes == "canceled" else "running")
        else:
            assert (after.status, after.waiting_for, after.superseded_by) == (
                *(before.status, before.waiting_for, None),
            )
        if merged is not None:
            assert received.job is not None
            assert (received.job.id, merged) == (job_id, before.trigger_message_id)
            both = await messages.get_for_trigger(conn, merged)
            assert [one.id for one in both] == [merged, received.message.id]
        pending = (
            "select count(*) from jobsworth.approvals where job_id = %s and status = 'pending'"
        )
        assert await fetch_val(conn, pending, [job_id]) == (
            state == "waiting for an approval" and becomes == "stays"
        )
        await execute(conn, "delete from jobsworth.reactive_jobs")


async def test_a_stopped_parents_children_end_with_it(conn: Connection, thread: Thread) -> None:
    job_id = await parent(conn, thread)
    await post(conn, thread, policy="supersede")
    assert (await jobs.get_by_id(conn, await made_by(conn, job_id))).status == "canceled"
    assert not await breaches(conn)


async def test_the_message_of_an_interrupt_runs_when_the_old_work_has_stopped(
    conn: Connection, thread: Thread
) -> None:
    lease = await started(conn, thread)
    new = await posted(conn, thread, policy="interrupt")
    worker_id = await register(conn)
    assert not (await claim(conn, worker_id)).jobs
    await settle(conn, tried_again(lease))
    assert (await jobs.get_by_id(conn, lease.job_id)).status == "canceled"
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [new]


async def test_an_interrupted_job_that_was_done_leaves_no_work_on_its_message(
    conn: Connection, thread: Thread
) -> None:
    """A message that it sent to another agent has its job: that one is nobody's old work."""
    lease = await started(conn, thread)
    new = await posted(conn, thread, policy="interrupt")
    bob = (await agents.save(conn, "bob")).id
    made = [
        MessageEffect("to", "hello", role="user", recipient_agent_id=bob),
        JobEffect("to", "plan", message_key="to", thread_id=thread.id),
        JobEffect("job:1", "answer"),
        JobEffect("child:1", "answer", is_child=True),
    ]
    async with conn.transaction():
        assert [one.status for one in await finish(conn, done(lease))] == ["done"]
        await effects.write(conn, [(await origin(conn, lease.job_id), one) for one in made])
    sent = await jobs.get_by_id(conn, await made_by(conn, lease.job_id))
    assert sent.mode == "plan"
    assert "superseded by message" in (await jobs.why(conn, lease.job_id)).detail
    assert (await jobs.get_by_id(conn, new)).finished_at is None


async def test_a_follow_up_that_commits_while_an_interrupt_waits_is_stopped_too(
    database: Database, conn: Connection, thread: Thread
) -> None:
    lease = await started(conn, thread)
    async with database.connection() as other:
        await conn.execute("begin")
        await finish(conn, done(lease))
        await effects.write(conn, [(await origin(conn, lease.job_id), JobEffect("j", "answer"))])
        async with blocking(database, other, post(other, thread, policy="interrupt")) as result:
            await conn.execute("commit")
    stopped = await jobs.get_by_id(conn, await made_by(conn, lease.job_id))
    assert (stopped.status, stopped.superseded_by) == ("canceled", result[0].message.id)
    assert (await jobs.get_by_id(conn, lease.job_id)).superseded_by is None


async def test_a_message_that_meets_the_claim_of_the_waiting_job_gets_its_own(
    database: Database, conn: Connection, thread: Thread
) -> None:
    first = await posted(conn, thread)
    worker_id = await register(conn)
    async with database.connection() as other:
        await conn.execute("begin")
        assert [job.id for job in (await claim(conn, worker_id)).jobs] == [first]
        async with blocking(database, other, post(other, thread, policy="merge")) as result:
            await conn.execute("commit")
    assert result[0].message.merged_into is None
    assert result[0].job.id != first
    assert await fetch_all(conn, LOST) == []


async def test_a_claim_passes_a_job_that_is_taking_a_message(
    database: Database, conn: Connection, thread: Thread
) -> None:
    first = await posted(conn, thread)
    worker_id = await register(conn)
    async with database.connection() as other:
        async with conn.transaction():
            received = await post(conn, thread, policy="merge")
            assert not (await claim(other, worker_id)).jobs
        [job] = (await claim(other, worker_id)).jobs
        assert job.id == first
        assert job.trigger_message_id == received.message.merged_into


async def test_of_two_posts_at_once_the_later_one_sees_the_job_of_the_other(
    database: Database, conn: Connection, thread: Thread
) -> None:
    async with database.connection() as other:
        await conn.execute("begin")
        first = await posted(conn, thread, policy="supersede")
        async with blocking(database, other, post(other, thread, policy="supersede")) as result:
            await conn.execute("commit")
    stopped = await jobs.get_by_id(conn, first)
    assert (stopped.status, stopped.superseded_by) == ("canceled", result[0].message.id)
    assert stopped.trigger_message_id is not None
    assert stopped.trigger_message_id < result[0].message.id


async def test_a_post_that_is_rolled_back_stops_nothing(conn: Connection, thread: Thread) -> None:
    first = await posted(conn, thread)
    async with conn.transaction() as transaction:
        await post(conn, thread, policy="interrupt")
        raise psycopg.Rollback(transaction)
    assert (await jobs.get_by_id(conn, first)).superseded_by is None


async def test_a_message_that_comes_twice_stops_nothing_the_second_time(
    conn: Connection, thread: Thread
) -> None:
    options: Any = {"platform_message_id": "p1", "policy": "supersede"}
    await post(conn, thread, **options)
    second = await posted(conn, thread)
    again = await post(conn, thread, **options)
    assert again.duplicate
    assert (await jobs.get_by_id(conn, second)).superseded_by is None
    merged = await post(conn, thread, policy="merge", platform_message_id="p2")
    repeated = await post(conn, thread, policy="merge", platform_message_id="p2")
    assert (repeated.duplicate, repeated.job) == (True, merged.job)
    assert repeated.message == merged.message


async def test_a_superseded_job_runs_again_only_for_a_person(
    conn: Connection, thread: Thread
) -> None:
    job_id = await backing_off(conn, thread)
    new = await posted(conn, thread, policy="supersede")
    ran = [job.id for job in (await claim(conn, await register(conn))).jobs]
    assert ran == [new]
    assert await retry(conn, job_id) == "waiting"
    assert (await jobs.get_by_id(conn, job_id)).superseded_by is None


async def test_a_post_waits_for_no_other_thread_and_queue_for_no_post(
    database: Database, conn: Connection, thread: Thread
) -> None:
    elsewhere = await threads.get_or_create(conn, "telegram", "43")
    async with database.connection() as other, conn.transaction():
        await post(conn, thread, policy="interrupt")
        await execute(other, "set lock_timeout = '1ms'")
        await post(other, elsewhere, policy="interrupt")
        await post(other, thread)
        await messages.insert(other, thread.id, messages.MessageRole.ASSISTANT, "hi")
        await execute(other, "reset lock_timeout")


async def test_plain_sql_makes_way(conn: Connection, thread: Thread) -> None:
    first = await posted(conn, thread)
    query = "select * from jobsworth.make_way(%s, 'answer', 'supersede')"
    [way] = await fetch_all(conn, query, [thread.id])
    assert (await jobs.get_by_id(conn, first)).superseded_by == way["message_id"]
    assert way["merged_into"] is None


async def test_a_policy_needs_a_thread_and_a_name(conn: Connection, thread: Thread) -> None:
    with pytest.raises(InvalidInput, match="the policy 'shrug' is not one of queue, merge"):
        await post(conn, thread, policy="shrug")
    with pytest.raises(InvalidInput, match="the policy 'shrug'"):
        await threads.update(conn, thread.id, message_policy="shrug")  # pyright: ignore[reportArgumentType]
    with pytest.raises(NotFound, match="there is no thread"):
        await messages.receive(conn, uuid4(), "x", "answer", policy="merge")
    with pytest.raises(InvalidInput, match="policy"):
        await jobs.enqueue(conn, "answer", policy="merge")  # pyright: ignore[reportCallIssue]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="the policy is 'shrug'"):
        await conn.execute("select jobsworth.make_way(%s, 'answer', 'shrug')", [thread.id])
    with pytest.raises(psycopg.errors.NoDataFound, match="there is no thread without an id"):
        await conn.execute("select jobsworth.make_way(null, 'answer')")
    assert (await threads.get_by_id(conn, thread.id)).message_policy == "queue"


@pytest.mark.parametrize("seed", range(4))
async def test_no_message_is_lost_whatever_comes(
    conn: Connection, thread: Thread, seed: int
) -> None:
    random, worker_id = Random(seed), await register(conn)
    leases: list[Lease] = []
    for _ in range(60):
        what = random.choice(["post", "post", "claim", "done", "follow", "retry", "park", "free"])
        if what == "post":
            mode = random.choice(["answer", "classify"])
            await post(conn, thread, mode, policy=random.choice(POLICIES))
        elif what == "claim":
            got = await claim(conn, worker_id)
            leases += [lease_of(job, worker_id) for job in got.jobs]
        elif what == "free":
            for job in await jobs.list_jobs(conn, status=jobs.JobStatus.WAITING):
                if job.waiting_for == "timer":
                    await retry(conn, job.id)
        elif leases:
            lease = leases.pop()
            ending = {"retry": tried_again(lease), "park": parked(lease, "signal", "x")}
            async with conn.transaction():
                [ended] = await finish(conn, ending.get(what, done(lease)))
                if what == "follow" and ended.status == "done":
                    made = await origin(conn, lease.job_id)
                    await effects.write(conn, [(made, JobEffect("j", "answer"))])
            await conn.execute("select jobsworth.unblock(array[%s])", [lease.job_id])
        assert await fetch_all(conn, LOST) == []
        assert not await breaches(conn)
