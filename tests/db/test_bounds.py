"""Every number, time and name that a client can write is refused by name, or can be read back."""

from __future__ import annotations

from typing import Any, LiteralString, cast

import psycopg
import pytest
from psycopg.types.json import Jsonb

from db.diagnosis import violations
from db.errors import Conflict, InvalidInput
from db.fence import Lease
from db.money import limits
from db.money.calls import Usage
from db.pool import Connection, execute, fetch_all, fetch_val
from db.queue import finish, jobs
from db.queue.enqueue_many import enqueue_many
from db.queue.finish import Finish
from db.queue.new_job import NewJob
from tests.db import rows
from tests.db.money import budgeting

pytestmark = pytest.mark.both

COLUMNS: LiteralString = """
select c.relname as table, a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
  coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text as base, t.typtype = 'd' as bounded
from pg_attribute a
join pg_class c on c.oid = a.attrelid
join pg_type t on t.oid = a.atttypid
where c.relnamespace = 'jobsworth'::regnamespace and c.relkind = 'r' and a.attnum > 0
  and not a.attisdropped and a.attgenerated = ''
order by 1, a.attnum
"""
NUMBERS = ("NaN", "Infinity", "-Infinity", "-1", "0", "1", "1e12", "1e15", "1e18", "1e30")
TIMES = (
    *("infinity", "-infinity", "0044-03-15 BC", "0001-01-01", "1899-12-31", "1900-01-02"),
    *("2000-02-29", "2199-12-30", "2200-01-02", "9999-12-31", "10000-01-01", "20000-01-01"),
)
VALUES: dict[str, tuple[str, ...]] = {
    "timestamp with time zone": TIMES,
    "date": TIMES,
    "numeric": (*NUMBERS, "-0.5", "1e-30", "0.1"),
    "double precision": NUMBERS,
    "real": (*NUMBERS, "1e-30"),
    "smallint": ("-32768", "-1", "0", "1", "4", "5", "32767"),
    "integer": ("-2147483648", "-1", "0", "1", "100", "101", "1000000001", "2147483647"),
    "bigint": ("-9223372036854775808", "-1", "0", "1", "9223372036854775807"),
    "text": ("", " ", "x", "x" * 1000, "x" * 1001),
}


async def test_each_value_of_each_column_is_refused_by_name_or_can_be_read(
    conn: Connection,
) -> None:
    cases = refused = 0
    for column in await fetch_all(conn, COLUMNS):
        for value in VALUES.get(column["base"], ()):
            cases += 1
            query = f"select %(value)s::{column['type']} as value"
            try:
                await fetch_val(conn, cast(LiteralString, query), {"value": value})
            except Exception as error:
                cause = error.__cause__ or error
                assert isinstance(cause, psycopg.errors.CheckViolation), (column, value)
                assert column["bounded"], (column, value)
                rule = cause.diag.constraint_name or ""
                told = rule.startswith(("timeout_is", "mode_is", "tokens_of", "day_is"))
                assert told or rule.startswith((column["name"], "cost_of")), (column, rule)
                refused += 1
    print(f"{cases} cases, {refused} of them refused")
    assert cases >= 900
    assert refused >= 400


async def test_no_column_holds_a_time_that_no_client_can_read(conn: Connection) -> None:
    times = [
        one
        for one in await fetch_all(conn, COLUMNS)
        if one["base"] in VALUES and (one["base"].startswith(("timestamp", "date")))
    ]
    assert [one for one in times if not one["bounded"]] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("timeout_seconds => 'NaN'", "timeout_seconds NaN is not above 0 and at most 1e9"),
        ("timeout_seconds => 'Infinity'", "timeout_seconds Infinity is not above 0"),
        ("timeout_seconds => -1", "timeout_seconds -1 is not above 0"),
        ("timeout_seconds => 0", "timeout_seconds 0 is not above 0"),
        ("timeout_seconds => 1e300", "timeout_seconds 1e[+]300 is not above 0 and at most 1e9"),
        ("run_at => 'infinity'", "run_at is infinity; it must be from 1900 to 2199"),
        ("run_at => '-infinity'", "run_at is -infinity; it must be from 1900 to 2199"),
        ("run_at => '20000-01-01'", "run_at is 20000-.*; it must be from 1900 to 2199"),
        ("delay => '100000 years'", "the delay is 100000 years; at most 100 years"),
        ("delay => '300000 years'", "the delay is 300000 years; at most 100 years"),
        ("delay => '-1 second'", "the delay is negative"),
        ("priority => 0", "priority 0 is not 1 to 4"),
        ("priority => 2147483647", "priority 2147483647 is not 1 to 4"),
        ("failures_max => 0", "failures_max 0 is not a number from 1 on"),
        ("failures_max => -2147483648", "failures_max -2147483648 is not a number from 1 on"),
        ("crashes_max => -1", "crashes_max -1 is not a number from 1 on"),
        ("queue => ''", "queue must have 1 to 1000 bytes"),
        ("queue => repeat('x', 1001)", "queue must have 1 to 1000 bytes"),
        ("unique_key => ''", "unique_key must have 1 to 1000 bytes"),
        ("unique_key => repeat('x', 1001)", "unique_key must have 1 to 1000 bytes"),
        ("lane => repeat('x', 1001)", "lane must have at most 1000 bytes"),
    ],
)
async def test_an_option_out_of_its_bounds_is_refused_with_a_remedy(
    conn: Connection, options: LiteralString, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        await fetch_val(conn, "select jobsworth.enqueue('m', " + options + ")")
    assert refused.value.remedy
    assert await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs") == 0


@pytest.mark.parametrize("delay", [1e12, float("nan"), float("inf"), -1e12, 1e300])
async def test_a_pause_that_is_too_long_is_the_fault_of_its_job_alone(
    conn: Connection, delay: float
) -> None:
    one, two = await rows.running_job(conn), await rows.running_job(conn)
    wrong = Finish(one, "waiting", waiting_for="timer", delay_seconds=delay)
    with pytest.raises(Exception, match="delay_seconds_is_at_most_100_years") as refused:
        await finish.finish(conn, [wrong, Finish(two, "done", result="1")])
    assert getattr(refused.value, "sqlstate", "23514") == "23514"
    assert not getattr(refused.value, "retriable", False)
    assert len(await finish.finish(conn, [Finish(two, "done", result="1")])) == 1


async def test_a_job_that_was_tried_as_often_as_can_be_counted_is_claimed(
    conn: Connection,
) -> None:
    job_id = await rows.new_job(conn)
    most = "update jobsworth.reactive_jobs set attempt = 1000000000, failures = 1000000000"
    await execute(conn, most)
    with pytest.raises(Exception, match="attempt_is_0_to_1e9"):
        await execute(conn, "update jobsworth.reactive_jobs set attempt = 2147483647")
    assert (await jobs.get_by_id(conn, job_id)).attempt == 1_000_000_000


async def keep_jobs_out(conn: Connection) -> None:
    await execute(
        conn,
        "create function refuse_all() returns trigger language plpgsql as"
        " $$ begin return null; end $$",
    )
    await execute(
        conn,
        "create trigger of_a_user before insert on jobsworth.reactive_jobs"
        " for each row execute function refuse_all()",
    )


async def test_a_run_whose_jobs_a_trigger_keeps_out_is_not_started(conn: Connection) -> None:
    await keep_jobs_out(conn)
    with pytest.raises(Conflict, match="a trigger of reactive_jobs keeps 1 of its 1 jobs out"):
        await start_run(conn, {})
    assert await fetch_val(conn, "select count(*) from jobsworth.runs") == 0


@pytest.mark.parametrize("seconds", [None, 7], ids=["bare", "with options"])
async def test_many_jobs_that_a_trigger_keeps_out_are_refused(
    conn: Connection, seconds: float | None
) -> None:
    await keep_jobs_out(conn)
    with pytest.raises(Conflict, match="3 of 3 jobs were not written: a trigger"):
        await enqueue_many(conn, [NewJob("answer", timeout_seconds=seconds) for _ in range(3)])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"delay": 1e300}, "has a delay of more than 100 years"),
        ({"delay": -1}, "has a delay that is negative"),
        ({"priority": 1.5}, "has a priority that is not 1 to 4"),
        ({"timeout_seconds": 1e-50}, "has a timeout_seconds that is not 0.001 to 1e9"),
        ({"timeout_seconds": 1e300}, "has a timeout_seconds that is not 0.001 to 1e9"),
        ({"failures_max": 0}, "has a failures_max or crashes_max that is not a whole number"),
        ({"crashes_max": 1e300}, "has a failures_max or crashes_max that is not a whole number"),
        ({"queue": ""}, "has a queue that is not 1 to 1000 bytes long"),
        ({"lane": "x" * 1001}, "has a lane of more than 1000 bytes"),
        ({"holds_lane": "perhaps"}, "has a holds_lane that is neither true nor false"),
        ({"agent_id": "bond"}, "has an agent_id that is not a UUID"),
        ({"run_at": "infinity"}, "has a run_at that is not a time from 1900 to 2199"),
        ({"run_at": "20000-01-01"}, "has a run_at that is not a time from 1900 to 2199"),
        ({"run_at": "soon"}, "has a run_at that is not a time from 1900 to 2199"),
    ],
)
async def test_a_node_out_of_bounds_is_refused_by_its_name(
    conn: Connection, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInput, match=f"node fetch {reason}"):
        await start_run(conn, options)
    assert await fetch_val(conn, "select count(*) from jobsworth.runs") == 0


async def start_run(conn: Connection, options: dict[str, Any]) -> None:
    nodes = [{"node": "fetch", "mode": "fetch", **options}]
    await fetch_val(conn, "select jobsworth.start_run(%(nodes)s)", {"nodes": Jsonb(nodes)})


@pytest.mark.parametrize("seconds", ["NaN", "infinity", "-infinity", "1e300"])
async def test_a_pause_of_a_provider_ends(conn: Connection, seconds: str) -> None:
    await fetch_val(
        conn, "select jobsworth.pause_rate('acme', 'm', %(for)s::float8)", {"for": seconds}
    )
    paused = "select paused_until <= now() + interval '1 year 1 day' from jobsworth.rate_limits"
    assert await fetch_val(conn, paused)


async def test_a_huge_call_under_a_small_limit_has_its_turn(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", tokens=1)
    call_id = await budgeting.started(conn, estimate=Usage(2_000_000_000, 1))
    late = "update jobsworth.rate_limits set tokens_at = '2198-12-01'"
    await execute(conn, late)
    await budgeting.settle(conn, call_id, usage=Usage(2_000_000_000, 1))
    turn = "select tokens_at <= '2199-01-01' from jobsworth.rate_limits"
    assert await fetch_val(conn, turn)


async def test_enqueue_says_why_a_trigger_or_an_index_keeps_the_job_out(conn: Connection) -> None:
    await keep_jobs_out(conn)
    with pytest.raises(Conflict, match="a trigger of reactive_jobs returns null for it"):
        await rows.new_job(conn)
    await execute(conn, "drop trigger of_a_user on jobsworth.reactive_jobs")
    await execute(conn, "create unique index of_a_user on jobsworth.reactive_jobs (mode)")
    await rows.new_job(conn)
    with pytest.raises(Conflict, match="another unique index"):
        await rows.new_job(conn)


async def test_violations_have_a_time_that_clients_can_read(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    await execute(conn, "delete from jobsworth.workers")
    await execute(conn, "update jobsworth.reactive_jobs set started_at = now() - interval '1 hour'")
    found = await fetch_all(conn, "select subject_id, at from jobsworth.violations")
    assert [one["subject_id"] for one in found] == [lease.job_id]
    assert len(await violations.list_violations(conn)) == 1


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("insert into jobsworth.artifacts (job_id, effect_key, name, media_type, uri)"
         " values (%(job)s, 'k', 'n', 't', '')", "uri_has_1_to_8192_bytes"),
        ("insert into jobsworth.artifacts (job_id, effect_key, name, media_type, uri)"
         " values (%(job)s, 'k', 'n', 't', repeat('x', 8193))", "uri_has_1_to_8192_bytes"),
        ("insert into jobsworth.artifacts (job_id, effect_key, name, media_type, uri)"
         " values (%(job)s, 'k', 'n', repeat('x', 1001), 'u')", "media_type_has_1_to_1000_bytes"),
        ("insert into jobsworth.webhooks (url) values (repeat('x', 8193))",
         "url_has_1_to_8192_bytes"),
        ("insert into jobsworth.run_metrics (job_id, effect_key, name, value)"
         " values (%(job)s, 'k', 'n', 'NaN')", "value_is_finite"),
        ("insert into jobsworth.token_ledger (entry, provider, model, cost)"
         " values ('settle', 'p', 'm', 'NaN')", "cost_of_an_entry_is_within_1e12"),
        ("insert into jobsworth.token_ledger (entry, provider, model, cost)"
         " values ('settle', 'p', 'm', -1)", "only_an_adjustment_has_negative_tokens_or_cost"),
        ("insert into jobsworth.token_ledger (entry, provider, model, input_tokens)"
         " values ('settle', 'p', 'm', -1)", "only_an_adjustment_has_negative_tokens_or_cost"),
        ("insert into jobsworth.approvals (proposal_text, shown_hash, deadline)"
         " values ('p', '', 'infinity')", "deadline_is_from_1900_to_2199"),
        ("insert into jobsworth.approvals (proposal_text, shown_hash, votes_needed)"
         " values ('p', '', 0)", "votes_needed_is_1_to_100"),
    ],
)  # fmt: skip
async def test_a_row_out_of_bounds_is_refused(
    conn: Connection, statement: LiteralString, message: str
) -> None:
    lease: Lease = await rows.running_job(conn)
    with pytest.raises(Exception, match=message):
        await execute(conn, statement, {"job": lease.job_id})
