"""A user's handlers that tell every secret they know, in every way a handler can."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import warnings
from typing import Any

from pydantic_ai import Agent

from db.money.calls import Answer
from jobsworth import CallRefused, Cancel, Fail, Job, Retry, Sending, Snooze, handler
from tests.worker.canaries import CANARIES, OWN, said


def raise_with_causes() -> None:
    try:
        try:
            raise KeyError(said())
        except KeyError as error:
            raise ValueError(said()) from error
    except ValueError as error:
        error.add_note(said())
        raise ExceptionGroup(said(), [error, RuntimeError(said(), {"key": said()})]) from error


@handler("tell.raise", failures_max=2)
async def tell_raise() -> None:
    raise_with_causes()


@handler("tell.thread", failures_max=1)
def tell_thread(job: Job) -> None:
    threading.Thread(target=raise_with_causes).start()
    raise_with_causes()


@handler("tell.process", isolate="process", failures_max=1)
def tell_process() -> None:
    raise_with_causes()


@handler("tell.exit", failures_max=1)
async def tell_exit() -> None:
    sys.exit(said())


@handler("tell.ending", failures_max=1)
async def tell_ending(job: Job, how: str) -> None:
    if how == "retry" and job.attempt == 1:
        raise Retry(0.01, said())
    if how == "snooze" and job.attempt == 1:
        raise Snooze(0.01)
    if how == "cancel":
        raise Cancel(said())
    raise Fail(said())


@handler("tell.step", failures_max=1)
async def tell_step(job: Job, effect: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise_with_causes()

    shape = {name: words.format(secret) for name, (secret, words) in CANARIES.items()}
    await job.step("given", len, [said(), shape, {"api_key": OWN, "token": said()}])
    await job.step("fail", fail, said(), api_key=said(), headers=shape, effect=effect)


@handler("tell.call", failures_max=1)
async def tell_call(job: Job) -> None:
    async def send(_: Sending) -> Answer:
        raise CallRefused(said())

    await job.call("ask", send, provider="p", model="m")


@handler("tell.agent", failures_max=1)
async def tell_agent(job: Job) -> None:
    await job.agent("draft", Agent(), "hello")


@handler("tell.learn")
async def tell_learn(job: Job) -> None:
    job.remember("a note")


@handler("tell.log")
async def tell_log(job: Job) -> None:
    shape = {name: words.format(secret) for name, (secret, words) in CANARIES.items()}
    job.log.warning("user.told", text=said(), error=RuntimeError(said()), headers=shape)
    job.log.info(said(), nested=[{"deep": [said(), (said(),)]}], names={said(): 1})
    job.log.info("bytes.told", raw=said().encode(), kind={said()})
    user = logging.getLogger("user")
    user.warning("told %s", said(), extra={"request": shape})
    try:
        raise_with_causes()
    except Exception as error:
        user.exception("told", exc_info=error)
        job.log.error("user.failed", exc_info=True)
    warnings.warn(said(), stacklevel=1)

    async def forgotten() -> None:
        raise_with_causes()

    task = asyncio.create_task(forgotten())
    await asyncio.wait([task])
    del task
    asyncio.get_running_loop().call_exception_handler(
        {"message": said(), "exception": RuntimeError(said()), "detail": said()}
    )
