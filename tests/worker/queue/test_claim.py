"""The claimer: what it remembers, what it starts, and what it does about answers that are lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import pairwise
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import Unavailable
from db.pool import Connection, Database, execute, fetch_val
from db.queue import claim as claiming
from db.queue.claim import FIRST, Claim, Claimed
from db.queue.enqueue import enqueue
from tests.db.protocol import MODES, add, register, rescue, row, state, states, take
from tests.support import until
from tests.worker.queue.standins import CountedWake, RecordedPromoter, beat, heartbeat
from worker.daemon.vitals import Vitals
from worker.queue import claim
from worker.queue.claim import PRIORITIES, Claimer, Positions
from worker.queue.wake import Wakes
from worker.rescans import RESCAN_COST_FACTOR, RESCAN_SECONDS, RESCAN_SECONDS_MAX

pytestmark = pytest.mark.both

RUN_BY_HAND: LiteralString = """
update jobsworth.reactive_jobs
set status = 'running', lease_no = nextval('jobsworth.lease_no'), worker_id = jobsworth.uuidv7()
where id = %(id)s
"""


# Positions: pure.

places = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(PRIORITIES))
seen = st.dictionaries(places, st.integers(1, 1000))


def test_the_first_look_is_from_the_start_urgent_first() -> None:
    assert Positions(["a", "b"]).probes(100) == [
        (queue_name, priority, FIRST) for priority in PRIORITIES for queue_name in ("a", "b")
    ]


@given(st.lists(seen, max_size=5))
def test_a_look_begins_beyond_the_furthest_that_was_claimed(
    claims: list[dict[tuple[str, int], int]],
) -> None:
    positions = Positions(["a", "b"])
    positions.probes(100)
    for one in claims:
        positions.claimed_up_to(one)
    for name, priority, beyond in positions.probes(100.1):
        assert beyond == max((one.get((name, priority), FIRST) for one in claims), default=FIRST)


@given(st.lists(st.tuples(st.floats(0, 1), seen), max_size=20))
def test_looks_from_the_start_are_never_closer_than_half_a_second(
    looks: list[tuple[float, dict[tuple[str, int], int]]],
) -> None:
    positions, at = Positions(["a"]), 100.0
    from_start: list[float] = []
    positions.claimed_up_to({("a", priority): 1 for priority in PRIORITIES})
    for pause, claimed in looks:
        at += pause
        if _from_start(positions, at):
            from_start.append(at)
        positions.claimed_up_to(claimed)
    gaps = [later - earlier for earlier, later in pairwise(from_start)]
    assert all(gap >= RESCAN_SECONDS for gap in gaps)


@given(st.floats(0, 0.49), seen.filter(bool))
def test_after_a_claim_the_next_look_from_the_start_is_waited_for(
    pause: float, claimed: dict[tuple[str, int], int]
) -> None:
    positions = Positions(["a"])
    positions.probes(100)
    assert positions.next_rescan_in_seconds(100) == float("inf")
    positions.claimed_up_to(claimed)
    patience = positions.next_rescan_in_seconds(100 + pause)
    assert patience == pytest.approx(RESCAN_SECONDS - pause)
    assert all(beyond == FIRST for _, _, beyond in positions.probes(100 + pause + patience + 1e-6))


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_look_from_the_start_that_costs_more_than_others_is_made_more_rarely(
    usual: float, from_start: float
) -> None:
    positions, at = Positions(["a"]), 100.0
    positions.claimed_up_to({("a", priority): 1 for priority in PRIORITIES})
    positions.probes(at)
    positions.look_took(0)
    positions.probes(at + 0.1)
    positions.look_took(usual)
    at += RESCAN_SECONDS
    assert _from_start(positions, at)
    positions.look_took(from_start)
    positions.claimed_up_to({("a", 1): 2})
    pause = min(max(RESCAN_COST_FACTOR * (from_start - usual), RESCAN_SECONDS), RESCAN_SECONDS_MAX)
    assert positions.next_rescan_in_seconds(at) == pytest.approx(pause)
    assert not _from_start(positions, at + pause - 1e-6)
    assert _from_start(positions, at + pause + 1e-6)


def test_it_is_made_often_again_once_it_costs_nothing() -> None:
    positions = Positions(["a"])
    positions.claimed_up_to({("a", priority): 1 for priority in PRIORITIES})
    positions.probes(100)
    positions.look_took(0.02)
    assert not _from_start(positions, 101.9)
    positions.look_took(0.001)
    assert _from_start(positions, 102)
    positions.look_took(0.001)
    assert _from_start(positions, 102 + RESCAN_SECONDS)


def _from_start(positions: Positions, at: float) -> bool:
    return all(beyond == FIRST for _, _, beyond in positions.probes(at))


# The claimer.


class CountedVitals(Vitals):
    """Counts the turns of the claim loop."""

    def __init__(self) -> None:
        super().__init__(uuid4(), 1)
        self.rounds = 0

    def claim_loop_progress(self) -> None:
        self.rounds += 1
        super().claim_loop_progress()


class Desk:
    """A claimer at work, with slots."""

    def __init__(self, database: Database, worker_id: UUID | None, slots: int = 3) -> None:
        self.slots = slots
        self.started: list[tuple[Claimed, UUID]] = []
        self.promoter = RecordedPromoter(database)
        self.vitals = CountedVitals()
        self.lost_claims = CountedWake()
        self.wakes = Wakes(lost_claims=self.lost_claims)
        self._heartbeat = heartbeat(database.url, worker_id)
        self.claimer = Claimer(
            database,
            self._heartbeat,
            self,
            self.promoter,
            self.vitals,
            self.wakes,
            queues=["default"],
            modes=MODES,
            poll_seconds=0.05,
            crashes_max=3,
        )

    @property
    def worker_id(self) -> UUID | None:
        return self._heartbeat.pulse.worker_id

    @worker_id.setter
    def worker_id(self, worker_id: UUID | None) -> None:
        beat(self._heartbeat, worker_id)

    def ids(self) -> list[UUID]:
        return [job.id for job, _ in self.started]

    async def has_started(self, count: int) -> list[UUID]:
        async def enough() -> bool:
            return len(self.started) >= count

        await until(enough)
        assert len(self.started) == count
        return self.ids()

    async def more_rounds(self, count: int = 2) -> None:
        goal = self.vitals.rounds + count

        async def enough() -> bool:
            return self.vitals.rounds >= goal

        await until(enough)

    def free_slots(self) -> int:
        return self.slots

    def is_busy(self) -> bool:
        return bool(self.started)

    def has_suspect(self) -> bool:
        return any(job.suspect for job, _ in self.started)

    def start(self, job: Claimed, worker_id: UUID) -> None:
        self.started.append((job, worker_id))
        self.slots -= 1


@pytest.fixture
async def desk(database: Database, conn: Connection) -> AsyncGenerator[Desk]:
    desk = Desk(database, await register(conn))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.claimer.run)
        yield desk
        tasks.cancel_scope.cancel()


async def test_what_is_queued_is_started_under_the_workers_id(desk: Desk, conn: Connection) -> None:
    job_id = await add(conn)
    assert await desk.has_started(1) == [job_id]
    assert desk.started[0][1] == desk.worker_id
    assert (await row(conn, job_id))["worker_id"] == desk.worker_id


async def test_no_more_jobs_are_claimed_than_there_are_slots(desk: Desk, conn: Connection) -> None:
    jobs = [await add(conn) for _ in range(5)]
    assert sorted(await desk.has_started(3)) == sorted(jobs[:3])
    await desk.more_rounds()
    assert len(desk.started) == 3
    desk.slots = 1
    desk.wakes.work.set()
    assert await desk.has_started(4) == desk.ids()


async def test_without_an_id_nothing_is_claimed(desk: Desk, conn: Connection) -> None:
    worker_id, desk.worker_id = desk.worker_id, None
    await desk.more_rounds()
    job_id = await add(conn)
    await desk.more_rounds()
    assert desk.started == []
    desk.worker_id = worker_id
    assert await desk.has_started(1) == [job_id]


async def test_a_late_commit_behind_the_position_is_found(
    desk: Desk, database: Database, conn: Connection
) -> None:
    async with database.transaction() as open_enqueue:
        late = (await enqueue(open_enqueue, "answer")).job_id
        early = await add(conn)
        assert await desk.has_started(1) == [early]
    assert await desk.has_started(2) == [early, late]


async def test_lanes_that_were_put_off_are_handed_on(
    desk: Desk, database: Database, conn: Connection
) -> None:
    desk.slots = 0
    await desk.more_rounds()
    async with database.transaction() as one:
        first = (await enqueue(one, "answer", lane="a")).job_id
        second = await add(conn, lane="a")
    desk.slots = 3
    assert await desk.has_started(1) == [first]
    await desk.more_rounds()
    assert desk.promoter.lanes == ["a"]
    assert await state(conn, second) == ("waiting", "lane")


async def test_a_claim_that_is_answered_after_the_heartbeat_was_lost_starts_nothing(
    desk: Desk, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have taken this worker for dead meanwhile, and run the jobs."""
    worker_id = desk.worker_id

    async def lose_the_heartbeat() -> None:
        desk.worker_id = None

    job_id, claimed = await claim_late(desk, conn, monkeypatch, lose_the_heartbeat)

    async def given_back() -> bool:
        return bool(claimed) and await state(conn, job_id) == ("queued", None)

    await until(given_back)
    await desk.more_rounds()
    assert desk.started == []
    desk.worker_id = worker_id
    assert await desk.has_started(1) == [job_id]
    assert (await row(conn, job_id))["crashes"] == 0


async def test_a_late_claim_that_was_rescued_meanwhile_is_left_to_whoever_has_it(
    desk: Desk, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def be_rescued() -> None:
        desk.worker_id = None
        await execute(conn, "update jobsworth.workers set beaten_at = now() - interval '1 hour'")
        assert len(await rescue(conn)) == 1
        await take(conn, await register(conn))

    job_id, claimed = await claim_late(desk, conn, monkeypatch, be_rescued)

    async def came() -> bool:
        return bool(claimed)

    await until(came)
    await desk.more_rounds()
    assert (desk.started, await state(conn, job_id)) == ([], ("running", None))


async def test_a_claim_whose_answer_is_lost_is_told_and_the_claimer_goes_on(
    desk: Desk, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upkeep gives the jobs of that claim back; see its tests."""
    monkeypatch.setattr(claim, "ERROR_PAUSE_SECONDS", 0.01)

    async def lose_the_answer() -> None:
        raise Unavailable("the connection broke")

    first, claimed = await claim_late(desk, conn, monkeypatch, lose_the_answer)

    async def told() -> bool:
        return desk.lost_claims.times == 1

    await until(told)
    assert claimed == [first]
    second = await add(conn)
    assert await desk.has_started(1) == [second]
    assert await state(conn, first) == ("running", None)


async def claim_late(
    desk: Desk,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[], Awaitable[None]],
) -> tuple[UUID, list[UUID]]:
    """A new job, and the list of what the first claim takes: once it has taken the job, `meanwhile`
    happens before the answer comes.
    """
    worker_id, desk.worker_id = desk.worker_id, None
    await desk.more_rounds()
    really_claim, claimed = claiming.claim, list[UUID]()

    async def late(*args: Any, **options: Any) -> Claim:
        got = await really_claim(*args, **options)
        if got.jobs and not claimed:
            claimed.extend(job.id for job in got.jobs)
            await meanwhile()
        return got

    monkeypatch.setattr(claiming, "claim", late)
    job_id = await add(conn)
    desk.worker_id = worker_id
    return job_id, claimed


async def test_a_collision_in_a_lane_is_simply_tried_again(
    desk: Desk, database: Database, conn: Connection
) -> None:
    desk.slots = 0
    await desk.more_rounds()
    async with database.transaction() as one:
        await enqueue(one, "answer", lane="a")
        second = await add(conn, lane="a")
    free = await add(conn)
    async with database.connection() as rival:
        await rival.execute("begin")
        await execute(rival, RUN_BY_HAND, {"id": second})
        desk.slots = 3
        desk.wakes.work.set()

        async def blocked() -> bool:
            query = (
                "select count(*) from pg_stat_activity where datname = current_database() "
                "and cardinality(pg_blocking_pids(pid)) > 0"
            )
            return bool(await fetch_val(conn, query))

        await until(blocked)
        assert desk.started == []
        await rival.execute("commit")
    assert await desk.has_started(1) == [free]
    assert await states(conn, second) == [("running", None)]


async def test_a_worker_without_work_asks_for_notifications(desk: Desk, conn: Connection) -> None:
    idle = "select idle from jobsworth.workers"

    async def asked() -> bool:
        return bool(await fetch_val(conn, idle))

    await until(asked)
    assert desk.started == []


async def test_a_worker_whose_slots_stay_taken_asks_for_no_notifications(
    desk: Desk, conn: Connection
) -> None:
    async def asked() -> bool:
        return bool(await fetch_val(conn, "select idle from jobsworth.workers"))

    async def asked_no_more() -> bool:
        return not await asked()

    await until(asked)
    desk.slots = 0
    await until(asked_no_more)
    desk.slots = 1
    desk.wakes.work.set()
    await until(asked)


async def test_a_worker_that_was_declared_dead_starts_nothing(desk: Desk, conn: Connection) -> None:
    await desk.more_rounds()
    await execute(conn, "delete from jobsworth.workers")
    job_id = await add(conn)
    await desk.more_rounds(3)
    assert desk.started == []
    assert await state(conn, job_id) == ("queued", None)
    desk.worker_id = await register(conn)
    assert await desk.has_started(1) == [job_id]
