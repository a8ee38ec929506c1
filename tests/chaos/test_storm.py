"""A provider that refuses in every way there is hears little of a fleet, and other models nothing.

Four daemons, and jobs of a model that refuses everything, of one that refuses one key, of one that
refuses after each answer, and of one that is well. What is counted is what the provider has seen.
"""

from __future__ import annotations

import time
from itertools import accumulate, count, takewhile
from math import floor, log2
from typing import Any, LiteralString
from uuid import UUID

import pytest

from tests.chaos.scene import USUAL, Scene
from tests.chaos.verdict import check_no_violations
from tests.providers.faults import REFUSALS
from tests.providers.openai_stub import OpenAIStub
from tests.support import until_sync

pytestmark = pytest.mark.chaos

DAEMONS, SLOTS = 4, 10
STORMING, KEYED, AFTER = "storm-1", "keyed-1", "after-1"
BAD_JOBS = 60
BAD_KEY_JOBS = 8
ROUNDS = 20
ROUND_SECONDS = 0.4
END_SECONDS = 60

REFUSED: LiteralString = """
select coalesce(max(l.refusals), 0) from jobsworth.rate_limits l where l.model = %(model)s
"""
ENDED: LiteralString = """
select count(*) from jobsworth.reactive_jobs j where j.id = any(%(ids)s) and j.status = 'done'
"""
OPEN: LiteralString = """
select j.payload, j.status::text, j.waiting_detail, j.run_at, j.attempt, j.error
from jobsworth.reactive_jobs j
where j.id = any(%(ids)s) and j.status <> 'done'
"""
LIMITS: LiteralString = "select * from jobsworth.rate_limits"
ATTEMPTS: LiteralString = """
select max(j.attempt) from jobsworth.reactive_jobs j where j.id = any(%(ids)s)
"""
STORMED: LiteralString = """
select j.status::text, j.waiting_for::text, j.failures, j.error, count(*)
from jobsworth.reactive_jobs j
where j.payload ->> 'model' = %(model)s
group by 1, 2, 3, 4
"""
BOOKED: LiteralString = """
select c.status::text, bool_and(c.limited) as limited, max(c.cost) as cost
from jobsworth.llm_calls c
where c.model = %(model)s
group by c.status
"""
# The longest time from the start of a call to the commit of its refusal, of those that began when
# the first refusal was known.
UNDER_WAY: LiteralString = """
with asked as materialized (
  select c.started_at, case when c.settled_at is not null then pg_xact_commit_timestamp(c.xmin) end
    as refused_at
  from jobsworth.llm_calls c
  where c.model = %(model)s
)
select coalesce(max(extract(epoch from
  coalesce(a.refused_at, clock_timestamp()) - a.started_at)), 0)::float8
from asked a
where a.started_at > (select min(f.refused_at) from asked f)
"""


def asked_at_most(seconds: float, under_way: float) -> int:
    """How often a model that only refuses is asked in `seconds`, if a refusal is known `under_way`
    seconds after the start of its call at the latest.

    Until the first refusal is known, each slot asks once. Between the refusals that count there
    are pauses, which double from the third on, up to a minute; the first is what the provider says.
    After a pause, calls begin at the pace (1/4 s, doubled by each refusal that counts) until
    one of them is known to be refused: besides the first, `under_way` / pace, and over all paces
    less than `under_way` (4 + 2 + 1 + ...).
    """
    pauses = (min(60.0, max(1.0, 0.25 * 2**n)) for n in count(1))
    ends = accumulate(pauses, initial=0.2)
    counted = sum(1 for _ in takewhile(lambda end: end <= seconds, ends))
    return DAEMONS * SLOTS + counted + floor(8 * under_way)


def test_a_provider_that_refuses_in_every_way_is_asked_a_stated_number_of_times(
    scene: Scene,
) -> None:
    ways = [fault for name, fault in REFUSALS.items() if name != "429_last"]
    with OpenAIStub() as provider:
        provider.refuse(STORMING, *ways)
        provider.refuse(KEYED, *ways, key="sk-bad")
        provider.refuse(AFTER, REFUSALS["429_last"])
        _daemons(scene, provider)
        calm, served, after = list[UUID](), list[UUID](), list[UUID]()
        began = time.monotonic()
        for n in range(BAD_JOBS):
            _ask(scene, STORMING, streamed=n % 2 == 0)
        for n in range(BAD_KEY_JOBS):
            _ask(scene, KEYED, streamed=n % 2 == 0, key="sk-bad")
        for n in range(ROUNDS):
            calm.append(_ask(scene, "calm-1", streamed=n % 2 == 0))
            if n % 5 == 0:
                served.append(_ask(scene, KEYED, key="sk-good"))
                after.append(_ask(scene, AFTER, streamed=True))
            time.sleep(ROUND_SECONDS)  # the storm goes on meanwhile
        for ids in (calm, served, after):
            _until_done(scene, ids)
        until_sync(lambda: scene.value(REFUSED, {"model": STORMING}) >= 4, END_SECONDS)
        stormed = _seen(provider, STORMING)
        refused_key = _seen(provider, KEYED, "sk-bad")
        took = time.monotonic() - began
        under_way = scene.value(UNDER_WAY, {"model": STORMING})

        print(
            "NUMBERS",
            stormed,
            took,
            under_way,
            asked_at_most(took, under_way),
            refused_key,
            BAD_KEY_JOBS * (3 + log2(took)),
        )
        assert BAD_JOBS // 10 < stormed <= asked_at_most(took, under_way)
        # A job of its own waits a second (the first time as long as it is told), then doubles.
        assert refused_key <= BAD_KEY_JOBS * (3 + log2(took))
        # The good ones were asked once each, and none of them waited.
        assert _seen(provider, "calm-1") == len(calm)
        assert scene.value(ATTEMPTS, {"ids": calm}) == 1
        assert _seen(provider, KEYED, "sk-good") == len(served)
        assert _seen(provider, AFTER) == len(after)
        for row in scene.rows(STORMED, {"model": STORMING}):
            assert row["failures"] == 0, row
        for row in scene.rows(BOOKED, {"model": STORMING}):
            assert row["limited"] or row["status"] in ("started", "unknown"), row
            assert row["status"] != "error" or row["cost"] == 0, row
    check_no_violations(scene)


def _daemons(scene: Scene, provider: OpenAIStub) -> None:
    env = {
        "JOBSWORTH_HANDLERS": "tests.chaos.agents",
        "JOBSWORTH_CHAOS_PROVIDER": provider.url,
        "JOBSWORTH_REFUSALS_MAX": "1000",
        "JOBSWORTH_SLOTS": str(SLOTS),
        "JOBSWORTH_UNKNOWN_PRICE": "allow",
        # Nobody dies here: a daemon that a busy machine holds up for a second repeats no call.
        **USUAL,
    }
    for daemon in [scene.start(env) for _ in range(DAEMONS)]:
        daemon.wait_for("daemon.ready")


def _until_done(scene: Scene, ids: list[UUID]) -> None:
    try:
        until_sync(lambda: scene.value(ENDED, {"ids": ids}) == len(ids), END_SECONDS)
    except AssertionError:
        open_jobs = scene.rows(OPEN, {"ids": ids})
        raise AssertionError(f"{open_jobs}\n{scene.rows(LIMITS)}\n{scene.tails()}") from None


def _ask(scene: Scene, model: str, **payload: Any) -> UUID:
    prompt = "[[say something that is long enough to be told in some pieces]]"
    return scene.enqueue("books.agent", {"prompt": prompt, "model": model, **payload})


def _seen(provider: OpenAIStub, model: str, key: str = "sk-test") -> int:
    return sum(
        request.body["model"] == model and request.headers["Authorization"] == f"Bearer {key}"
        for request in provider.requests
    )
