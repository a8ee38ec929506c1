"""Steps: recorded once, under the fence; a late worker records nothing."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from db.errors import Refused
from db.fence import PINNED, Lease, LeaseLost, hold
from db.money import calls
from db.pool import Connection, Database, begun, execute, fetch_val
from db.queue.finish import lease_states
from db.steps import steps
from db.steps.steps import PaidAnswer, Record
from tests.db.money import entries
from tests.db.protocol import (
    blocking,
    die,
    done,
    finish,
    register,
    released,
    rescue,
    row,
    running,
    signal,
    take,
)

pytestmark = pytest.mark.both

COUNT = "select count(*) from jobsworth.steps"
NULLS = "select count(*) from jobsworth.steps where finished_at is not null and output is null"


async def _write(conn: Connection, lease: Lease, how: str) -> object:
    """One fenced write of an attempt."""
    match how:
        case "record":
            return await steps.record(conn, lease, "fetch", '"page"', attempt=1)
        case "begin":
            return await steps.begin(conn, lease, "fetch", attempt=1)
        case "wait":
            return await steps.waited_seconds(conn, lease, "fetch", attempt=1, kind="sleep")
        case "signal":
            return await steps.take_signal(conn, lease, "go")
        case _:
            return await hold(conn, lease)


each_write = pytest.mark.parametrize("how", ["record", "begin", "wait", "signal", "hold"])


async def test_a_step_is_recorded_and_read_back(conn: Connection) -> None:
    lease = await running(conn)
    assert await steps.record(
        conn, lease, "fetch", '{"n": 1}', attempt=1, took_seconds=2, input_hash="h"
    ) == (True, {"n": 1})
    [step] = await steps.list_for_job(conn, lease.job_id)
    assert (step.name, step.kind, step.effect, step.output) == (
        "fetch",
        "step",
        "idempotent",
        {"n": 1},
    )
    assert step.input_hash == "h"
    assert step.finished_at is not None
    assert 1.5 < (step.finished_at - step.started_at).total_seconds() < 10


async def test_the_first_answer_of_a_step_wins(conn: Connection) -> None:
    lease = await running(conn)
    assert await steps.record(conn, lease, "fetch", "1", attempt=1) == (True, 1)
    assert await steps.record(conn, lease, "fetch", "2", attempt=1) == (False, 1)


async def test_a_step_that_was_begun_and_not_recorded_is_told_from_a_new_one(
    conn: Connection,
) -> None:
    lease = await running(conn)
    assert await steps.begin(conn, lease, "pay", attempt=1, effect="unsafe")
    assert not await steps.begin(conn, lease, "pay", attempt=1, effect="unsafe")
    [step] = await steps.list_for_job(conn, lease.job_id)
    assert (step.effect, step.finished_at) == ("unsafe", None)
    assert await steps.record(conn, lease, "pay", "1", attempt=1) == (True, 1)


async def test_a_null_is_an_answer(conn: Connection) -> None:
    lease = await running(conn)
    assert await steps.record(conn, lease, "nap", "null", attempt=1) == (True, None)
    assert await steps.record(conn, lease, "nap", "1", attempt=1) == (False, None)


# The fence.


@each_write
async def test_a_late_worker_writes_nothing_after_a_rescue(conn: Connection, how: str) -> None:
    lease = await running(conn)
    await signal(conn, lease.job_id)
    await die(conn, lease.worker_id)
    await rescue(conn)
    with pytest.raises(LeaseLost):
        await _write(conn, lease, how)
    assert await fetch_val(conn, COUNT) == 0
    unread = "select count(*) from jobsworth.signals where received_at is null"
    assert await fetch_val(conn, unread) == 1


@each_write
async def test_a_late_worker_writes_nothing_into_the_next_attempt(
    conn: Connection, how: str
) -> None:
    lease = await running(conn)
    await die(conn, lease.worker_id)
    await rescue(conn)
    await take(conn, await register(conn))
    with pytest.raises(LeaseLost, match=str(lease.job_id)):
        await _write(conn, lease, how)
    assert await fetch_val(conn, COUNT) == 0


@each_write
async def test_the_lease_number_alone_opens_nothing(conn: Connection, how: str) -> None:
    lease = await running(conn)
    with pytest.raises(LeaseLost):
        await _write(conn, Lease(lease.job_id, lease.lease_no, uuid4()), how)
    with pytest.raises(LeaseLost):
        await _write(conn, Lease(lease.job_id, lease.lease_no + 1, lease.worker_id), how)
    assert await fetch_val(conn, COUNT) == 0


@each_write
async def test_an_ended_job_takes_no_more_writes(conn: Connection, how: str) -> None:
    lease = await running(conn)
    await finish(conn, done(lease))
    with pytest.raises(LeaseLost):
        await _write(conn, lease, how)


@each_write
async def test_a_write_waits_for_the_rescue_that_holds_the_row_and_then_writes_nothing(
    database: Database, conn: Connection, how: str
) -> None:
    lease = await running(conn)
    await signal(conn, lease.job_id)
    await die(conn, lease.worker_id)
    async with database.connection() as rescuer:
        await rescuer.execute("begin")
        assert len(await rescue(rescuer)) == 1
        async with blocking(database, conn, _write(conn, lease, how)) as result:
            await rescuer.execute("commit")
        assert isinstance(result[0], LeaseLost)
    assert await fetch_val(conn, COUNT) == 0


@each_write
async def test_a_write_that_waited_for_a_rescue_that_was_undone_goes_through(
    database: Database, conn: Connection, how: str
) -> None:
    lease = await running(conn)
    await die(conn, lease.worker_id)
    async with database.connection() as rescuer:
        await rescuer.execute("begin")
        assert len(await rescue(rescuer)) == 1
        async with blocking(database, conn, _write(conn, lease, how)) as result:
            await rescuer.execute("rollback")
        assert not isinstance(result[0], Exception)


async def test_a_rescue_leaves_a_row_in_which_a_step_is_being_written(
    database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    await die(conn, lease.worker_id)
    async with database.transaction() as writer:
        await steps.record(writer, lease, "fetch", "1", attempt=1)
        assert await rescue(conn) == []
    assert len(await rescue(conn)) == 1
    assert [step.output for step in await steps.list_for_job(conn, lease.job_id)] == [1]


async def test_a_call_is_not_begun_without_the_lease(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, released(lease))
    with pytest.raises(LeaseLost):
        await entries.start(
            conn,
            lease,
            provider="openai",
            model="gpt",
            step_name="draft",
            request_id="r",
            estimate=calls.Usage(input_tokens=1, output_tokens=1),
        )
    assert await fetch_val(conn, "select count(*) from jobsworth.llm_calls") == 0


# What is paid for is kept.


async def test_a_paid_answer_of_a_late_worker_becomes_the_step_if_there_is_none(
    conn: Connection,
) -> None:
    lease = await running(conn)
    await die(conn, lease.worker_id)
    await rescue(conn)
    _, theirs = await take(conn, await register(conn))
    kept = await steps.keep_answer(conn, lease.job_id, "draft", '"paid"', attempt=1, took_seconds=1)
    assert kept == "paid"
    assert await steps.record(conn, theirs, "draft", '"again"', attempt=2) == (False, "paid")


async def test_a_paid_answer_never_replaces_the_one_that_stands(conn: Connection) -> None:
    lease = await running(conn)
    await steps.record(conn, lease, "draft", '"first"', attempt=1)
    kept = await steps.keep_answer(conn, lease.job_id, "draft", '"late"', attempt=1, took_seconds=1)
    assert kept == "first"


async def test_a_wait_begins_the_first_time_it_is_reached(conn: Connection) -> None:
    lease = await running(conn)
    first = await steps.waited_seconds(conn, lease, "nap", attempt=1, kind="sleep")
    await execute(conn, "update jobsworth.steps set started_at = now() - interval '1 hour'")
    again = await steps.waited_seconds(conn, lease, "nap", attempt=1, kind="sleep")
    assert first < 60
    assert again > 3500


async def test_children_are_told_by_their_keys(conn: Connection) -> None:
    lease = await running(conn)
    await execute(
        conn,
        "insert into jobsworth.reactive_jobs (mode, parent_id, effect_key, is_child) values "
        "('plan', %(id)s, 'child:1', true), ('plan', %(id)s, 'job:1', false)",
        {"id": lease.job_id},
    )
    found = await steps.children(conn, lease.job_id)
    assert list(found) == ["child:1"]
    assert found["child:1"]["status"] == "queued"


async def test_an_answer_for_a_job_that_is_gone_is_kept_by_nobody(conn: Connection) -> None:
    assert (
        await steps.keep_answer(conn, UUID(int=1), "draft", "1", attempt=1, took_seconds=1) is None
    )
    assert await fetch_val(conn, COUNT) == 0


async def test_the_row_of_a_running_job_is_not_changed_by_its_steps(conn: Connection) -> None:
    lease = await running(conn)
    before = await row(conn, lease.job_id)
    await steps.record(conn, lease, "fetch", "1", attempt=1)
    assert await row(conn, lease.job_id) == before
    assert await lease_states(conn, [lease]) == {lease.job_id: "held"}


# Many at once.


async def _record_all(conn: Connection, *ran: Record) -> list[Any]:
    """Record these in one transaction: what stands, or "not written"."""
    async with begun(conn, PINNED):
        outputs = await steps.record_all(conn, ran)
    return [outputs.get((one.lease.job_id, one.name), "not written") for one in ran]


async def test_many_steps_are_recorded_as_one_is(conn: Connection) -> None:
    first, second = await running(conn), await running(conn)
    await steps.begin(conn, second, "pay", attempt=1, effect="unsafe")
    assert await _record_all(
        conn,
        Record(first, "fetch", '{"n": 1}', 1, 2.0, "wait", "unsafe", "h"),
        Record(first, "nap", "null", 1),
        Record(second, "pay", '"paid"', 2),
    ) == [{"n": 1}, None, "paid"]
    [fetched, nap] = await steps.list_for_job(conn, first.job_id)
    assert (fetched.kind, fetched.effect, fetched.input_hash) == ("wait", "unsafe", "h")
    assert fetched.finished_at is not None
    assert 1.5 < (fetched.finished_at - fetched.started_at).total_seconds() < 10
    assert (nap.output, nap.finished_at is None) == (None, False)
    assert await fetch_val(conn, NULLS) == 0
    [paid] = await steps.list_for_job(conn, second.job_id)
    assert (paid.output, paid.attempt, paid.effect) == ("paid", 2, "unsafe")


async def test_a_lost_lease_or_an_earlier_output_is_left_out_of_many_steps(
    database: Database, conn: Connection
) -> None:
    lease, lost, ended, held = [await running(conn) for _ in range(4)]
    await die(conn, lost.worker_id)
    await rescue(conn)
    await finish(conn, done(ended))
    await steps.record(conn, lease, "fetch", "1", attempt=1)
    ran = [Record(one, "fetch", "2", 1) for one in (lost, lease, ended, held)]
    async with database.transaction() as other:
        await hold(other, held)
        outputs = await _record_all(conn, *ran, Record(lease, "more", "3", 1))
    assert outputs == 4 * ["not written"] + [3]
    assert await fetch_val(conn, COUNT) == 2


async def test_many_answers_are_kept_unless_earlier_ones_stand(conn: Connection) -> None:
    first, second = await running(conn), await running(conn)
    await steps.record(conn, first, "draft", '"first"', attempt=1)
    answers = [
        PaidAnswer(first.job_id, "draft", '"late"', 1, 0.1),
        PaidAnswer(second.job_id, "draft", '"paid"', 1, 0.1),
        PaidAnswer(second.job_id, "draft", '"twice"', 1, 0.1),
        PaidAnswer(second.job_id, "empty", "null", 1, 0.1),
        PaidAnswer(UUID(int=1), "draft", '"nobody"', 1, 0.1),
    ]
    async with begun(conn, PINNED):
        stand = await steps.keep_answers(conn, answers)
    assert [stand[one.job_id, one.name] for one in answers] == [
        "first",
        "paid",
        "paid",
        None,
        None,
    ]
    assert await fetch_val(conn, NULLS) == 0
    found = await steps.list_for_job(conn, second.job_id)
    assert sorted((one.name, one.kind, one.output) for one in found) == [
        ("draft", "call", "paid"),
        ("empty", "call", None),
    ]


async def test_one_step_twice_in_one_statement_is_refused_and_neither_is_written(
    conn: Connection,
) -> None:
    """Each alone goes through then."""
    lease = await running(conn)
    with pytest.raises(Refused):
        await _record_all(conn, Record(lease, "fetch", "1", 1), Record(lease, "fetch", "2", 1))
    assert await fetch_val(conn, COUNT) == 0
