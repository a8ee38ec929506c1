"""Schedules that fire: once each, whoever comes first, under each policy, on real PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import anyio
import pytest

from db.pool import Connection, Database, execute, fetch_all, fetch_one, fetch_val
from db.queue import jobs
from db.runs.runs import Node
from db.schedules import firing, schedules
from db.schedules.schedules import Firing, NewSchedule, Schedule
from tests.support import connect, until
from worker.queue.wake import Wakes
from worker.schedules.fire import Schedules

pytestmark = pytest.mark.both

AGO: LiteralString = """
update jobsworth.schedules s
set created_at = clock_timestamp() - %(ago)s::interval,
  handled_to = clock_timestamp() - %(ago)s::interval,
  next_at = clock_timestamp() - %(ago)s::interval + interval '1 second'
where s.name = %(name)s
"""
JOBS: LiteralString = """
select j.id, j.mode, j.payload, j.status::text, j.lane, j.queue, j.run_at, j.cancel_requested
from jobsworth.reactive_jobs j order by j.id
"""
END: LiteralString = """
select jobsworth.cancel(%(id)s, 'ended by the test')
"""
CRON: LiteralString = "update jobsworth.schedules set cron = %(cron)s, every_seconds = null"


async def add(conn: Connection, name: str = "report", **options: Any) -> Schedule:
    """A schedule that a daemon has planned."""
    options = {"mode": "report", "every": timedelta(minutes=10), **options}
    await schedules.add(conn, NewSchedule(name, **options))
    return await schedules.get(conn, name)


async def unseen(conn: Connection, ago: timedelta, name: str = "report") -> None:
    """As if no daemon had looked at the schedule for so long."""
    await execute(conn, AGO, {"name": name, "ago": ago})


async def fire(database: Database) -> list[bool]:
    """What a daemon does that finds something due: whether each one enqueued something."""
    daemon, fired = Schedules(database, Wakes()), list[bool]()
    while (one := await daemon.fire_one()) is not None:
        fired.append(one)
    return fired


async def made(conn: Connection) -> list[dict[str, Any]]:
    return await fetch_all(conn, JOBS)


async def history(conn: Connection, name: str = "report") -> Sequence[Firing]:
    found = await schedules.get(conn, name)
    return await schedules.firings(conn, found.id)


async def test_a_new_schedule_is_planned_and_fires_nothing(
    conn: Connection, database: Database
) -> None:
    before = await add(conn)
    assert before.next_at is None
    assert await fire(database) == [False]
    planned = await schedules.get(conn, "report")
    assert planned.next_at == before.created_at + timedelta(minutes=10)
    assert await made(conn) == []
    assert await fire(database) == []
    assert 590 < (await firing.next_in_seconds(conn) or 0) <= 600


async def test_a_time_fires_once_with_what_the_schedule_says(
    conn: Connection, database: Database
) -> None:
    await add(conn, payload={"page": 1}, time_key="day", queue="slow", priority=2, failures_max=7)
    await unseen(conn, timedelta(minutes=10, seconds=1))
    assert await fire(database) == [True]
    [job] = await made(conn)
    [fired] = await history(conn)
    assert (job["mode"], job["queue"], job["status"]) == ("report", "slow", "queued")
    assert job["payload"] == {"page": 1, "day": fired.at.isoformat()}
    assert (fired.outcome, fired.job_id, fired.missed) == ("fired", job["id"], 0)
    assert await fire(database) == []


async def test_many_daemons_at_once_fire_each_time_once(
    conn: Connection, database: Database
) -> None:
    names = [f"s{n}" for n in range(20)]
    for name in names:
        await add(conn, name)
        await unseen(conn, timedelta(minutes=10, seconds=1), name)
    found = list[bool]()

    async def daemon() -> None:
        found.extend(await fire(database))

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(daemon)
    assert found.count(True) == 20
    assert len(await made(conn)) == 20


async def test_a_daemon_that_dies_before_its_commit_has_fired_nothing(
    conn: Connection, database: Database
) -> None:
    await add(conn)
    await unseen(conn, timedelta(minutes=10, seconds=1))
    async with database.connection() as dying:
        await execute(dying, "begin")
        due = await firing.take(dying, [])
        assert due is not None
        await firing.record(dying, due.id, due.now, "fired")
        await firing.handle(dying, due.id, due.now, due.now + timedelta(days=1))
        # While it lives nobody else fires it.
        assert await fire(database) == []
        await dying.close()
    fired = list[bool]()

    async def again() -> bool:
        # The server takes back what it did a moment after the connection is gone.
        fired.extend(await fire(database))
        return bool(fired)

    await until(again)
    assert fired == [True]
    assert [one.outcome for one in await history(conn)] == ["fired"]


@pytest.mark.parametrize(
    ("policy", "fired", "outcomes", "missed"),
    [
        ({"missed": "once"}, 1, ["fired"], 11),
        ({"missed": "skip"}, 0, ["missed"], 11),
        ({"missed": "all", "overlap": "queue"}, 12, ["fired"] * 12, 0),
        ({"missed": "all", "overlap": "queue", "missed_max": 5}, 5, ["fired"] * 5, 7),
    ],
)
async def test_after_an_outage_of_two_hours(
    conn: Connection,
    database: Database,
    policy: dict[str, Any],
    fired: int,
    outcomes: list[str],
    missed: int,
) -> None:
    await add(conn, **policy)
    await unseen(conn, timedelta(minutes=122))
    await fire(database)
    found = await made(conn)
    assert len(found) == fired
    rows = await history(conn)
    assert [row.outcome for row in rows] == outcomes
    assert sum(row.missed for row in rows) == missed
    # What is made up for starts within a minute, by chance.
    now = datetime.now(UTC)
    assert all(job["run_at"] is None or job["run_at"] < now + timedelta(minutes=1) for job in found)
    assert await fire(database) == []


async def test_while_a_job_has_not_ended_the_next_time_is_skipped(
    conn: Connection, database: Database
) -> None:
    await add(conn)
    await unseen(conn, timedelta(minutes=10, seconds=1))
    await fire(database)
    await unseen(conn, timedelta(minutes=10, seconds=1))
    assert await fire(database) == [False]
    [job] = await made(conn)
    skipped, _ = await history(conn)
    assert (skipped.outcome, skipped.reason) == ("skipped", f"job {job['id']} has not ended")
    await execute(conn, END, {"id": job["id"]})
    await unseen(conn, timedelta(minutes=10, seconds=1))
    assert await fire(database) == [True]


async def test_the_next_job_queues_behind_the_one_that_has_not_ended(
    conn: Connection, database: Database
) -> None:
    await add(conn, overlap="queue")
    for _ in range(3):
        await unseen(conn, timedelta(minutes=10, seconds=1))
        assert await fire(database) == [True]
    assert {job["lane"] for job in await made(conn)} == {
        f"schedule:{(await schedules.get(conn, 'report')).id}"
    }
    claimed = await fetch_val(conn, RUNNABLE)
    assert claimed == 1


RUNNABLE: LiteralString = """
select count(*) from jobsworth.reactive_jobs j
where not jobsworth.lane_blocked(j.lane, j.lane_position, j.id)
"""


async def test_the_next_job_replaces_the_one_that_has_not_ended(
    conn: Connection, database: Database
) -> None:
    await add(conn, overlap="replace")
    for _ in range(3):
        await unseen(conn, timedelta(minutes=10, seconds=1))
        assert await fire(database) == [True]
    assert [job["status"] for job in await made(conn)] == ["canceled", "canceled", "queued"]


async def test_a_job_that_somebody_holds_delays_its_replacement_and_no_other_schedule(
    conn: Connection, database: Database, database_url: str
) -> None:
    await add(conn, overlap="replace")
    await unseen(conn, timedelta(minutes=10, seconds=1))
    await fire(database)
    [job] = await made(conn)
    await add(conn, "other", mode="other")
    for name in ("report", "other"):
        await unseen(conn, timedelta(minutes=10, seconds=1), name)
    with connect(database_url) as holder:
        holder.execute("begin")
        holder.execute("select from jobsworth.reactive_jobs where id = %s for update", [job["id"]])
        assert sorted(await fire(database)) == [False, True]
    assert [one["mode"] for one in await made(conn)] == ["report", "other"]
    assert await fire(database) == [True]
    assert [one["status"] for one in await made(conn)] == ["canceled", "queued", "queued"]


async def test_a_run_starts_at_each_time_and_is_replaced_as_a_whole(
    conn: Connection, database: Database
) -> None:
    nodes = [Node("a", "fetch"), Node("b", "send", after=["a"])]
    await add(conn, mode=None, nodes=nodes, payload={"ask": "news"}, overlap="replace")
    for _ in range(2):
        await unseen(conn, timedelta(minutes=10, seconds=1))
        assert await fire(database) == [True]
    runs = await fetch_all(conn, RUNS)
    assert [(run["status"], run["request"]) for run in runs] == [
        ("canceled", {"ask": "news"}),
        ("executing", {"ask": "news"}),
    ]
    assert {row.run_id for row in await history(conn)} == {run["id"] for run in runs}


RUNS: LiteralString = "select r.id, r.status::text, r.request from jobsworth.runs r order by r.id"


async def test_one_instant_fires_once_and_ends(conn: Connection, database: Database) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    await add(conn, every=None, at=soon)
    await fire(database)
    assert (await schedules.get(conn, "report")).next_at == soon
    await execute(conn, EARLIER)
    assert await fire(database) == [True]
    assert (await schedules.get(conn, "report")).ended_at is not None
    assert await firing.next_in_seconds(conn) is None


EARLIER: LiteralString = """
update jobsworth.schedules s
set at = clock_timestamp() + interval '50 milliseconds';
select pg_sleep(0.1)
"""


async def test_a_paused_schedule_fires_nothing_and_makes_up_for_nothing(
    conn: Connection, database: Database
) -> None:
    await add(conn)
    await schedules.pause(conn, "report")
    await unseen(conn, timedelta(hours=3))
    assert await fire(database) == []
    await schedules.resume(conn, "report")
    assert await fire(database) == [False]
    assert await made(conn) == []
    resumed = await schedules.get(conn, "report")
    assert resumed.next_at is not None
    assert resumed.next_at > datetime.now(UTC)


async def test_a_job_that_is_refused_costs_that_time_alone(
    conn: Connection, database: Database
) -> None:
    await add(conn)
    await add(conn, "other", mode="other")
    await execute(conn, REFUSE)
    for name in ("report", "other"):
        await unseen(conn, timedelta(minutes=10, seconds=1), name)
    assert sorted(await fire(database)) == [False, True]
    [refused] = await history(conn)
    assert refused.outcome == "refused"
    assert "no reports on Sundays" in (refused.reason or "")
    later = await schedules.get(conn, "report")
    assert later.problem is None
    assert later.next_at is not None
    assert later.next_at > datetime.now(UTC)


REFUSE: LiteralString = """
create function refuse() returns trigger language plpgsql as $$
begin raise exception 'no reports on Sundays'; end $$;
create trigger refuse before insert on jobsworth.reactive_jobs
for each row when (new.mode = 'report') execute function refuse()
"""


async def test_a_payload_that_python_cannot_read_goes_on_as_it_is(
    conn: Connection, database: Database
) -> None:
    """It is the job's trouble, which fails with the field and the reason."""
    await add(conn, time_key="day")
    await execute(conn, UNREADABLE)
    await unseen(conn, timedelta(minutes=10, seconds=1))
    assert await fire(database) == [True]
    [fired] = await history(conn)
    sent = await fetch_val(conn, "select j.payload::text from jobsworth.reactive_jobs j")
    assert f'"day": "{fired.at.isoformat()}"' in sent
    assert len(sent) > 5000


UNREADABLE: LiteralString = """
update jobsworth.schedules s set payload = '{"n": 1e5000}'
"""


async def test_what_can_never_fire_says_so_and_a_change_mends_it(
    conn: Connection, database: Database
) -> None:
    await add(conn)
    await execute(conn, CRON, {"cron": "0 0 30 2 *"})  # by plain SQL, which does not read cron
    assert await fire(database) == [False]
    found = await schedules.get(conn, "report")
    assert "0 0 30 2 *" in (found.problem or "")
    assert await fire(database) == []
    await execute(conn, CRON, {"cron": "0 0 1 * *"})
    assert await fire(database) == [False]
    mended = await schedules.get(conn, "report")
    assert mended.problem is None
    assert mended.next_at is not None


async def test_a_server_clock_that_goes_back_fires_no_time_again(
    conn: Connection, database: Database
) -> None:
    await add(conn, overlap="queue")
    await unseen(conn, timedelta(minutes=10, seconds=1))
    await fire(database)
    # A change of a clock back by ten minutes and a resume: the same time comes again.
    await execute(conn, AGO, {"name": "report", "ago": timedelta(minutes=10, seconds=1)})
    [fired] = await history(conn)
    await execute(conn, CREATED_AT, {"at": fired.at - timedelta(minutes=10)})
    assert await fire(database) == [False]
    assert len(await made(conn)) == 1


CREATED_AT: LiteralString = "update jobsworth.schedules s set created_at = %(at)s"


async def test_the_history_keeps_the_last_thousand_times(
    conn: Connection, database: Database
) -> None:
    found = await add(conn)
    await execute(conn, OLD, {"id": found.id})
    await unseen(conn, timedelta(minutes=10, seconds=1))
    await fire(database)
    kept = await fetch_one(conn, KEPT, {"id": found.id})
    assert kept == {"kept": firing.KEPT}


OLD: LiteralString = """
insert into jobsworth.schedule_firings (schedule_id, at, outcome)
select %(id)s, timestamptz '2020-01-01 00:00Z' + n * interval '1 hour', 'skipped'
from generate_series(1, 1500) n
"""
KEPT: LiteralString = """
select count(*) as kept from jobsworth.schedule_firings f where f.schedule_id = %(id)s
"""


async def test_what_is_due_is_found_by_an_index_however_many_are_not(
    conn: Connection, database: Database
) -> None:
    await execute(conn, MANY)
    await execute(conn, "analyze jobsworth.schedules")
    plan = "\n".join(
        row["QUERY PLAN"]
        for row in await fetch_all(
            conn, "explain (costs off) " + firing.TAKE, {"without": list[UUID]()}
        )
    )
    assert "schedules_due" in plan
    assert "Seq Scan" not in plan
    assert await fire(database) == []


MANY: LiteralString = """
insert into jobsworth.schedules (name, mode, every_seconds, next_at)
select 's' || n, 'report', 60, now() + interval '1 day' from generate_series(1, 20000) n
"""


async def test_its_jobs_go_on_when_a_schedule_is_removed(
    conn: Connection, database: Database
) -> None:
    await add(conn)
    await unseen(conn, timedelta(minutes=10, seconds=1))
    await fire(database)
    await schedules.remove(conn, "report")
    [job] = await made(conn)
    assert (await jobs.get_by_id(conn, job["id"])).status == "queued"
    assert await schedules.list_all(conn) == []
