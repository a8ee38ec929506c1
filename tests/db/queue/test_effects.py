"""Effects: each once, with the transition they belong to, however often a job is run."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import pytest

from db.errors import InvalidInput, JobsworthError
from db.fence import Lease
from db.memory.remembered import MemoryEffect
from db.pool import Connection, Database, execute, fetch_all, fetch_one, fetch_val
from db.queue import effects, finish, promote
from db.queue.effects import (
    ApprovalEffect,
    ArtifactEffect,
    Effect,
    JobEffect,
    MessageEffect,
    MetricEffect,
    Origin,
)
from tests.db.protocol import (
    add,
    claim,
    done,
    lease_of,
    parked,
    register,
    row,
    running,
    settle,
    states,
    take,
)

pytestmark = [
    pytest.mark.both,
    pytest.mark.direct("what a finish writes, as test_finish shows through a pooler"),
]

THREAD: LiteralString = """
insert into jobsworth.chat_threads (platform, chat_id) values ('test', '1') returning id
"""

COUNTS: LiteralString = """
select
  (select count(*) from jobsworth.chat_messages) as messages,
  (select count(*) from jobsworth.reactive_jobs where parent_id is not null) as jobs,
  (select count(*) from jobsworth.approvals) as approvals,
  (select count(*) from jobsworth.embedding_outbox) as memories,
  (select count(*) from jobsworth.artifacts) as artifacts
"""

ONE_EACH = {"messages": 1, "jobs": 1, "approvals": 1, "memories": 1, "artifacts": 1}
NONE = dict.fromkeys(ONE_EACH, 0)

FOLLOW_UPS: LiteralString = """
select id, mode, lane, lane_position, thread_id, trigger_message_id, priority, queue, payload,
  is_child, effect_key, trace_parent, failures_max, timeout_seconds, run_at, status::text as status
from jobsworth.reactive_jobs where parent_id = %(id)s order by effect_key
"""


def one_of_each(suffix: str = "1") -> list[Effect]:
    return [
        MessageEffect(f"message:{suffix}", "hello"),
        JobEffect(f"job:{suffix}", "plan"),
        ApprovalEffect(
            f"approval:{suffix}", "may I?", ("yes", "reject"), '{"a": 1}', "h", 60, "reject"
        ),
        MemoryEffect(f"memory:{suffix}", "a note", "note"),
        ArtifactEffect(f"artifact:{suffix}", "a.txt", "text/plain", b"content"),
    ]


async def _end(
    database: Database, lease: Lease, *made: Effect, thread_id: UUID | None = None
) -> list[Any]:
    async with database.transaction() as conn:
        applied = await finish.finish(conn, [done(lease)])
        origin = Origin(lease.job_id, thread_id=thread_id)
        await effects.write(conn, [(origin, one) for one in made if applied])
        return applied


async def test_effects_commit_with_the_end_of_their_job(
    database: Database, conn: Connection
) -> None:
    thread_id = await fetch_val(conn, THREAD)
    lease = await running(conn)
    async with database.transaction() as finisher:
        await finish.finish(finisher, [done(lease)])
        origin = Origin(lease.job_id, thread_id=thread_id)
        await effects.write(finisher, [(origin, one) for one in one_of_each()])
        assert await fetch_one(conn, COUNTS) == NONE
    assert await fetch_one(conn, COUNTS) == ONE_EACH


async def test_effects_vanish_with_the_transaction_of_their_job(
    database: Database, conn: Connection
) -> None:
    thread_id = await fetch_val(conn, THREAD)
    lease = await running(conn)
    async with database.connection() as finisher:
        await finisher.execute("begin")
        await finish.finish(finisher, [done(lease)])
        origin = Origin(lease.job_id, thread_id=thread_id)
        await effects.write(finisher, [(origin, one) for one in one_of_each()])
        await finisher.execute("rollback")
    assert await fetch_one(conn, COUNTS) == NONE
    assert await states(conn, lease.job_id) == [("running", None)]


async def test_the_repeat_of_a_replay_is_ignored(database: Database, conn: Connection) -> None:
    thread_id = await fetch_val(conn, THREAD)
    lease = await running(conn)
    origin = Origin(lease.job_id, thread_id=thread_id)
    await effects.write(conn, [(origin, one) for one in one_of_each()])
    await settle(conn, parked(lease, "timer", None, 0))
    await promote.promote_due(conn, 1)
    worker_id = await register(conn)
    [again] = [job for job in (await claim(conn, worker_id)).jobs if job.id == lease.job_id]
    await _end(database, lease_of(again, worker_id), *one_of_each(), thread_id=thread_id)
    assert await fetch_one(conn, COUNTS) == ONE_EACH


@pytest.mark.usefixtures("unguarded")
async def test_the_same_key_of_another_job_is_another_effect(conn: Connection) -> None:
    thread_id = await fetch_val(conn, THREAD)
    for _ in range(2):
        lease = await running(conn)
        origin = Origin(lease.job_id, thread_id=thread_id)
        await effects.write(conn, [(origin, one) for one in one_of_each()])
        await execute(
            conn,
            "update jobsworth.reactive_jobs set status = 'done', finished_at = now() "
            "where status in ('queued', 'running')",
        )
    assert await fetch_one(conn, COUNTS) == dict.fromkeys(ONE_EACH, 2)


async def test_a_memory_that_was_embedded_meanwhile_is_not_embedded_again(
    conn: Connection,
) -> None:
    lease = await running(conn)
    await execute(
        conn,
        "insert into jobsworth.memories (job_id, effect_key, source_kind, text) "
        "values (%(id)s, 'memory:1', 'note', 'a note')",
        {"id": lease.job_id},
    )
    await execute(conn, "delete from jobsworth.embedding_outbox")
    await effects.write(conn, [(Origin(lease.job_id), MemoryEffect("memory:1", "a note", "note"))])
    assert await fetch_one(conn, COUNTS) == NONE


async def test_a_follow_up_inherits_thread_trigger_trace_lane_and_place(
    conn: Connection,
) -> None:
    thread_id, message_id = UUID(int=1), UUID(int=2)
    lease = await running(conn, thread_id=thread_id)
    parent = await row(conn, lease.job_id)
    origin = Origin(
        lease.job_id, thread_id=thread_id, trigger_message_id=message_id, trace_parent="t"
    )
    await effects.write(conn, [(origin, JobEffect("job:1", "plan", '{"n": 1}', queue="slow"))])
    [one] = await fetch_all(conn, FOLLOW_UPS, {"id": lease.job_id})
    assert (one["lane"], one["lane_position"]) == (str(thread_id), parent["lane_position"])
    assert (one["thread_id"], one["trigger_message_id"]) == (thread_id, message_id)
    assert (one["trace_parent"], one["payload"], one["queue"]) == ("t", {"n": 1}, "slow")
    assert not one["is_child"]


async def test_a_follow_up_may_name_another_lane_or_wait(conn: Connection) -> None:
    lease = await running(conn, lane="a")
    made = [
        JobEffect("job:1", "plan", lane="b"),
        JobEffect("job:2", "plan", lane=""),
        JobEffect("job:3", "plan", delay_seconds=3600),
    ]
    await effects.write(conn, [(Origin(lease.job_id), one) for one in made])
    other, none, later = await fetch_all(conn, FOLLOW_UPS, {"id": lease.job_id})
    assert (other["lane"], none["lane"], later["lane"]) == ("b", None, "a")
    assert (other["status"], none["status"], later["status"]) == ("queued", "queued", "waiting")
    assert later["lane_position"] is None


async def test_a_follow_up_of_a_job_without_a_lane_has_none_in_spite_of_its_thread(
    conn: Connection,
) -> None:
    lease = await running(conn, thread_id=UUID(int=1), lane="")
    origin = Origin(lease.job_id, thread_id=UUID(int=1))
    await effects.write(conn, [(origin, JobEffect("job:1", "plan"))])
    [one] = await fetch_all(conn, FOLLOW_UPS, {"id": lease.job_id})
    assert (one["lane"], one["status"]) == (None, "queued")


async def test_follow_ups_run_in_the_order_in_which_they_were_asked_for(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn, lane="a")
    made = [JobEffect(f"job:{n}", "plan", f'{{"n": {n}}}') for n in range(20)]
    await _end(database, lease, *made)
    worker_id = await register(conn)
    order: list[int] = []
    for _ in made:
        await promote.promote_lanes(conn, ["a"])
        job, held = await take(conn, worker_id)
        order.append(job.payload["n"])
        await settle(conn, done(held))
    assert order == list(range(20))


async def test_a_follow_up_whose_unique_key_is_taken_is_not_enqueued(conn: Connection) -> None:
    lease = await running(conn)
    holder = await add(conn, unique_key="k")
    await effects.write(conn, [(Origin(lease.job_id), JobEffect("job:1", "plan", unique_key="k"))])
    assert await fetch_all(conn, FOLLOW_UPS, {"id": lease.job_id}) == []
    assert await states(conn, holder) == [("queued", None)]


TABLES: dict[str, LiteralString] = {
    "message:1": "jobsworth.chat_messages",
    "job:1": "jobsworth.reactive_jobs",
    "approval:1": "jobsworth.approvals",
    "memory:1": "jobsworth.memories",
    "artifact:1": "jobsworth.artifacts",
    "metric:1": "jobsworth.run_metrics",
}


@pytest.mark.parametrize("key", TABLES)
async def test_an_effect_that_a_trigger_swallows_is_refused_by_name(
    database: Database, conn: Connection, key: str
) -> None:
    thread_id = await fetch_val(conn, THREAD)
    lease = await running(conn)
    table = TABLES[key]
    await execute(
        conn,
        "create function swallow() returns trigger language plpgsql as"
        " $$ begin return null; end $$; create trigger of_a_user before insert on "
        + table
        + " for each row execute function swallow()",
    )
    made = [*one_of_each(), MetricEffect("metric:1", "loss", 0.5)]
    name = table.removeprefix("jobsworth.")
    with pytest.raises(InvalidInput, match=f"'{key}' was not inserted into {name}: a trigger"):
        await _end(database, lease, *made, thread_id=thread_id)
    await execute(conn, "drop trigger of_a_user on " + table)
    await _end(database, lease, *made, thread_id=thread_id)
    assert await fetch_one(conn, COUNTS) == ONE_EACH


async def test_a_follow_up_that_meets_an_index_of_a_user_is_refused(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    await add(conn, "plan")
    await execute(conn, "create unique index of_a_user on jobsworth.reactive_jobs (mode)")
    with pytest.raises(InvalidInput, match="a unique index of your own"):
        await _end(database, lease, JobEffect("job:1", "plan"))


async def test_an_artifact_keeps_content_size_and_hash_or_its_address(conn: Connection) -> None:
    lease = await running(conn)
    made = [
        ArtifactEffect("artifact:a", "a.bin", "application/octet-stream", bytes(range(256))),
        ArtifactEffect("artifact:b", "b.txt", "text/plain", uri="https://example.org/b.txt"),
        ArtifactEffect("artifact:c", "c.txt", "text/plain", b""),
    ]
    await effects.write(conn, [(Origin(lease.job_id), one) for one in made])
    rows = await fetch_all(
        conn,
        "select name, bytes, length(sha256) as hash, content, uri from jobsworth.artifacts "
        "order by name",
    )
    assert [tuple(one.values()) for one in rows] == [
        ("a.bin", 256, 64, bytes(range(256)), None),
        ("b.txt", None, None, None, "https://example.org/b.txt"),
        ("c.txt", 0, 64, b"", None),
    ]


async def test_a_message_with_a_nul_is_kept_with_its_symbol(conn: Connection) -> None:
    thread_id = await fetch_val(conn, THREAD)
    lease = await running(conn)
    origin = Origin(lease.job_id, thread_id=thread_id)
    await effects.write(conn, [(origin, MessageEffect("message:1", "a\0b"))])
    assert await fetch_val(conn, "select text from jobsworth.chat_messages") == "a␀b"


@pytest.mark.parametrize(
    "bad",
    [
        JobEffect("job:1", "plan", priority=9),
        JobEffect("job:1", ""),
        JobEffect("job:1", "plan", "[]"),
        JobEffect("job:1", "plan", delay_seconds=float("inf")),
        JobEffect("job:1", "plan", timeout_seconds=-1),
        JobEffect("job:1", "\ud800"),
        MessageEffect("message:1", "to nobody"),
        MessageEffect("message:1", "to a thread that is not there", thread_id=UUID(int=9)),
        MessageEffect("message:1", "hello", role="king"),
        ApprovalEffect("approval:1", "may I?", ("yes",), None, "", None, "reject"),
        ArtifactEffect("artifact:1", "a", "text/plain", b"x", "https://example.org"),
    ],
    ids=lambda bad: f"{type(bad).__name__}",
)
async def test_what_cannot_be_written_is_refused_and_is_not_worth_a_retry(
    database: Database, conn: Connection, bad: Effect
) -> None:
    lease = await running(conn)
    with pytest.raises(JobsworthError) as refused:
        await _end(database, lease, bad)
    assert not refused.value.retriable
    assert await states(conn, lease.job_id) == [("running", None)]
    assert await fetch_one(conn, COUNTS) == NONE
