"""Each broken invariant is listed once; a fresh database has none."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID, uuid4

import pytest

from db.deployments import deployments
from db.deployments.deployments import DeploymentStatus
from db.diagnosis import violations
from db.fence import Lease
from db.money.calls import CallStatus, Usage
from db.pool import Connection, execute, fetch_val
from tests.db import rows
from tests.db.money import entries

pytestmark = pytest.mark.both


async def listed(conn: Connection) -> list[tuple[str, UUID | None]]:
    found = await violations.list_violations(conn)
    assert all(violation.detail for violation in found)
    return [(violation.invariant, violation.subject_id) for violation in found]


async def change(conn: Connection, statement: LiteralString, subject_id: UUID) -> None:
    """As a superuser past triggers: what no program of ours can do."""
    await execute(conn, "set session_replication_role = replica")
    assert await execute(conn, statement, [subject_id]) == 1
    await execute(conn, "reset session_replication_role")


async def call(conn: Connection, lease: Lease, *, settled: bool) -> UUID:
    call_id = await entries.start(
        conn, lease, provider="acme", model="m", request_id=str(uuid4()), estimate=Usage(9, 9)
    )
    if settled:
        await entries.settle(conn, call_id, status=CallStatus.OK, usage=Usage(5, 5))
    return call_id


async def test_a_fresh_database_has_none(conn: Connection) -> None:
    assert await listed(conn) == []
    assert await violations.count(conn, 10) == 0


async def test_ordinary_work_is_none(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    await call(conn, lease, settled=True)
    await call(conn, lease, settled=False)
    await rows.new_job(conn, lane="l")
    await rows.new_job(conn, lane="l")
    await deployments.create(conn, environment="live", sha="a1", lease=lease, step_name="ship")
    assert await listed(conn) == []


async def test_two_jobs_that_run_in_one_lane(conn: Connection) -> None:
    first = await rows.take(conn, await rows.new_job(conn, lane="l"))
    second = await rows.new_job(conn, lane="l")
    await execute(conn, "drop index jobsworth.jobs_one_running_in_lane")
    await rows.take(conn, second)
    pair = sorted([first.job_id, second])
    assert await listed(conn) == [("two running in a lane", job_id) for job_id in pair]


async def test_a_job_that_runs_without_a_living_worker(conn: Connection) -> None:
    lost, stale = await rows.running_job(conn), await rows.running_job(conn)
    await change(conn, "delete from jobsworth.workers where id = %s", lost.worker_id)
    await change(
        conn,
        "update jobsworth.workers set beaten_at = now() - interval '31 seconds' where id = %s",
        stale.worker_id,
    )
    assert await listed(conn) == []  # they started just now, and have yet to be rescued
    for lease in (lost, stale):
        await change(
            conn,
            "update jobsworth.reactive_jobs set started_at = now() - interval '31 seconds'"
            " where id = %s",
            lease.job_id,
        )
    pair = sorted([lost.job_id, stale.job_id])
    assert await listed(conn) == [("running without a living worker", job_id) for job_id in pair]


async def test_a_job_that_waits_though_its_reason_is_gone(conn: Connection) -> None:
    job_id = await fetch_val(conn, "select jobsworth.enqueue('answer', delay => interval '1 hour')")
    assert await listed(conn) == []
    await change(
        conn,
        "update jobsworth.reactive_jobs set run_at = now() - interval '31 seconds' where id = %s",
        job_id,
    )
    assert await listed(conn) == [("waiting though its reason is gone", job_id)]


async def test_a_parked_job_whose_approval_is_decided(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    assert await listed(conn) == []
    await change(
        conn,
        "update jobsworth.reactive_jobs set created_at = now() - interval '31 seconds'"
        " where id = %s",
        job_id,
    )
    assert await listed(conn) == [("waiting though its reason is gone", job_id)]


async def test_a_lane_that_is_about_to_move_on_is_none(conn: Connection) -> None:
    """In a deep lane of a healthy worker there is always one that was freed just now."""
    running = await rows.take(conn, await rows.new_job(conn, lane="l"))
    behind = await rows.new_job(conn, lane="l")
    await rows.end(conn, running.job_id)
    await change(
        conn,
        "update jobsworth.reactive_jobs set created_at = now() - interval '1 hour' where id = %s",
        behind,
    )
    assert await listed(conn) == []
    await change(
        conn,
        "update jobsworth.reactive_jobs set finished_at = now() - interval '31 seconds'"
        " where id = %s",
        running.job_id,
    )
    assert await listed(conn) == [("waiting though its reason is gone", behind)]


async def test_an_open_approval_of_an_ended_job(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    await execute(
        conn,
        "insert into jobsworth.approvals (job_id, proposal_text, shown_hash)"
        " values (%s, 'Ship it?', '')",
        [lease.job_id],
    )
    await rows.end(conn, lease.job_id)
    assert await listed(conn) == []
    await _ended_long_ago(conn, lease.job_id)
    assert await listed(conn) == [("ended with an open approval", lease.job_id)]


@pytest.mark.usefixtures("unguarded")
async def test_an_open_child_of_an_ended_job(conn: Connection) -> None:
    parent = await fetch_val(conn, "select jobsworth.enqueue('answer')")
    await execute(
        conn,
        "update jobsworth.reactive_jobs set status = 'done',"
        " finished_at = now() - interval '1 minute'",
    )
    child = await fetch_val(
        conn,
        "insert into jobsworth.reactive_jobs (mode, parent_id, effect_key, is_child)"
        " values ('answer', %(parent)s, 'child', true) returning id",
        {"parent": parent},
    )
    assert await listed(conn) == [("ended with an open child", child)]


async def test_a_settled_call_without_its_ledger_entry(conn: Connection) -> None:
    call_id = await call(conn, await rows.running_job(conn), settled=True)
    await change(
        conn,
        "delete from jobsworth.token_ledger where call_id = %s and entry = 'settle'",
        call_id,
    )
    assert await listed(conn) == [("settled call without its ledger entry", call_id)]


async def test_an_open_call_without_its_attempt(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    call_id = await call(conn, lease, settled=False)
    age: LiteralString = (
        "update jobsworth.llm_calls set started_at = now() - interval '61 seconds' where id = %s"
    )
    await rows.take(conn, lease.job_id)
    assert await listed(conn) == []
    await change(conn, age, call_id)
    assert await listed(conn) == [("open call without its attempt", call_id)]


@pytest.mark.parametrize(
    "contradiction",
    [
        "input_tokens = 6",
        "output_tokens = 6",
        "cache_read_tokens = 6",
        "cache_write_tokens = 6",
        "cost = 1",
    ],
)
async def test_a_ledger_entry_that_contradicts_its_call(
    conn: Connection, contradiction: LiteralString
) -> None:
    call_id = await call(conn, await rows.running_job(conn), settled=True)
    await change(
        conn,
        "update jobsworth.token_ledger set "
        + contradiction
        + " where call_id = %s and entry = 'settle'",
        call_id,
    )
    assert await listed(conn) == [("ledger entry that contradicts its call", call_id)]


async def test_a_healthy_deployment_without_a_passing_probe(conn: Connection) -> None:
    deployment = await deployments.create(conn, environment="live", sha="a1")
    for status in (DeploymentStatus.DEPLOYING, DeploymentStatus.HEALTHY):
        await deployments.update_status(conn, deployment.id, status, probe={"passed": True})
    assert await listed(conn) == []
    await execute(
        conn, "alter table jobsworth.deployments drop constraint healthy_has_a_passing_probe"
    )
    await change(
        conn,
        """update jobsworth.deployments set probe = '{"passed": false}' where id = %s""",
        deployment.id,
    )
    assert await listed(conn) == [("healthy without a passing probe", deployment.id)]


async def test_an_unfinished_deployment_of_a_finished_job(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    deployment = await deployments.create(
        conn, environment="live", sha="a1", lease=lease, step_name="ship"
    )
    await rows.end(conn, lease.job_id)
    assert await listed(conn) == []
    await _ended_long_ago(conn, lease.job_id)
    assert await listed(conn) == [("unfinished deployment of a finished job", deployment.id)]


async def test_two_deployments_at_once_in_an_environment(conn: Connection) -> None:
    first = await deployments.create(conn, environment="live", sha="a1")
    assert await listed(conn) == []
    await execute(conn, "drop index jobsworth.deployments_one_at_a_time")
    second = await deployments.create(conn, environment="live", sha="b2")
    both = {("two deployments at once in an environment", one.id) for one in (first, second)}
    assert set(await listed(conn)) == both


async def test_an_environment_that_is_held_by_nobody(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    deployment = await deployments.create(
        conn, environment="live", sha="a1", lease=lease, step_name="ship"
    )
    await change(
        conn,
        "update jobsworth.deployments d set idle_since = now() - interval '31 minutes',"
        " idle_lease_no = (select j.lease_no from jobsworth.reactive_jobs j where j.id = d.job_id)"
        " where d.id = %s",
        deployment.id,
    )
    assert await listed(conn) == [], "its job runs"
    await rows.park(conn, lease.job_id)
    assert await listed(conn) == [("environment held by nobody", deployment.id)]
    await rows.park(conn, (await rows.take(conn, lease.job_id)).job_id)
    assert await listed(conn) == [], "it ran since, the mark is worthless"
    await change(conn, "delete from jobsworth.reactive_jobs where id = %s", lease.job_id)
    await change(
        conn,
        "update jobsworth.deployments set updated_at = now() - interval '31 minutes' where id = %s",
        deployment.id,
    )
    assert await listed(conn) == [("environment held by nobody", deployment.id)]


async def test_a_roll_back_to_what_was_never_healthy_there(conn: Connection) -> None:
    never = await deployments.create(conn, environment="live", sha="a1")
    await deployments.update_status(conn, never.id, DeploymentStatus.FAILED)
    back = await deployments.create(
        conn, environment="live", sha="a1", rollback_of=uuid4(), rollback_to=never.id
    )
    assert await listed(conn) == [("rolled back to what was never healthy there", back.id)]


async def test_the_list_is_bounded_and_the_count_is_not(conn: Connection) -> None:
    for _ in range(3):
        lease = await rows.running_job(conn)
        await change(
            conn,
            "update jobsworth.reactive_jobs set worker_id = gen_random_uuid(),"
            " started_at = now() - interval '31 seconds' where id = %s",
            lease.job_id,
        )
    assert len(await violations.list_violations(conn, 2)) == 2
    assert await violations.count(conn, 10) == 3


async def test_a_count_that_takes_too_long_is_given_up(conn: Connection) -> None:
    """The connection is good for more afterwards."""
    await execute(
        conn,
        "create or replace view jobsworth.violations as"
        " select s.invariant, s.subject_id, s.detail, now() as at from ("
        " select 'slow'::text as invariant, jobsworth.uuidv7() as subject_id,"
        " pg_sleep(60)::text as detail offset 0) s where s.detail is not null",
    )
    assert await violations.count(conn, 0.05) is None
    assert await fetch_val(conn, "show statement_timeout") == "0"


async def _ended_long_ago(conn: Connection, job_id: UUID) -> None:
    await change(
        conn,
        "update jobsworth.reactive_jobs set finished_at = now() - interval '31 seconds'"
        " where id = %s",
        job_id,
    )
