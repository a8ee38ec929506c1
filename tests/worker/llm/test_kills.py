"""Daemons die under agents; the next one goes on, pays nothing twice, and the books tell all."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any, LiteralString
from uuid import UUID

import anyio
import pytest

from db.money import settlements
from db.pool import Database
from tests.chaos.scene import Scene
from tests.providers.openai_stub import OpenAIStub
from tests.support import until_sync

pytestmark = pytest.mark.chaos

# Each run is an agent's job; how many, and which instants are drawn.
RUNS = int(os.environ.get("JOBSWORTH_CHAOS_RUNS", "10"))
SEED = int(os.environ.get("JOBSWORTH_CHAOS_SEED", "1"))
ENDS_SECONDS = 60
FAULTS = {
    "slow": 0.3,
    "429": 0.05,
    "500": 0.1,
    "cut": 0.1,
    "garbage": 0.05,
    "missing_usage": 0.05,
    "inconsistent_usage": 0.1,
    "duplicate_tool_ids": 0.1,
}
CALLS: LiteralString = """
select c.request_id, c.status::text, c.usage_source::text, c.job_id, c.step_name, c.input_tokens,
  c.output_tokens, c.cache_read_tokens
from jobsworth.llm_calls c
"""
SENT_AGAIN: LiteralString = """
select again.request_id
from jobsworth.llm_calls answered
join jobsworth.llm_calls again on again.job_id = answered.job_id
  and again.step_name = answered.step_name and again.started_at > answered.settled_at
where answered.status = 'ok'
"""
APPROVE: LiteralString = """
select jobsworth.resolve(a.id, 'approve', 'test') from jobsworth.approvals a
where a.status = 'pending'
"""
OPEN: LiteralString = """
select exists (select from jobsworth.reactive_jobs where finished_at is null)
"""


class Agents:
    """A scene whose daemons run agents against a provider of the test."""

    def __init__(self, scene: Scene, provider: OpenAIStub) -> None:
        self.scene = scene
        self.provider = provider
        self.diary = scene.directory / "charged"
        self.jobs = list[UUID]()

    def start(self, **env: str) -> Any:
        handlers = {
            "JOBSWORTH_HANDLERS": "tests.worker.llm.doomed",
            "JOBSWORTH_TEST_PROVIDER": self.provider.url,
            "JOBSWORTH_TEST_DIARY": str(self.diary),
            "JOBSWORTH_CRASHES_MAX": "100",
        }
        return self.scene.start(handlers | env)

    def enqueue(self, count: int) -> None:
        for n in range(count):
            work = {"n": n, "streamed": n % 2 == 1}
            self.jobs.append(self.scene.enqueue("doomed.agent", work))

    def until_all_ended(self) -> None:
        try:
            until_sync(self.ended, ENDS_SECONDS)
        except AssertionError:
            raise AssertionError(f"{self.scene.open_jobs()}\n{self.scene.tails()}") from None
        # A daemon does it every ten seconds.
        anyio.run(self._settle_abandoned)

    def until_asked(self, requests: int) -> None:
        """Until the provider has had that many requests, or nothing is left to ask."""

        until_sync(lambda: self.ended() or len(self.provider.requests) >= requests, 30)

    def ended(self) -> bool:
        """Approve what is asked: has every job ended?"""
        self.scene.conn.execute(APPROVE)
        return not self.scene.value(OPEN)

    def check(self) -> None:
        """Every job has its result, each answer was paid once, and the books match the bill."""
        results = [self.scene.job(job_id)["result"] for job_id in self.jobs]
        assert results == [f"5 charged for {n}" for n in range(len(self.jobs))]
        calls = self.scene.rows(CALLS)
        by_id = {call["request_id"]: call for call in calls}
        assert len(by_id) == len(calls)
        for charge in self.provider.bill:
            call = by_id[charge.request_id]
            billed = (charge.input_tokens, charge.output_tokens, charge.cached_tokens)
            if (call["status"], call["usage_source"]) == ("ok", "provider"):
                booked = (call["input_tokens"], call["output_tokens"], call["cache_read_tokens"])
                assert booked == billed
            else:
                assert call["usage_source"] == "estimated"
                assert call["status"] in ("ok", "unknown", "cut")
                assert call["input_tokens"] >= charge.input_tokens
                assert call["output_tokens"] >= charge.output_tokens
        answered = Counter(
            (call["job_id"], call["step_name"]) for call in calls if call["status"] == "ok"
        )
        assert answered == {
            (job_id, f"pay/request {n}"): 1 for job_id in self.jobs for n in (1, 2, 3)
        }
        assert self.scene.rows(SENT_AGAIN) == []
        assert self.scene.rows("select * from jobsworth.violations") == []

    async def _settle_abandoned(self) -> None:
        async with (
            Database(self.scene.url, pool_min=1, pool_max=1) as database,
            database.connection() as connection,
        ):
            await settlements.settle_abandoned(connection, 100)

    def charged(self) -> list[int]:
        text = self.diary.read_text() if self.diary.exists() else ""
        return sorted(int(line) for line in text.split())


@pytest.fixture
def agents(scene: Scene, provider: OpenAIStub) -> Agents:
    return Agents(scene, provider)


@pytest.mark.parametrize(
    "point",
    [
        *("call.before_row:1", "call.after_row:4", "call.sent:2", "call.answered:3"),
        *("step.committed:1", "step.committed:5", "park.updated:1"),
    ],
)
def test_a_daemon_dies_at_a_named_instant_and_nothing_is_paid_twice(
    agents: Agents, point: str
) -> None:
    agents.enqueue(2)
    daemon = agents.start(JOBSWORTH_CRASH_POINT=point)
    until_sync(lambda: agents.scene.conn.execute(APPROVE) and not daemon.running, 30)
    agents.start()
    agents.until_all_ended()
    agents.check()
    assert agents.charged() == [0, 1]


def test_many_runs_end_while_daemons_die_in_the_middle_of_answers(scene: Scene) -> None:
    """At any instant, while the provider is slow and faulty; billed is what nobody has heard."""
    chance = random.Random(SEED)
    with OpenAIStub(faults=FAULTS, seed=SEED) as provider:
        agents = Agents(scene, provider)
        agents.enqueue(RUNS)
        daemons = [agents.start() for _ in range(2)]
        while not agents.ended():
            agents.until_asked(len(provider.requests) + chance.randint(1, 12))
            place = chance.randrange(2)
            daemons[place].kill()
            daemons[place] = agents.start()
            # Somebody has to live long enough to take over.
            daemons[place].wait_for("daemon.ready")
        agents.until_all_ended()
        agents.check()
    assert set(agents.charged()) == set(range(RUNS))
