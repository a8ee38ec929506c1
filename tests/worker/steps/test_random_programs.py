"""Random handlers whose branches run in random order and are killed: each effect happens once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any, LiteralString

import anyio
import pytest

from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.support import until
from tests.worker.job_api import JobApi, new_thread
from tests.worker.steps.beside import TOGETHER

PROGRAMS = 12
BRANCHES_MAX = 4
ACTS_MAX = 4
KILLS_MAX = 3
ACTS = ("say", "enqueue", "remember", "metric", "step", "unsafe", "sleep", "child", "pause")

Program = list[list[tuple[str, str]]]


def a_program(chance: random.Random) -> Program:
    """Branches of acts, each act with a word; some words are the same in several branches."""
    return [
        [
            (chance.choice(ACTS), chance.choice("abcdefgh"))
            for _ in range(chance.randint(1, ACTS_MAX))
        ]
        for _ in range(chance.randint(2, BRANCHES_MAX))
    ]


async def act(job: Job, kind: str, word: str, place: str, chance: random.Random) -> Any:
    # In another order in each attempt.
    await anyio.sleep(chance.choice([0, 0, 0.01, 0.03]))
    match kind:
        case "say":
            job.say(word)
        case "enqueue":
            job.enqueue("follow", {"word": word})
        case "remember":
            job.remember(word)
        case "metric":
            job.metric(word, 1.0)
        case "step" | "unsafe":
            effect: Any = "unsafe" if kind == "unsafe" else "idempotent"
            return await job.step(f"{kind} {place}", str, word, effect=effect)
        case "sleep":
            await job.sleep(0.02)
        case "child":
            [answer] = await job.gather(job.spawn("child", {"word": word}))
            return answer
        case _:
            await anyio.sleep(0.02)
    return word


@pytest.mark.parametrize("seed", range(PROGRAMS))
async def test_each_effect_of_a_random_program_happens_once(api: JobApi, seed: int) -> None:
    chance = random.Random(seed)
    program, form = a_program(chance), chance.choice(list(TOGETHER))
    attempts: list[int] = []

    @handler("child")
    async def child(word: str) -> str:
        await anyio.sleep(0.02)
        return word

    @handler("follow")
    def follow(word: str) -> str:
        return word

    @handler("work", failures_max=1)
    async def work(job: Job) -> list[Any]:
        attempts.append(job.attempt)

        async def branch(n: int) -> list[Any]:
            order = random.Random(seed * 1000 + job.attempt * 10 + n)
            return [
                await act(job, kind, word, f"{n}.{i}", order)
                for i, (kind, word) in enumerate(program[n])
            ]

        return await TOGETHER[form](*[lambda n=n: branch(n) for n in range(len(program))])

    job_id = await api.enqueue("work", thread_id=await new_thread(api))
    for _ in range(chance.randint(0, KILLS_MAX)):
        before = len(attempts)
        try:
            async with api.dying() as worker:
                with suppress(AssertionError):  # it may have ended, or wait for a person
                    await until(lambda before=before: asyncio.sleep(0, len(attempts) > before), 3)
                await asyncio.sleep(chance.random() / 4)
                worker.kill()
        except* RuntimeError:
            # A claim was answered after the kill, when nothing of the worker runs any more.
            await api.rescue()
    await api.work(60)

    job = await api.job(job_id)
    if job.waiting_for == "person":
        # An unsafe step was under way when its worker was killed.
        return
    assert job.status is JobStatus.DONE, job.error
    assert job.result == [[word for _, word in branch] for branch in program]
    made: dict[str, LiteralString] = {
        "say": "select m.text as word from jobsworth.chat_messages m",
        "enqueue": "select payload ->> 'word' as word from jobsworth.reactive_jobs"
        " where mode = 'follow'",
        "child": "select payload ->> 'word' as word from jobsworth.reactive_jobs"
        " where mode = 'child'",
        "remember": "select m.text as word from jobsworth.memories m",
        "metric": "select m.name as word from jobsworth.run_metrics m",
    }
    for kind, query in made.items():
        wanted = Counter(word for branch in program for one, word in branch if one == kind)
        assert Counter(row["word"] for row in await api.rows(query)) == wanted, kind
