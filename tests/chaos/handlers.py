"""Handlers that use everything a job can do, and keep a diary of what they really did.

`JOBSWORTH_CHAOS_DIR` is the folder of the diary and of the gates: files whose appearance lets a
handler go on.
"""

import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import anyio
from pydantic import BaseModel

from db.money.calls import Answer, Usage
from jobsworth import Job, Sending, handler
from tests.chaos import diary

GATE_POLL_SECONDS = 0.01
GATE_SECONDS_MAX = 60.0
SLOW_SECONDS = (0.05, 1.5)


class Numbered(BaseModel):
    n: int
    kills: bool = False


@handler("chaos.work")
async def work(
    job: Job, n: int, children: int = 0, ask: bool = False, hold: bool = False
) -> dict[str, object]:
    """A step, a paid call, children, a decision, another step; then every kind of effect.

    `hold`: the first attempt's call is answered when the gate `hold` is open.
    """
    with noted(job):
        fetched = await job.step("fetch", token, job, "fetch")
        thought = await job.call(
            "think", paid(job, held=hold), provider="scripted", model="m-1", estimate=(100, 50)
        )
        spawned = [job.spawn("chaos.child", {"n": i}, name=str(i)) for i in range(children)]
        brought = await job.gather(*spawned) if spawned else []
        option = None
        if ask:
            option = (await job.ask(f"Ship {n}?", options=("ship", "reject"))).option
        closed = await job.step("close", token, job, "close", effect="unsafe")
        job.say(f"{fetched} {thought} {closed}")
        job.save("report.txt", fetched)
        job.remember(f"{n} was done: {closed}")
        job.enqueue("chaos.followup", {"n": n})
        return {
            "fetch": fetched,
            "think": thought,
            "close": closed,
            "option": option,
            "children": brought,
        }


@handler("chaos.child")
def child(job: Job, n: int) -> int:
    diary.write(_diary(), "began", job.id, job.attempt)
    diary.write(_diary(), "left", job.id, job.attempt)
    return n


@handler("chaos.batch", batch=4, batch_seconds=0.2)
async def batch(jobs: list[Job], payloads: list[Numbered]) -> list[int]:
    for job, payload in zip(jobs, payloads, strict=True):
        with noted(job):
            job.save("report.txt", f"{payload.n} in a batch")
    if any(payload.kills for payload in payloads):
        os.kill(os.getpid(), signal.SIGKILL)
    return [payload.n for payload in payloads]


@handler("chaos.followup")
async def followup(job: Job, n: int) -> None:
    with noted(job):
        job.say(f"after {n}: {await job.step('fetch', token, job, 'fetch')}")


@handler("chaos.hold")
async def hold(job: Job, times: int = 1) -> str:
    """Its first attempts wait for the gate `hold`; later ones pass."""
    with noted(job):
        if job.attempt <= times:
            await gate("hold")
        return await job.step("fetch", token, job, "fetch")


@handler("chaos.zombie")
async def zombie(job: Job, where: str) -> str:
    """Its first attempt waits for the gate `hold` inside a step or a call, or before it returns."""
    with noted(job):
        made = await job.step("step", slow(job, where == "step"))
        if where == "step":
            await after(job)
        await job.call(
            "call",
            paid(job, held=where == "call"),
            provider="scripted",
            model="m-1",
            estimate=(100, 50),
        )
        if where == "return" and job.attempt == 1:
            await gate("hold")
        elif where != "step":
            await after(job)
        # Under names of their own: the uniqueness of effects would hide a second attempt's.
        job.say(f"said by attempt {job.attempt}", name=f"said {job.attempt}")
        job.save(f"report-{job.attempt}.txt", f"saved by attempt {job.attempt}")
        job.enqueue("chaos.followup", {"n": job.attempt}, name=f"next {job.attempt}")
        return made


@handler("chaos.pay")
async def pay(job: Job, calls: int) -> list[str]:
    """One paid call after the other, each of which takes a while."""
    return [
        await job.call(
            f"call {n}", paid(job, slow=True), provider="scripted", model="m-1", estimate=(100, 50)
        )
        for n in range(calls)
    ]


async def after(job: Job) -> None:
    """A step that no other attempt has."""
    await job.step(f"after {job.attempt}", token, job, "after")


@contextmanager
def noted(job: Job) -> Iterator[None]:
    """Writes down when the handler began and how far it came."""
    diary.write(_diary(), "began", job.id, job.attempt)
    try:
        yield
    finally:
        diary.write(_diary(), "left", job.id, job.attempt)


def token(job: Job, name: str) -> str:
    """Something that no other run of the step would bring."""
    diary.write(_diary(), "step", job.id, job.attempt, name)
    return uuid4().hex


def slow(job: Job, held: bool) -> Callable[[], Awaitable[str]]:
    async def run() -> str:
        made = token(job, "step")
        if held and job.attempt == 1:
            await gate("hold")
        return made

    return run


def paid(
    job: Job, *, held: bool = False, slow: bool = False
) -> Callable[[Sending], Awaitable[Answer]]:
    """A provider that keeps its own bill."""

    async def send(sending: Sending) -> Answer:
        diary.write(_diary(), "billed", job.id, job.attempt, sending.request_id)
        sending.sent()
        if held and job.attempt == 1:
            await gate("hold")
        if slow:
            await anyio.sleep(random.uniform(*SLOW_SECONDS))
        return Answer(sending.request_id, Usage(70, 30))

    return send


async def gate(name: str) -> None:
    """Wait until the test opens this gate."""
    with anyio.fail_after(GATE_SECONDS_MAX):
        while not (_directory() / name).exists():
            await anyio.sleep(GATE_POLL_SECONDS)


def _directory() -> Path:
    return Path(os.environ["JOBSWORTH_CHAOS_DIR"])


def _diary() -> Path:
    return _directory() / "diary"
