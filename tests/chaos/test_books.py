"""Agents run under a faulty provider while daemons die: in the end its bill and the books agree.

Each seed is one run of agents, and one daemon killed: at an instant that it draws, or at a named
one. `JOBSWORTH_CHAOS_SEEDS` sets how many (a tenth as many on PostgreSQL 16); from 200 on, all that
may happen has to. The provider is a process of its own, whose bill is a file that no kill and no
database can undo.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import LiteralString
from uuid import UUID

import anyio
import pytest
from psycopg.types.json import Jsonb

from db.money import books, settlements
from db.pool import Database
from tests.chaos import price_list
from tests.chaos.bill import Amounts, Books, Budget
from tests.chaos.nursery import Daemon
from tests.chaos.scene import Scene
from tests.chaos.scripts import MODELS, USED, nodes_of, parts_scripted, rush_of
from tests.chaos.verdict import check_no_violations
from tests.providers.faults import ANY_REFUSAL, REFUSALS
from tests.providers.openai_stub import BillLine, bill_of
from tests.support import POLL_SECONDS, ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.both]

SEEDS = int(os.environ.get("JOBSWORTH_CHAOS_SEEDS", "10"))
OPEN_RUNS = 16
END_SECONDS = 120
KILL_SECONDS = (0.02, 0.3)
RARELY = 0.05
# Some are stopped instead until others have their jobs, and then go on for a moment.
STALL_SHARE = 0.08
STALL_SECONDS = (1.0, 3.5)
RISEN_SECONDS = 1.0
POINT_SHARE = 0.4
POINTS = (
    *("call.before_row", "call.after_row", "call.after_row", "call.sent", "call.sent"),
    *("call.answered", "call.answered", "step.begun", "step.begun", "step.committed"),
    *("finish.updated", "park.updated", "promote.before", "claim.committed"),
)
FAULTS = {
    "slow": 0.1,
    ANY_REFUSAL: 0.03,
    "500": 0.04,
    "cut": 0.06,
    "garbage": 0.03,
    "missing_usage": 0.04,
    "inconsistent_usage": 0.04,
    "malformed_tool_json": 0.04,
    "duplicate_tool_ids": 0.05,
}
HOURLY = Budget("hourly", "tokens", "hour", model="hourly-1")
RUN = Budget("each run", "money", "run")
FRUGAL = Budget("frugal", "tokens", "day", mode="books.frugal")
BUDGETS = {HOURLY: (1_500, 1_000), RUN: (Decimal("0.016"), Decimal("0.004")), FRUGAL: (8_000, 0)}
RAISE_SECONDS = 0.1
# How many ask at the same moment, at first, what is limited and what is short.
RUSH = 24
LIMITED = "limited-1"
LIMIT_REQUESTS = 12
LATER_REQUESTS = 600
# The paths of each provider's protocols.
PATHS = {
    "openai": ("/v1/chat/completions", "/v1/responses"),
    "anthropic": ("/v1/messages",),
}

START_RUN: LiteralString = "select jobsworth.start_run(%(nodes)s) as id"
BUDGET: LiteralString = """
select jobsworth.set_budget(%(name)s, %(unit)s::jobsworth.budget_unit, %(amount)s::numeric,
  %(period)s::jobsworth.budget_period, model => %(model)s, mode => %(mode)s,
  over => %(over)s::jobsworth.budget_over)
"""
LIMIT: LiteralString = """
select jobsworth.set_rate_limit(%(provider)s, %(model)s, %(requests)s)
"""
CLOCK: LiteralString = "select extract(epoch from clock_timestamp())::float8"
RAISE: LiteralString = "select jobsworth.raise_budget(%(name)s, %(amount)s::numeric)"
SHORT: LiteralString = """
select distinct b.name
from jobsworth.budget_waits w
join jobsworth.budgets b on b.id = w.budget_id
join jobsworth.reactive_jobs j on j.id = w.job_id
where w.granted_at is null and j.status = 'waiting' and j.waiting_for = 'budget'
"""
ASKED: LiteralString = "select a.id from jobsworth.approvals a where a.status = 'pending'"
RESOLVE: LiteralString = "select jobsworth.resolve(%(id)s, %(option)s, 'test')"
DOUBTED: LiteralString = """
select s.job_id, s.name
from jobsworth.steps s
join jobsworth.reactive_jobs j on j.id = s.job_id
where s.effect = 'unsafe' and s.kind = 'step' and s.finished_at is null
  and j.status = 'waiting' and j.waiting_for = 'person'
"""
DECIDE: LiteralString = """
select jobsworth.decide_step(%(job_id)s, %(name)s, %(decision)s, %(output)s, 'test')
"""
# As with a disk that takes its time: what is booked beside each other is decided beside each other.
SLOW_DISK: LiteralString = """
create function public.take_time() returns trigger language plpgsql as $$
begin
  perform pg_sleep(0.01);
  return null;
end $$;
create trigger take_time after insert on jobsworth.call_windows
  for each statement execute function public.take_time()
"""
OPEN: LiteralString = """
select count(distinct j.run_id) from jobsworth.reactive_jobs j where j.finished_at is null
"""
BUSY: LiteralString = """
select count(distinct j.run_id) from jobsworth.reactive_jobs j
where j.finished_at is null and j.waiting_for is distinct from 'limit'
"""
# A run whose last job's worker died before it looked at the run is found by a sweep.
RUNS_LEFT: LiteralString = """
select count(*) from jobsworth.runs r where r.status not in ('done', 'failed', 'canceled')
"""
ENDINGS: LiteralString = """
select j.id, j.mode, j.status::text, j.error, r.status::text as run, j.crashes
from jobsworth.reactive_jobs j
join jobsworth.runs r on r.id = j.run_id
"""
CHARGED: LiteralString = """
select j.id,
  (select count(*) from jobsworth.steps s
    where s.job_id = j.id and s.effect = 'unsafe' and s.finished_at is not null) as recorded,
  (select count(*) from jobsworth.step_decisions d
    where d.job_id = j.id and d.decision = 'again') as again,
  (select count(*) from jobsworth.approvals a
    where a.job_id = j.id and a.status = 'approved') as approved
from jobsworth.reactive_jobs j
"""


class Play:
    """Runs, the daemons that they run on, and everybody whom they wait for."""

    def __init__(self, scene: Scene, provider: str) -> None:
        self.scene = scene
        self.story: list[str] = []
        self.raised = {
            budget.name: Amounts([0.0], [Decimal(amount)])
            for budget, (amount, _) in BUDGETS.items()
        }
        self.happened: Counter[str] = Counter()
        self.phases: list[float] = []
        self._env = {
            "JOBSWORTH_HANDLERS": "tests.chaos.agents",
            "JOBSWORTH_CHAOS_PROVIDER": provider,
            "JOBSWORTH_CRASHES_MAX": "1000",
        }
        self._prepare()
        self.daemons = [scene.start(self._env) for _ in range(3)]
        self._youngest = 2
        self._stalled: list[tuple[float, Daemon]] = []

    def rush(self) -> None:
        """Let many ask at once, more than limit and budget let through."""
        for daemon in self.daemons:
            daemon.wait_for("daemon.ready")
        for model in [LIMITED, str(HOURLY.model)] * RUSH:
            self.scene.conn.execute(START_RUN, {"nodes": Jsonb(rush_of(model))})

    def begin(self, seed: int) -> None:
        """Start the run of this seed when there are few enough."""
        give_up = time.monotonic() + END_SECONDS
        while self.scene.value(BUSY) >= OPEN_RUNS:
            self._must_end_by(give_up)
            self.tend(0.1)
        self.scene.conn.execute(START_RUN, {"nodes": Jsonb(nodes_of(seed))})

    def kill(self, seed: int) -> None:
        """Kill a daemon at an instant, unless it has died at a named one; replace it at once.

        The first is killed seldom, so that somebody lives long enough to rescue.
        """
        draw = random.Random(-seed)
        others = [place for place in range(3) if place != self._youngest]
        place = draw.choices(others, [RARELY if place == 0 else 1 for place in others])[0]
        self.tend(draw.uniform(*KILL_SECONDS))  # the instant is what the seed chooses
        self._fell(self.daemons[place], draw, spared=place == 0)
        point = {}
        if place and draw.random() < POINT_SHARE:
            point = {"JOBSWORTH_CRASH_POINT": f"{draw.choice(POINTS)}:{draw.randint(1, 4)}"}
        self.daemons[place] = self.scene.start(self._env | point)
        self._youngest = place

    def _fell(self, victim: Daemon, draw: random.Random, *, spared: bool) -> None:
        how = "killed" if victim.running else "died"
        if victim.running and not spared and draw.random() < STALL_SHARE:
            how = "stalled"
            victim.pause()
            rises_at = time.monotonic() + draw.uniform(*STALL_SECONDS)
            self._stalled.append((rises_at, victim))
        else:
            victim.kill()
        self.story.append(f"{victim.pid} {how}")
        self.happened[how] += 1

    def _resume(self) -> None:
        """Let those go on whose time has come, and kill them a moment later."""
        now = time.monotonic()
        for rises_at, daemon in self._stalled:
            if now > rises_at + RISEN_SECONDS:
                daemon.kill()
            elif now > rises_at:
                # At its named instant it may die by itself.
                with suppress(ProcessLookupError):
                    daemon.resume()
        self._stalled = [one for one in self._stalled if now <= one[0] + RISEN_SECONDS]

    def end(self) -> None:
        """Until every run has ended; then what only upkeep does, which takes its time."""
        give_up = time.monotonic() + END_SECONDS
        while self.scene.value(OPEN) or self.scene.value(RUNS_LEFT) or self._stalled:
            self._must_end_by(give_up)
            self.tend(0.1)
            self._replace_dead()
        self.phases.append(self.scene.value(CLOCK))
        anyio.run(self._settle_abandoned)

    def _must_end_by(self, give_up: float) -> None:
        if time.monotonic() > give_up:
            raise AssertionError(f"still open: {self.scene.open_jobs()}\n{self.scene.tails()}")

    def relax(self) -> None:
        """Let the limited model be asked more from now on."""
        self.phases.append(self.scene.value(CLOCK))
        self._limit(LATER_REQUESTS)

    def tend(self, seconds: float) -> None:
        """For a while, decide what is asked, and raise what is waited for."""
        until = time.monotonic() + seconds
        while True:
            self._decide()
            self._raise_budgets()
            self._resume()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_SECONDS * 2))

    def _prepare(self) -> None:
        conn = self.scene.conn
        conn.execute(SLOW_DISK)
        price_list.set_prices(conn, tuple(MODELS))
        self._limit(LIMIT_REQUESTS)
        self.phases.append(self.scene.value(CLOCK))
        for budget, (amount, step) in BUDGETS.items():
            over = "park" if step else "fail"
            conn.execute(BUDGET, budget._asdict() | {"amount": amount, "over": over})

    def _limit(self, requests: int) -> None:
        for provider in PATHS:
            limit = {"provider": provider, "model": LIMITED, "requests": requests}
            self.scene.conn.execute(LIMIT, limit)

    def _decide(self) -> None:
        for asked in self.scene.rows(ASKED):
            option = _drawn(asked["id"], "approve", "approve", "approve", "reject")
            self.scene.conn.execute(RESOLVE, {"id": asked["id"], "option": option})
            self.happened[option] += 1
        for step in self.scene.rows(DOUBTED):
            # In turns: there may be few of them.
            decision = "again" if self.happened["again"] <= self.happened["done"] else "done"
            output = Jsonb({"result": "charge done by hand"}) if decision == "done" else None
            self.scene.conn.execute(DECIDE, step | {"decision": decision, "output": output})
            self.happened[decision] += 1

    def _raise_budgets(self) -> None:
        for short in self.scene.rows(SHORT):
            [step] = [step for budget, (_, step) in BUDGETS.items() if budget.name == short["name"]]
            amounts, now = self.raised[short["name"]], self.scene.value(CLOCK)
            if now - amounts.since[-1] < RAISE_SECONDS:
                continue
            # Noted before it counts.
            amounts.since.append(now)
            amounts.amounts.append(amounts.amounts[-1] + step)
            raised = {"name": short["name"], "amount": amounts.amounts[-1]}
            self.scene.conn.execute(RAISE, raised)

    def _replace_dead(self) -> None:
        for place, daemon in enumerate(self.daemons):
            if not daemon.running:
                self.daemons[place] = self.scene.start(self._env)

    async def _settle_abandoned(self) -> None:
        async with (
            Database(self.scene.url, pool_min=1, pool_max=1) as database,
            database.connection() as connection,
        ):
            while (await settlements.settle_abandoned(connection, 100)).calls:
                pass
            assert await books.check(connection) == []


def test_after_many_kills_the_books_agree_with_the_bill(
    scene: Scene, major: int, tmp_path: Path
) -> None:
    seeds = range(SEEDS) if major == 18 else range(SEEDS, SEEDS + SEEDS // 10)
    file = tmp_path / "bill.jsonl"
    with _provider(file) as provider:
        play = Play(scene, provider)
        try:
            play.rush()
            for seed in seeds:
                if seed == seeds[len(seeds) // 3]:
                    play.relax()
                play.begin(seed)
                play.kill(seed)
            play.end()
            _check(play, bill_of(file), many=len(seeds) >= 200)
        except BaseException:
            print("\n".join(play.story[-40:]))
            raise


def _check(play: Play, bill: list[BillLine], *, many: bool) -> None:
    books = Books(play.scene, bill)
    books.check_each_request_on_the_bill_has_one_call()
    books.check_each_call_says_what_the_bill_says()
    books.check_no_answer_was_bought_twice()
    books.check_each_call_counts_where_it_falls(list(BUDGETS))
    for budget in BUDGETS:
        books.check_nothing_beyond_a_budget(budget, play.raised[budget.name])
    begun, relaxed, ended = play.phases
    for paths in PATHS.values():
        books.check_rate(paths, LIMITED, LIMIT_REQUESTS, begun, relaxed)
        books.check_rate(paths, LIMITED, LATER_REQUESTS, relaxed, ended)
    books.check_each_call_began_under_its_lease()
    check_no_violations(play.scene)
    _check_endings(play.scene)
    _check_tools(play.scene)
    if many:
        _check_everything_happened(play, books)


def _check_endings(scene: Scene) -> None:
    """Every run came to its end; only what had no budget left failed."""
    for row in scene.rows(ENDINGS):
        short = row["mode"] == FRUGAL.mode and "budget frugal" in (row["error"] or "")
        assert row["status"] == ("failed" if short else "done"), row
        assert row["run"] == row["status"], row


def _check_tools(scene: Scene) -> None:
    """What is unsafe ran once, and again where somebody said so; what needs consent, with it."""
    did = Counter((entry.job, entry.what) for entry in scene.diary())
    for row in scene.rows(CHARGED):
        job = str(row["id"])
        assert did[job, "charge"] <= row["recorded"] + row["again"], row
        assert not did[job, "ship"] or row["approved"], row


def _check_everything_happened(play: Play, books: Books) -> None:
    """Nothing of the above was true for want of an occasion."""
    print(dict(play.happened))
    assert books.statuses().keys() == {"ok", "cut", "error", "unknown"}
    assert books.faults().keys() >= (FAULTS.keys() - {ANY_REFUSAL}) | REFUSALS.keys()
    _check_each_class_was_booked(books)
    assert play.happened.keys() >= {"approve", "reject", "done", "again"}
    assert play.happened.keys() >= {"killed", "died", "stalled"}
    limited = [line for line in books.bill if line.charge.model == LIMITED]
    assert sum(line.at < play.phases[1] for line in limited) >= LIMIT_REQUESTS
    assert any(row["status"] == "failed" for row in play.scene.rows(ENDINGS))
    for budget in (HOURLY, RUN):
        assert len(play.raised[budget.name].amounts) > 2, budget


def _check_each_class_was_booked(books: Books) -> None:
    """By each protocol, whole and streamed; and each protocol has refused something."""
    booked: dict[str, set[str]] = defaultdict(set)
    for line in books.booked_by_the_provider():
        booked[line.charge.path] |= price_list.parts_of(line.charge)
        booked[line.charge.path].add(f"streamed: {line.streamed}")
    for face, path in zip(("chat", "responses", "anthropic"), chain(*PATHS.values()), strict=True):
        scripted = set[str]().union(*map(parts_scripted, USED[face]))
        assert booked[path] >= scripted | {"streamed: True", "streamed: False"}, face
        refused = {
            line.streamed
            for line in books.bill
            if line.charge.path == path and line.fault in REFUSALS
        }
        assert refused == {True, False}, face


@contextmanager
def _provider(bill: Path) -> Iterator[str]:
    """The provider as a process of its own; its address."""
    command = [
        sys.executable,
        "-m",
        "tests.providers.openai_stub",
        "--bill",
        str(bill),
        "--seed",
        "1",
    ]
    command += ["--faults", ",".join(f"{name}={chance}" for name, chance in FAULTS.items())]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _drawn(subject: UUID, *options: str) -> str:
    """The same each time it is drawn for this subject."""
    return random.Random(str(subject)).choice(options)
