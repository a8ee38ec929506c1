"""Fair queues: each key has its share, whoever floods, claims, dies or comes late."""

from __future__ import annotations

import itertools
from typing import LiteralString
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.errors import InvalidInput
from db.limits import fairness, job_limits
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs, queues
from db.queue.enqueue import enqueue
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob
from tests.db.protocol import (
    CRASHES_MAX,
    add,
    breaches,
    cancel,
    claim,
    die,
    done,
    fair_claim,
    finish_all,
    lease_of,
    parked,
    register,
    released,
    rescue,
    settle,
    signal,
)

pytestmark = pytest.mark.both

FLOOD: LiteralString = """
insert into jobsworth.reactive_jobs (mode, fair_key, lane)
select 'answer', %(key)s::text,
  case when %(lanes)s::int > 0 then %(key)s::text || ' ' || n %% %(lanes)s::int end
from generate_series(1, %(most)s::int) n
"""
# As many jobs as a flood has, without the time that their triggers take.
BULK: LiteralString = """
insert into jobsworth.reactive_jobs (mode, fair_key)
select 'answer', %(key)s::text from generate_series(1, %(most)s::int) n
"""
STARTED: LiteralString = """
select fair_key, count(*) as jobs from jobsworth.reactive_jobs
where attempt > 0 group by fair_key
"""
KEYS: LiteralString = """
select fair_key, count(*) as rows from jobsworth.fair_keys
where ready or virtual_time is null group by fair_key
"""
KEY_OF: LiteralString = "select fair_key from jobsworth.reactive_jobs where id = %(id)s"


async def flood(conn: Connection, key: str, most: int, lanes: int = 0) -> None:
    await execute(conn, FLOOD, {"key": key, "most": most, "lanes": lanes})


async def started(conn: Connection) -> dict[str, int]:
    """How many jobs of each key were started."""
    return {row["fair_key"]: row["jobs"] for row in await fetch_all(conn, STARTED)}


@pytest.fixture
async def worker_id(conn: Connection) -> UUID:
    """A worker, and the queue that it serves is fair."""
    await fairness.set_fair(conn, "default")
    return await register(conn)


@pytest.mark.parametrize("lanes", [0, 1000])
async def test_one_job_behind_a_flood_of_another_key_starts_within_two_claims(
    conn: Connection, worker_id: UUID, lanes: int
) -> None:
    """Also if the owner of the other key spreads it over a thousand lanes."""
    if lanes:
        await flood(conn, "flood", 2 * lanes, lanes)
    else:
        await flood(conn, "flood", 1)
        async with conn.transaction():
            await execute(conn, "set local session_replication_role = replica")
            await execute(conn, BULK, {"key": "flood", "most": 100_000})
    assert len((await fair_claim(conn, worker_id, 10)).jobs) == 10
    job_id = await add(conn, fair_key="one")
    claims = [await fair_claim(conn, worker_id) for _ in range(2)]
    assert job_id in [job.id for got in claims for job in got.jobs]
    assert sum(len(got.jobs) for got in claims) == 2


@pytest.mark.parametrize("wanted", [1, 3, 50])
async def test_weights_are_shares(conn: Connection, worker_id: UUID, wanted: int) -> None:
    await flood(conn, "three", 400)
    await flood(conn, "one", 400)
    await fairness.set_weight(conn, "default", "three", 3)
    for _ in range(200 // wanted):
        await fair_claim(conn, worker_id, wanted)
    counts = await started(conn)
    assert counts["three"] == pytest.approx(3 * counts["one"], abs=4)


async def test_weights_act_when_jobs_start(conn: Connection, worker_id: UUID) -> None:
    await flood(conn, "a", 100)
    await flood(conn, "b", 100)
    await fair_claim(conn, worker_id, 20)
    assert await started(conn) == {"a": 10, "b": 10}
    await fairness.set_weight(conn, "default", "a", 9)
    await fair_claim(conn, worker_id, 20)
    assert await started(conn) == {"a": 28, "b": 12}


async def test_the_shares_of_eight_claimers_are_exact(
    database_url: str, conn: Connection, worker_id: UUID
) -> None:
    """They claim at the same time; those without the queue's lock leave what they took."""
    jobs_each, wanted = 600, 3
    await flood(conn, "three", jobs_each)
    await flood(conn, "one", jobs_each)
    await fairness.set_weight(conn, "default", "three", 3)
    left = jobs_each

    async def claimer(eight: Database) -> None:
        nonlocal left
        async with eight.connection() as own:
            mine = await register(own)
            while left > 0:
                got = await fair_claim(own, mine, wanted)
                left -= len(got.jobs)
                await finish_all(own, *(done(lease_of(job, mine)) for job in got.jobs))

    with anyio.fail_after(60):
        async with (
            Database(database_url, pool_min=8, pool_max=8) as eight,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(8):
                tasks.start_soon(claimer, eight)
    counts = await started(conn)
    assert sum(counts.values()) >= jobs_each
    share = counts["three"] / sum(counts.values())
    print(f"share {share:.4f} of {sum(counts.values())}")
    assert share == pytest.approx(0.75, rel=0.05)


async def test_a_claim_without_the_lock_of_its_queue_finds_work_and_pays_for_it(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    await flood(conn, "a", 20)
    await flood(conn, "b", 20)
    await fair_claim(conn, worker_id, 2)
    async with database.transaction() as open_claim:
        await fair_claim(open_claim, worker_id, 2)
        got = await fair_claim(conn, worker_id, 1)
        assert len(got.jobs) == 1
    first = await fetch_val(conn, KEY_OF, {"id": got.jobs[0].id})
    # One was started without the lock. The other key gets its turn for it.
    got = await fair_claim(conn, worker_id, 1)
    assert await fetch_val(conn, KEY_OF, {"id": got.jobs[0].id}) != first


async def test_a_key_that_comes_back_has_saved_nothing(conn: Connection, worker_id: UUID) -> None:
    await flood(conn, "busy", 200)
    await add(conn, fair_key="rare")
    await fair_claim(conn, worker_id, 100)
    await flood(conn, "rare", 100)
    await fair_claim(conn, worker_id, 20)
    counts = await started(conn)
    assert counts["rare"] <= 1 + 11


async def test_a_key_that_runs_out_at_once_does_not_begin_anew(
    conn: Connection, worker_id: UUID
) -> None:
    """Or a tenant would gain by keeping its backlog short."""
    await flood(conn, "steady", 100)
    for _ in range(10):
        await flood(conn, "sly", 5)
        await fair_claim(conn, worker_id, 5)
    counts = await started(conn)
    assert counts["sly"] <= 26


async def test_an_urgent_job_comes_first_whosever_it_is(conn: Connection, worker_id: UUID) -> None:
    await flood(conn, "a", 10)
    await fair_claim(conn, worker_id, 3)
    await add(conn, fair_key="b")
    urgent = await add(conn, fair_key="a", priority=1)
    got = await fair_claim(conn, worker_id, 2)
    assert urgent in [job.id for job in got.jobs]
    first = [await fetch_val(conn, KEY_OF, {"id": job.id}) for job in got.jobs]
    assert len(first) == 2


async def test_within_a_key_the_order_is_that_of_arrival(conn: Connection, worker_id: UUID) -> None:
    ids = [await add(conn, fair_key="a") for _ in range(4)]
    got = [job.id for _ in range(4) for job in (await fair_claim(conn, worker_id)).jobs]
    assert got == ids


async def test_two_concurrent_inserts_of_a_key_do_not_wait(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    await execute(conn, "set lock_timeout = '2s'")
    async with database.transaction() as open_insert:
        first = await add(open_insert, fair_key="new")
        second = await add(conn, fair_key="new")
        assert [job.id for job in (await fair_claim(conn, worker_id, 5)).jobs] == [second]
    await execute(conn, "reset lock_timeout")
    assert [job.id for job in (await fair_claim(conn, worker_id, 5)).jobs] == [first]


async def test_an_insert_that_relied_on_a_key_which_then_ran_out_is_found(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    """It is committed after the claim that took the key's last job."""
    await flood(conn, "a", 2)
    await fair_claim(conn, worker_id)
    async with database.transaction() as open_insert:
        late = await add(open_insert, fair_key="a")
        await fair_claim(conn, worker_id, 10)
        assert await started(conn) == {"a": 2}
    assert [job.id for job in (await fair_claim(conn, worker_id, 5)).jobs] == []
    assert [job.id for job in (await fair_claim(conn, worker_id, 5, rescan=True)).jobs] == [late]


async def test_a_claim_that_is_rolled_back_loses_no_key(
    database: Database, conn: Connection, worker_id: UUID
) -> None:
    """A server process that is killed between the steps leaves the same."""
    ids = {await add(conn, fair_key=key) for key in "abc"}

    async with database.connection() as other:
        await execute(other, "begin")
        assert len((await fair_claim(other, worker_id, 3)).jobs) == 3
        await execute(other, "rollback")
    assert {job.id for job in (await fair_claim(conn, worker_id, 3)).jobs} == ids


@pytest.mark.parametrize("by", ["retried", "released", "resumed", "rescued", "promoted", "moved"])
async def test_a_job_that_is_queued_again_is_found_by_its_key(
    conn: Connection, worker_id: UUID, by: str
) -> None:
    """By every way that leads back to the queue, after its key has run out."""
    lane = "l" if by == "promoted" else None
    job_id = await add(conn, fair_key="a", lane=lane)
    behind = await add(conn, fair_key="a", lane=lane) if by == "promoted" else None
    [job] = (await fair_claim(conn, worker_id, 5)).jobs
    lease = lease_of(job, worker_id)
    if by == "retried":
        await settle(conn, parked(lease, "timer", delay_seconds=3600))
        await execute(conn, "select jobsworth.retry(%(id)s)", {"id": job_id})
    elif by == "released":
        await settle(conn, released(lease))
    elif by == "resumed":
        await settle(conn, parked(lease, "signal", "go"))
        await signal(conn, job_id)
    elif by == "rescued":
        await die(conn, worker_id)
        assert len(await rescue(conn)) == 1
        worker_id = await register(conn)
    elif by == "promoted":
        await settle(conn, done(lease))
    else:
        await settle(conn, released(lease))
        await fair_claim(conn, worker_id, 0)
        await execute(conn, "update jobsworth.reactive_jobs set fair_key = 'b', priority = 2")
    got = await fair_claim(conn, worker_id, 5)
    assert [job.id for job in got.jobs] == [behind or job_id]
    assert await breaches(conn) == []


async def test_of_a_lane_only_its_head_is_claimed(conn: Connection, worker_id: UUID) -> None:
    """Two concurrent inserts into an idle lane both become queued; the claim sees to it."""
    ids = [await add(conn, fair_key="a") for _ in range(2)]
    await execute(
        conn,
        "update jobsworth.reactive_jobs set lane = 'l', lane_position = position",
    )
    got = await fair_claim(conn, worker_id, 5)
    assert [job.id for job in got.jobs] == ids[:1]
    assert got.deferred_lanes == ["l"]
    assert await fetch_val(conn, "select sum(virtual_time) from jobsworth.fair_keys") == 1


async def test_a_key_whose_jobs_this_worker_cannot_run_keeps_nobody_waiting(
    conn: Connection, worker_id: UUID
) -> None:
    for n in range(5):
        await add(conn, "plan", fair_key=f"other {n}")
    mine = await add(conn, "answer", fair_key="mine")
    got = await fair_claim(conn, worker_id, 1, modes=("answer",))
    assert [job.id for job in got.jobs] == [mine]
    assert len((await fair_claim(conn, worker_id, 9, modes=("plan",))).jobs) == 5


async def test_at_most_one_suspect_is_taken(conn: Connection, worker_id: UUID) -> None:
    for key in ("a", "a", "b"):
        await add(conn, fair_key=key)
    suspicion = "update jobsworth.reactive_jobs set crashes = %(most)s"
    await execute(conn, suspicion, {"most": CRASHES_MAX - 1})
    assert (await fair_claim(conn, worker_id, 9, suspect_wanted=False)).jobs == []
    taken = [len((await fair_claim(conn, worker_id, 9, rescan=True)).jobs) for _ in range(4)]
    assert taken == [1, 1, 1, 0]


async def test_a_claim_ends_at_some_megabytes_and_leaves_the_rest(
    conn: Connection, worker_id: UUID
) -> None:
    # Their size on disk is what counts.
    await execute(
        conn, "alter table jobsworth.reactive_jobs alter column payload set storage external"
    )
    for n in range(9):
        await enqueue(conn, "answer", {"x": "y" * 700_000}, fair_key=f"k{n % 2}")
    sizes = [len((await fair_claim(conn, worker_id, 9)).jobs) for _ in range(3)]
    assert sum(sizes) == 9
    assert 6 <= sizes[0] < 9


async def test_a_paused_queue_and_a_plain_one_are_left_alone(
    conn: Connection, worker_id: UUID
) -> None:
    await add(conn, fair_key="a")
    await queues.pause(conn, "default")
    assert (await fair_claim(conn, worker_id)).jobs == []
    await queues.resume(conn, "default")
    assert (await claim(conn, worker_id)).jobs == [], "the plain claim passes fair queues over"
    await fairness.set_fair(conn, "default", fair=False)
    assert (await fair_claim(conn, worker_id)).jobs == []
    assert len((await claim(conn, worker_id)).jobs) == 1


async def test_the_key_is_by_default_that_of_the_team(conn: Connection, worker_id: UUID) -> None:
    team = uuid4()
    by_team = await add(conn, team_id=team)
    await enqueue_many(conn, [NewJob("answer"), NewJob("answer", fair_key="own", team_id=team)])
    rows = await fetch_all(conn, "select fair_key from jobsworth.reactive_jobs order by position")
    assert [row["fair_key"] for row in rows] == [str(team), "none", "own"]
    assert (await jobs.get_by_id(conn, by_team)).id == by_team
    assert len((await fair_claim(conn, worker_id, 9)).jobs) == 3


async def test_other_queues_have_no_keys(conn: Connection) -> None:
    await fairness.set_fair(conn, "fair")
    await add(conn, team_id=uuid4())
    assert await fetch_val(conn, "select count(fair_key) from jobsworth.reactive_jobs") == 0
    assert await fetch_val(conn, "select count(*) from jobsworth.fair_keys") == 0


async def test_a_backlog_from_before_is_given_its_keys_slice_by_slice(conn: Connection) -> None:
    for n in range(25):
        await add(conn, team_id=UUID(int=n % 3 + 1))
    worker_id = await register(conn)
    await fairness.set_fair(conn, "default")
    keyed: list[int] = []
    after: int | None = 0
    while after is not None:
        some, after = await fairness.key_jobs(conn, "default", after, 10)
        keyed.append(some)
    assert keyed == [10, 10, 5]
    assert len((await fair_claim(conn, worker_id, 12)).jobs) == 12
    assert await started(conn) == {str(UUID(int=n)): 4 for n in (1, 2, 3)}


async def test_keys_that_claims_do_not_know_are_announced(
    conn: Connection, worker_id: UUID
) -> None:
    for n in range(7):
        await add(conn, fair_key=f"k{n}", priority=2 + n % 2)
    await execute(conn, "truncate jobsworth.fair_keys")
    assert (await fair_claim(conn, worker_id, 9)).jobs == []
    after: tuple[int, str] | None = (0, "")
    looks = 0
    while after is not None:
        after = await fairness.announce_keys(conn, "default", after, 3)
        looks += 1
    assert looks == 3
    assert len((await fair_claim(conn, worker_id, 9)).jobs) == 7


async def test_keys_without_jobs_are_forgotten(conn: Connection, worker_id: UUID) -> None:
    for n in range(20):
        await add(conn, fair_key=f"k{n}")
    await add(conn, fair_key="last")
    await fair_claim(conn, worker_id, 20)
    await execute(conn, "update jobsworth.fair_keys set since = now() - interval '1 minute'")
    await flood(conn, "last", 30)
    await fair_claim(conn, worker_id, 3, rescan=True)
    await fair_claim(conn, worker_id, 3, rescan=True)
    assert await fetch_val(conn, "select count(*) from jobsworth.fair_keys") <= 2


async def test_keys_whose_jobs_were_canceled_hold_no_claim_up(
    conn: Connection, worker_id: UUID
) -> None:
    for n in range(50):
        await cancel(conn, await add(conn, fair_key=f"k{n}"))
    left = await add(conn, fair_key="left")
    assert [job.id for job in (await fair_claim(conn, worker_id, 1)).jobs] == [left]


@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 7.0]), min_size=1, max_size=5),
    claims=st.lists(st.integers(1, 12), min_size=5, max_size=12),
)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_no_key_is_ever_ahead_of_another_by_more_than_a_job(
    conn: Connection, weights: list[float], claims: list[int]
) -> None:
    """By virtual time, which is the number of started jobs divided by the weight."""
    await execute(conn, "truncate jobsworth.reactive_jobs, jobsworth.fair_keys cascade")
    await execute(conn, "truncate jobsworth.fair_weights")
    await fairness.set_fair(conn, "default")
    worker_id = await register(conn)
    for n, weight in enumerate(weights):
        await flood(conn, f"k{n}", sum(claims))
        await fairness.set_weight(conn, "default", f"k{n}", weight)
    for wanted in claims:
        assert len((await fair_claim(conn, worker_id, wanted)).jobs) == wanted
        counts = await started(conn)
        times = [counts.get(f"k{n}", 0) / weight for n, weight in enumerate(weights)]
        for (one, weight), (other, _) in itertools.permutations(
            zip(times, weights, strict=True), 2
        ):
            assert one - other <= 1 / weight + 1e-6


@pytest.mark.parametrize(
    ("key", "weight", "message"),
    [
        ("", 1.5, "fair_key must have 1 to 1000 bytes"),
        ("x" * 1001, 1.5, "fair_key must have 1 to 1000 bytes"),
        ("a", 0.0, "weight 0 is not between"),
        ("a", -1.0, "weight -1 is not between"),
        ("a", float("nan"), "weight NaN is not between"),
        ("a", float("inf"), "weight Infinity is not between"),
        ("a", 1001.0, "weight 1001 is not between"),
    ],
)
async def test_a_wrong_weight_or_key_is_refused(
    conn: Connection, key: str, weight: float, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        await fairness.set_weight(conn, "default", key, weight)
    assert refused.value.remedy


async def test_a_wrong_key_or_queue_is_refused(conn: Connection) -> None:
    for key in ("", " ", "x" * 1001, "a\0b"):
        with pytest.raises(InvalidInput, match="fair_key"):
            await enqueue(conn, "answer", fair_key=key)
    for key in ("''", "repeat('x', 1001)"):
        with pytest.raises(InvalidInput, match="fair_key must have 1 to 1000 bytes"):
            await fetch_val(conn, f"select jobsworth.enqueue('m', fair_key => {key})")
    with pytest.raises(InvalidInput, match="a queue has a name"):
        await fairness.set_fair(conn, "")
    with pytest.raises(psycopg.errors.CheckViolation, match="fair_key_has_1_to_1000_bytes"):
        await conn.execute("insert into jobsworth.reactive_jobs (mode, fair_key) values ('m', '')")
    longest = await add(conn, fair_key="x" * 1000, queue="q" * 1000)
    assert longest


async def test_jobs_that_a_limit_holds_up_hide_no_job_of_another_key(
    conn: Connection, worker_id: UUID
) -> None:
    """They wait at the limit, and do not count as started."""
    await job_limits.set_limit(conn, "plans", mode="plan", slots=1)
    for _ in range(30):
        await add(conn, "plan", fair_key="a")
    await add(conn, "answer", fair_key="b")
    claims = [await fair_claim(conn, worker_id) for _ in range(3)]
    assert [len(got.jobs) for got in claims].count(1) >= 2
    assert await started(conn) == {"a": 1, "b": 1}
    assert await breaches(conn) == []
    assert (await claim(conn, worker_id)).jobs == [], (
        "nor does the plain claim with limits take any"
    )
    [lease] = [lease_of(job, worker_id) for got in claims for job in got.jobs if job.mode == "plan"]
    await settle(conn, done(lease))
    assert [job.mode for job in (await fair_claim(conn, worker_id, 5)).jobs] == ["plan"]
