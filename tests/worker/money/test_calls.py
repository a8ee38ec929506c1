"""What must happen once and be in the books: paid calls, and the handler's own transactions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import anyio
import psycopg
import pytest

from db.errors import InvalidInput
from db.money import calls as call_records
from db.money.calls import Answer, Call, CallStatus, Usage, UsageSource
from db.pool import Connection
from db.queue import rescue as rescuing
from db.queue.jobs import JobStatus
from jobsworth import AnswerUnusable, CallRefused, Job, Sending, handler
from tests.worker.job_api import JobApi, registered

STEAL: LiteralString = """
update jobsworth.reactive_jobs
set lease_no = nextval('jobsworth.lease_no'), worker_id = gen_random_uuid()
where id = %(job_id)s
"""
# Another worker, which has lost the job, brings its answer at the last moment.
ANSWER_LATE: LiteralString = """
create function answer_late() returns trigger language plpgsql as $$
begin
  insert into jobsworth.steps (job_id, name, kind, output, attempt, finished_at)
  values (new.job_id, new.step_name, 'call', '"late"', 1, now());
  return null;
end $$
"""
ON_SECOND_CALL: LiteralString = """
create trigger answer_late after insert on jobsworth.llm_calls
for each row when (new.attempt = 2) execute function answer_late()
"""
LEDGER: LiteralString = """
select entry::text, input_tokens::int, output_tokens::int, cost from jobsworth.token_ledger
order by id
"""
USAGE = Usage(7, 3)
CALL: dict[str, Any] = {"provider": "scripted", "model": "m-1", "estimate": (100, 50)}


@pytest.fixture
async def api(database_url: str) -> AsyncGenerator[JobApi]:
    with registered():
        async with JobApi.open(database_url) as api:
            await api.database.execute("create table notes (text text not null)")
            yield api
            assert await api.violations() == []


async def calls(api: JobApi, job_id: UUID) -> list[Call]:
    async with api.database.connection() as connection:
        return await call_records.list_calls(connection, job_id)


async def ledger(api: JobApi) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in await api.rows(LEDGER)]


async def lose_lease(api: JobApi, job_id: UUID) -> None:
    """Another worker had the job, and died."""
    await api.database.execute(STEAL, {"job_id": job_id})


async def rescue(api: JobApi) -> None:
    """The job of the dead worker is queued again."""
    async with api.database.connection() as connection:
        [_] = await rescuing.rescue(
            connection,
            {},
            rowless=True,
            crashes_max=5,
            retry_base_seconds=0,
            retry_max_seconds=0,
            most=10,
        )


async def test_a_call_is_booked_before_it_is_sent_and_settled_after(api: JobApi) -> None:
    seen: list[Any] = []

    @handler("work")
    async def work(job: Job) -> Any:
        async def send(sending: Sending) -> Answer:
            [call] = await calls(api, job.id)
            seen.append((call.status, call.request_id == sending.request_id, await ledger(api)))
            sending.sent()
            return Answer({"text": "hi"}, Usage(90, 10, cache_read_tokens=5), Decimal("0.25"), "p1")

        return await job.call("think", send, **CALL)

    job = await api.run("work")
    assert job.result == {"text": "hi"}
    assert seen == [(CallStatus.STARTED, True, [("reserve", 100, 50, None)])]
    [call] = await calls(api, job.id)
    assert (call.status, call.step_name, call.attempt) == (CallStatus.OK, "think", 1)
    assert (call.input_tokens, call.output_tokens, call.cache_read_tokens) == (90, 10, 5)
    assert (call.cost, call.price_version) == (Decimal("0.25"), "p1")
    assert call.usage_source is UsageSource.PROVIDER
    assert await ledger(api) == [
        ("reserve", 100, 50, None),
        ("settle", 90, 10, Decimal("0.25")),
    ]


async def test_an_answer_is_replayed_for_free(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        send = answering("paid" if job.attempt == 1 else "never sent")
        answer = await job.call("think", send, **CALL)
        await job.sleep(0.01)
        if job.attempt == 2:
            raise ConnectionError("later")
        return [answer, await job.call("think", send, **CALL)]

    job = await api.run("work")
    assert job.result == ["paid", "paid"]
    assert len(await calls(api, job.id)) == 1


async def test_a_refused_call_costs_nothing_and_is_sent_anew(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        async def send(_: Sending) -> Answer:
            if job.attempt == 1:
                raise CallRefused("429")
            return Answer("second", Usage(1, 2))

        return await job.call("think", send, **CALL)

    job = await api.run("work")
    assert (job.result, job.failures) == ("second", 1)
    refused, answered = await calls(api, job.id)
    assert (refused.status, refused.error) == (CallStatus.ERROR, "CallRefused: 429")
    assert (refused.input_tokens, refused.output_tokens) == (0, 0)
    assert refused.request_id != answered.request_id


@pytest.mark.parametrize("error", [TimeoutError("cut"), SystemExit(1)], ids=repr)
async def test_what_an_interrupted_call_cost_is_held_at_its_estimate(
    api: JobApi, error: BaseException
) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        async def send(_: Sending) -> Answer:
            raise error

        return await job.call("think", send, **CALL)

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    [call] = await calls(api, job.id)
    assert (call.status, call.usage_source) == (CallStatus.UNKNOWN, UsageSource.ESTIMATED)
    assert (call.input_tokens, call.output_tokens) == (100, 50)
    assert type(error).__name__ in (call.error or "")


async def test_an_answer_without_usage_counts_at_its_estimate(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        return await job.call("think", answering("x", usage=None), **CALL)

    job = await api.run("work")
    [call] = await calls(api, job.id)
    assert (call.status, call.usage_source) == (CallStatus.OK, UsageSource.ESTIMATED)
    assert (call.input_tokens, call.output_tokens) == (100, 50)


async def test_an_answer_that_cannot_be_recorded_is_paid_for_all_the_same(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> Any:
        return await job.call("think", answering(object()), **CALL)

    job = await api.run("work")
    assert "the answer of call 'think' cannot be written as JSON" in (job.error or "")
    [call] = await calls(api, job.id)
    assert (call.status, call.input_tokens, call.output_tokens) == (CallStatus.OK, 7, 3)
    assert call.settled_at is not None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"input_tokens": -7, "output_tokens": 3}, "input_tokens is -7, not a count"),
        ({"input_tokens": 7, "output_tokens": 10**15}, "not a count of tokens"),
        ({"cost": Decimal("NaN")}, "the cost NaN is not an amount"),
        ({"cost": Decimal("1e15")}, "is not an amount of money"),
    ],
)
async def test_an_answer_with_impossible_counts_is_kept_and_not_paid_again(
    api: JobApi, wrong: dict[str, Any], said: str
) -> None:
    errors: list[str] = []

    @handler("work", failures_max=3)
    async def work(job: Job) -> Any:
        async with job.call("think", provider="scripted", model="m-1", estimate=(100, 50)) as call:
            if not call.recorded:
                try:
                    await call.answered("paid", **wrong)
                except AnswerUnusable as error:
                    errors.append(str(error))
                    raise ConnectionError("a failure that is tried again") from error
        return call.output

    job = await api.run("work")
    assert job.result == "paid"
    assert len(errors) == 1
    assert said in errors[0]
    [call] = await calls(api, job.id)
    assert (call.status, call.input_tokens, call.output_tokens) == (CallStatus.OK, 100, 50)


async def test_an_answer_that_comes_after_the_lease_was_lost_is_paid_and_kept(api: JobApi) -> None:
    attempts: list[int] = []

    @handler("work")
    async def work(job: Job) -> Any:
        attempts.append(job.attempt)

        async def send(_: Sending) -> Answer:
            await lose_lease(api, job.id)
            return Answer(f"of attempt {job.attempt}", Usage(7, 3))

        answer = await job.call("think", send, **CALL)
        if job.attempt == 1:
            await rescue(api)
        job.remember(f"attempt {job.attempt}")
        return answer

    job = await api.run("work")
    assert attempts == [1, 2]
    assert job.result == "of attempt 1"
    [call] = await calls(api, job.id)
    assert (call.status, call.attempt) == (CallStatus.OK, 1)
    assert await api.rows("select text from jobsworth.memories") == [{"text": "attempt 2"}]


@pytest.mark.parametrize("form", ["send", "block"])
async def test_an_answer_that_comes_while_the_next_call_is_booked_is_read_instead_of_sent_for(
    api: JobApi, form: str
) -> None:
    await api.database.execute(ANSWER_LATE)
    await api.database.execute(ON_SECOND_CALL)
    sent: list[int] = []

    @handler("work")
    async def work(job: Job) -> str:
        async def send(sending: Sending) -> Answer:
            sent.append(job.attempt)
            raise ConnectionError("nobody knows what became of it")

        if form == "send":
            return await job.call("think", send, **CALL)
        async with job.call("think", provider="scripted", model="m-1", estimate=(100, 50)) as call:
            if not call.recorded:
                await send(Sending(call.request_id))
        return call.output

    job = await api.run("work")
    assert (job.result, sent) == ("late", [1])
    first, second = await calls(api, job.id)
    assert (first.status, second.status) == (CallStatus.UNKNOWN, CallStatus.ERROR)
    assert [entry[0] for entry in await ledger(api)] == ["reserve", "settle", "reserve", "release"]


@pytest.mark.parametrize("method", ["step", "transaction", "call", "sleep", "wait"])
async def test_an_attempt_that_lost_its_lease_writes_nothing(api: JobApi, method: str) -> None:
    went_on: list[int] = []

    @handler("work")
    async def work(job: Job) -> int:
        if job.attempt == 1:
            await lose_lease(api, job.id)
            await rescue(api)
            await use(job, method)
            went_on.append(1)
        return job.attempt

    job = await api.run("work")
    assert (job.result, job.failures, went_on) == (2, 0, [])
    assert await calls(api, job.id) == []
    assert await api.value("select count(*) from jobsworth.steps") == 0
    assert await api.value("select count(*) from notes") == 0


# The handler's own SQL.


async def test_a_transaction_commits_with_its_record_and_is_not_run_again(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        count = await job.transaction("note", write_note)
        if job.attempt == 1:
            raise ConnectionError("after the commit")
        return [count, await job.transaction("note", write_note)]

    job = await api.run("work")
    assert (job.result, job.failures) == ([1, 1], 1)
    assert await api.value("select count(*) from notes") == 1
    [step] = await api.rows("select name, kind, attempt from jobsworth.steps")
    assert step == {"name": "note", "kind": "transaction", "attempt": 1}


@pytest.mark.parametrize("mistake", ["raise", "sql", "not JSON"])
async def test_a_transaction_that_fails_is_rolled_back_with_its_record(
    api: JobApi, mistake: str
) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        async def note(connection: Connection) -> Any:
            count = await write_note(connection)
            if job.attempt == 1 and mistake == "raise":
                raise ConnectionError("before the commit")
            if job.attempt == 1 and mistake == "sql":
                await connection.execute("insert into notes values (null)")
            return object() if job.attempt == 1 else count

        return await job.transaction("note", note)

    job = await api.run("work")
    assert (job.result, job.failures) == (1, 1)
    assert await api.value("select count(*) from notes") == 1


async def test_a_transaction_holds_the_job_so_that_nobody_takes_it_meanwhile(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        async def look(connection: Connection) -> str:
            async with await psycopg.AsyncConnection.connect(api.url) as other:
                try:
                    await other.execute(
                        "select 1 from jobsworth.reactive_jobs for no key update nowait"
                    )
                except psycopg.errors.LockNotAvailable:
                    return "held"
            return "free"

        return await job.transaction("look", look)

    assert (await api.run("work")).result == "held"


def answering(content: object, usage: Usage | None = USAGE) -> Any:
    async def send(_: Sending) -> Answer:
        return Answer(content, usage)

    return send


async def write_note(connection: Connection) -> int:
    await connection.execute("insert into notes values ('note')")
    cursor = await connection.execute("select count(*) from notes")
    [count] = await cursor.fetchone() or [0]
    return count


async def use(job: Job, method: str) -> object:
    match method:
        case "step":
            return await job.step("s", lambda: 1)
        case "transaction":
            return await job.transaction("t", write_note)
        case "call":
            return await job.call("c", answering("x"), **CALL)
        case "sleep":
            return await job.sleep(60)
        case _:
            return await job.wait("go", timeout_seconds=1)


async def test_two_calls_of_one_name_at_once_are_not_both_paid(api: JobApi) -> None:
    sent: list[int] = []

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        async def ask(n: int) -> None:
            async def send(sending: Sending) -> Answer:
                sent.append(n)
                return Answer("late", USAGE)

            await job.call("ask", send, **CALL)

        async with anyio.create_task_group() as tasks:
            for n in (1, 2):
                tasks.start_soon(ask, n)

    job = await api.run("work")
    assert "step 'ask' runs already in this attempt" in (job.error or "")
    assert 2 not in sent
    assert len(await calls(api, job.id)) <= 1


async def test_two_open_calls_of_one_name_at_once_are_not_both_paid(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> str:
        async with job.call("ask", provider="acme", model="m-1", estimate=(100, 50)) as call:
            with pytest.raises(InvalidInput, match="step 'ask' runs already in this attempt"):
                async with job.call("ask", provider="acme", model="m-1", estimate=(100, 50)):
                    pass
            await call.answered("one", 10, 5)
        async with job.call("ask", provider="acme", model="m-1", estimate=(1, 1)) as replayed:
            return replayed.output

    job = await api.run("work")
    assert job.result == "one"
    assert len(await calls(api, job.id)) == 1
