"""Handlers of the hostile suite: neighbours, readers of hostile rows, writers of hostile values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import anyio
from pydantic import BaseModel

from jobsworth import Answer, Cancel, Fail, Job, Retry, Sending, Snooze, Usage, handler
from tests.hostile.suite.values import VALUES

SHORT_SECONDS = 0.2

Writer = Callable[[Job, Any], Awaitable[Any]]
WRITERS: dict[str, Writer] = {}


def writer(write: Writer) -> Writer:
    """Let `writes` use it, under its name."""
    WRITERS[write.__name__.removeprefix("write_")] = write
    return write


class Typed(BaseModel):
    n: int | float | None = None
    s: str | None = None
    at: datetime | None = None
    id: UUID | None = None


def _same(value: Any) -> Any:
    return value


@handler("neighbour")
async def neighbour(job: Job, n: int) -> int:
    """A healthy job: a step, a pause, an effect."""
    doubled = await job.step("double", lambda: 2 * n)
    await anyio.sleep(0.01)
    job.metric("n", n)
    return doubled


@handler("echo")
async def echo(job: Job) -> Any:
    return job.payload


@handler("echo.typed")
async def echo_typed(job: Job, payload: Typed) -> Any:
    return payload.model_dump(mode="json")


@handler("echo.plain")
def echo_plain(job: Job) -> Any:
    return job.payload


@handler("echo.isolated", isolate="process")
def echo_isolated(job: Job) -> Any:
    return job.payload


@handler("echo.stepped")
async def echo_stepped(job: Job) -> Any:
    """The payload as a step's argument and result, a checkpoint, a follow-up and a memory."""
    again = await job.step("again", _same, job.payload)
    await job.checkpoint("state", again)
    job.enqueue("echo", again)
    job.remember("a payload", metadata=again)
    return again


@handler("reads")
async def reads(job: Job) -> Any:
    """Everything that a job can read of the rows that hang on it."""
    greeting = await job.step("greet", lambda: "hello", any_input=True)
    latest = await job.latest_checkpoint()
    at = await job.checkpoint_at("state")
    parents = await job.parents()
    signal = await job.wait("go", timeout_seconds=0.1)
    found = await job.recall("hello", limit=3)
    return [greeting, str(latest)[:100], str(at)[:100], str(parents)[:100], signal, len(found)]


@handler("writes")
async def writes(job: Job, writer: str, value: str) -> Any:
    """Let one writer write one value; both are named by the payload."""
    return await WRITERS[writer](job, VALUES[value]())


@writer
async def write_return(job: Job, value: Any) -> Any:
    return value


@writer
async def write_step(job: Job, value: Any) -> Any:
    await job.step("s", lambda: value)


@writer
async def write_step_in_thread(job: Job, value: Any) -> Any:
    def make() -> Any:
        return value

    await job.step("s", make, effect="unsafe")


@writer
async def write_step_argument(job: Job, value: Any) -> Any:
    await job.step("s", _same, value)


@writer
async def write_step_name(job: Job, value: Any) -> Any:
    await job.step(value, lambda: 1)


@writer
async def write_transaction(job: Job, value: Any) -> Any:
    async def change(connection: Any) -> Any:
        await connection.execute("select 1")
        return value

    await job.transaction("t", change)


@writer
async def write_checkpoint(job: Job, value: Any) -> Any:
    await job.checkpoint("state", value)


@writer
async def write_answer(job: Job, value: Any) -> Any:
    async def send(sending: Sending) -> Answer:
        return Answer(value, Usage(1, 1))

    await job.call("c", send, provider="scripted", model="m-1")


@writer
async def write_usage(job: Job, value: Any) -> Any:
    async def send(sending: Sending) -> Answer:
        return Answer("text", Usage(value, value))

    await job.call("c", send, provider="scripted", model="m-1")


@writer
async def write_estimate(job: Job, value: Any) -> Any:
    async def send(sending: Sending) -> Answer:
        return Answer("text", Usage(1, 1))

    await job.call("c", send, provider="scripted", model="m-1", estimate=(value, value))


@writer
async def write_provider(job: Job, value: Any) -> Any:
    async def send(sending: Sending) -> Answer:
        return Answer("text", Usage(1, 1))

    await job.call("c", send, provider=value, model=value)


@writer
async def write_metric(job: Job, value: Any) -> Any:
    job.metric("m", value)


@writer
async def write_metric_name(job: Job, value: Any) -> Any:
    job.metric(value, 1.0)


@writer
async def write_saved(job: Job, value: Any) -> Any:
    job.save("file.txt", value)


@writer
async def write_saved_name(job: Job, value: Any) -> Any:
    job.save(value, "content")


@writer
async def write_saved_uri(job: Job, value: Any) -> Any:
    job.save("file.txt", uri=value, media_type=value)


@writer
async def write_said(job: Job, value: Any) -> Any:
    job.say(value, thread_id=job.id)


@writer
async def write_remembered(job: Job, value: Any) -> Any:
    job.remember(value)


@writer
async def write_remembered_metadata(job: Job, value: Any) -> Any:
    job.remember("text", metadata={"value": value}, source_id=None)


@writer
async def write_enqueued(job: Job, value: Any) -> Any:
    job.enqueue("echo", {"value": value})


@writer
async def write_enqueued_mode(job: Job, value: Any) -> Any:
    job.enqueue(value)


@writer
async def write_enqueued_options(job: Job, value: Any) -> Any:
    job.enqueue("echo", queue=value, priority=value, delay_seconds=value, unique_key=value)


@writer
async def write_enqueued_delay(job: Job, value: Any) -> Any:
    job.enqueue("echo", delay_seconds=value)


@writer
async def write_enqueued_timeout(job: Job, value: Any) -> Any:
    job.enqueue("echo", timeout_seconds=value, failures_max=value)


@writer
async def write_spawned(job: Job, value: Any) -> Any:
    await job.gather(job.spawn("echo", {"value": value}))


@writer
async def write_gathered(job: Job, value: Any) -> Any:
    await job.gather(value)


@writer
async def write_asked(job: Job, value: Any) -> Any:
    await job.ask(value, deadline_seconds=60)


@writer
async def write_shown(job: Job, value: Any) -> Any:
    await job.ask("Do it?", shows=value, deadline_seconds=60)


@writer
async def write_options(job: Job, value: Any) -> Any:
    await job.ask("Which?", options=value, on_timeout=value)


@writer
async def write_deadline(job: Job, value: Any) -> Any:
    await job.ask("When?", deadline_seconds=value)


@writer
async def write_slept(job: Job, value: Any) -> Any:
    await job.sleep(value)


@writer
async def write_waited(job: Job, value: Any) -> Any:
    await job.wait(value, timeout_seconds=SHORT_SECONDS)


@writer
async def write_recalled(job: Job, value: Any) -> Any:
    await job.recall(value, limit=value)


@writer
async def write_deployed(job: Job, value: Any) -> Any:
    await job.deploy(value, value)


@writer
async def write_retry(job: Job, value: Any) -> Any:
    raise Retry(value)


@writer
async def write_snooze(job: Job, value: Any) -> Any:
    if job.attempt > 1:
        raise Fail("snoozed once")
    raise Snooze(value)


@writer
async def write_fail(job: Job, value: Any) -> Any:
    raise Fail(value)


@writer
async def write_cancel(job: Job, value: Any) -> Any:
    raise Cancel(value)


@writer
async def write_raise(job: Job, value: Any) -> Any:
    raise RuntimeError(value)


@writer
async def write_note(job: Job, value: Any) -> Any:
    error = RuntimeError("noted")
    error.__notes__ = [value]
    raise error from KeyError(value)


@writer
async def write_log(job: Job, value: Any) -> Any:
    job.log.info("handler.said", value=value)
