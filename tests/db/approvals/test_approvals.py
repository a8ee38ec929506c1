"""Consent: decided once, in time, and the job resumes in the same transaction."""

from __future__ import annotations

import hashlib
import json
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.approvals import approvals
from db.approvals.approvals import ApprovalStatus, Resolution, shown_hash
from db.errors import Conflict, InvalidInput, NotFound
from db.migrate import migrate
from db.pool import Connection, Database, execute, fetch_val
from tests.db import rows
from tests.support import connect, until

pytestmark = pytest.mark.both

QUEUED = ("queued", None)
WAITING = ("waiting", "approval")

PASS_DEADLINE: LiteralString = """
update jobsworth.approvals set deadline = now() - interval '1 second' where id = %(id)s
"""


async def ask(conn: Connection, job_id: UUID | None = None, **options: Any) -> UUID:
    return (await approvals.create(conn, "Ship it?", job_id=job_id, **options)).id


async def overdue(conn: Connection, job_id: UUID | None = None, **options: Any) -> UUID:
    approval_id = await ask(conn, job_id, deadline_seconds=60, **options)
    await execute(conn, PASS_DEADLINE, {"id": approval_id})
    return approval_id


async def test_an_approval_keeps_what_was_asked_and_shown(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    asked = await approvals.create(
        conn,
        "Which one?",
        job_id=lease.job_id,
        options=("left", "right", "reject"),
        shown={"left": [1, 2], "right": None},
        deadline_seconds=60,
        on_timeout="left",
    )
    assert asked == await approvals.get_by_id(conn, asked.id)
    assert asked.options == ("left", "right", "reject")
    assert asked.shown == {"left": [1, 2], "right": None}
    assert asked.shown_hash == shown_hash("Which one?", asked.options, asked.shown)
    assert asked.deadline is not None
    assert 59 < (asked.deadline - asked.created_at).total_seconds() < 61
    assert await approvals.check_status(conn, asked.id) is ApprovalStatus.PENDING
    assert await approvals.get_pending(conn, 10) == [asked]


async def test_an_approval_takes_thread_and_team_from_its_job(conn: Connection) -> None:
    team_id, thread_id = uuid4(), uuid4()
    job_id = await fetch_val(
        conn,
        "select jobsworth.enqueue('answer', team_id => %s, thread_id => %s)",
        [team_id, thread_id],
    )
    asked = await approvals.create(conn, "Ship it?", job_id=job_id)
    assert (asked.team_id, asked.thread_id) == (team_id, thread_id)
    assert await approvals.get_pending(conn, 10, team_id=team_id) == [asked]
    assert await approvals.get_pending(conn, 10, thread_id=thread_id) == [asked]
    assert await approvals.get_pending(conn, 10, team_id=uuid4()) == []


async def test_pending_ones_come_oldest_first_and_bounded(conn: Connection) -> None:
    first, second, third = [await ask(conn) for _ in range(3)]
    await approvals.resolve(conn, second, "approve", "ann")
    assert [a.id for a in await approvals.get_pending(conn, 10)] == [first, third]
    assert [a.id for a in await approvals.get_pending(conn, 1)] == [first]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"proposal_text": "  "}, "empty"),
        ({"options": ("yes", "no")}, "reject"),
        ({"options": ("reject", "reject")}, "distinct"),
        ({"options": ("reject", "")}, "distinct"),
        ({"options": "reject"}, "distinct"),
        ({"options": ("ship", "Ship", "reject")}, "distinct"),
        ({"options": ("ship ", "reject")}, "distinct"),
        ({"options": ("a\0", "reject")}, "distinct"),
        ({"options": ("yes", "No", "reject")}, "'No' would count as a yes"),
        ({"on_timeout": "escalate"}, "needs a deadline"),
        ({"on_timeout": "maybe"}, "on_timeout"),
        ({"deadline_seconds": 0}, "deadline"),
        ({"deadline_seconds": float("nan")}, "deadline"),
        ({"shown": object()}, "shown"),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    conn: Connection, question: dict[str, Any], reason: str
) -> None:
    default: dict[str, Any] = {"proposal_text": "Ship it?"}
    with pytest.raises(InvalidInput, match=reason):
        await approvals.create(conn, **default | question)
    assert await approvals.get_pending(conn, 10) == []


async def test_nothing_is_asked_for_a_job_that_has_ended(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    await rows.end(conn, lease.job_id)
    with pytest.raises(Conflict, match="done"):
        await ask(conn, lease.job_id)
    with pytest.raises(NotFound):
        await ask(conn, uuid4())
    assert await approvals.get_pending(conn, 10) == []


async def test_a_decision_resumes_the_job_in_its_transaction(
    database: Database, conn: Connection
) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await ask(conn, job_id)
    async with database.connection() as other:
        async with conn.transaction():
            await approvals.resolve(conn, approval_id, "approve", "ann", "cli", "fine\0")
            assert await rows.status(other, job_id) == WAITING
        assert await rows.status(other, job_id) == QUEUED
    decided = await approvals.get_by_id(conn, approval_id)
    assert (decided.status, decided.chosen_option) == (ApprovalStatus.APPROVED, "approve")
    assert (decided.decided_by, decided.channel, decided.comment) == ("ann", "cli", "fine\u2400")


async def test_a_decision_that_is_rolled_back_resumes_nothing(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await ask(conn, job_id)
    async with conn.transaction(force_rollback=True):
        await approvals.resolve(conn, approval_id, "approve", "ann")
        assert await rows.status(conn, job_id) == QUEUED
    assert await rows.status(conn, job_id) == WAITING
    undecided = await approvals.get_by_id(conn, approval_id)
    assert (undecided.status, undecided.decided_by) == (ApprovalStatus.PENDING, None)


async def test_a_plain_sync_connection_decides_in_its_own_transaction(
    database_url: str, conn: Connection
) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await ask(conn, job_id)
    with psycopg.connect(database_url) as plain:
        resolution = approvals.resolve_sync(plain, approval_id, "approve", "ann")
        assert resolution.accepted
        assert await rows.status(conn, job_id) == WAITING
        plain.commit()
    assert await rows.status(conn, job_id) == QUEUED
    with connect(database_url) as plain, pytest.raises(NotFound):
        approvals.resolve_sync(plain, uuid4(), "approve", "ann")


async def test_a_plain_async_connection_decides(database_url: str, conn: Connection) -> None:
    approval_id = await ask(conn)
    async with await psycopg.AsyncConnection.connect(database_url) as plain:
        resolution = await approvals.resolve(plain, approval_id, "reject", "ann")
    assert resolution.status is ApprovalStatus.REJECTED
    assert await approvals.check_status(conn, approval_id) is ApprovalStatus.REJECTED


async def test_a_plain_connection_decides_in_the_schema_it_names(database_url: str) -> None:
    await anyio.to_thread.run_sync(migrate, database_url, "elsewhere")
    async with (
        Database(database_url, schema="elsewhere", pool_min=1) as database,
        database.connection() as conn,
    ):
        first, second = await ask(conn), await ask(conn)
        with connect(database_url) as plain:
            sync = approvals.resolve_sync(plain, first, "reject", "ann", schema="elsewhere")
        async with await psycopg.AsyncConnection.connect(database_url) as plain:
            other = await approvals.resolve(plain, second, "reject", "ann", schema="elsewhere")
        assert sync.accepted
        assert other.accepted
        assert await approvals.get_pending(conn) == []


async def test_a_decision_by_sql_alone_resumes_the_job(database_url: str, conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await ask(conn, job_id)
    with connect(database_url) as plain:
        row = plain.execute(
            "select * from jobsworth.resolve(%s, 'approve', 'ann')", [approval_id]
        ).fetchone()
    assert row == {"accepted": True, "status": "approved", "chosen_option": "approve"}
    assert await rows.status(conn, job_id) == QUEUED
    assert (await approvals.get_by_id(conn, approval_id)).channel == "sql"


@pytest.mark.parametrize("option", ["left", "right"])
async def test_any_option_but_reject_approves(conn: Connection, option: str) -> None:
    approval_id = await ask(conn, options=("left", "right", "reject"))
    resolution = await approvals.resolve(conn, approval_id, option, "ann")
    assert (resolution.status, resolution.chosen_option) == (ApprovalStatus.APPROVED, option)


async def test_only_its_own_options_can_be_chosen(conn: Connection) -> None:
    approval_id = await ask(conn)
    for option in ("maybe", None):
        with pytest.raises(InvalidInput, match="not an option"):
            await approvals.resolve(conn, approval_id, option, "ann")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInput, match="decided_by is empty"):
        await approvals.resolve(conn, approval_id, "approve", " ")
    assert await approvals.check_status(conn, approval_id) is ApprovalStatus.PENDING


async def test_an_approval_is_decided_once(conn: Connection) -> None:
    approval_id = await ask(conn)
    first = await approvals.resolve(conn, approval_id, "reject", "ann")
    first.require_accepted()
    second = await approvals.resolve(conn, approval_id, "approve", "bob")
    assert (second.accepted, second.status) == (False, ApprovalStatus.REJECTED)
    with pytest.raises(Conflict, match="already rejected"):
        second.require_accepted()
    assert (await approvals.get_by_id(conn, approval_id)).decided_by == "ann"


async def test_of_a_no_and_a_yes_at_once_the_no_wins(database: Database, conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await ask(conn, job_id)
    won: list[Resolution] = []
    late: list[Resolution] = []
    async with database.connection() as other, anyio.create_task_group() as tasks:

        async def decide_late() -> None:
            late.append(await approvals.resolve(other, approval_id, "approve", "bob"))

        async with conn.transaction():
            won.append(await approvals.resolve(conn, approval_id, "reject", "ann"))
            tasks.start_soon(decide_late)
            await until(lambda: rows.is_blocked(database, other))
    assert [r.accepted for r in won] == [True]
    assert [(r.accepted, r.chosen_option) for r in late] == [(False, "reject")]
    assert await rows.status(conn, job_id) == QUEUED


async def test_a_decision_while_the_job_parks_is_not_missed(
    database: Database, conn: Connection
) -> None:
    """It waits for the finisher's lock, and then looks with a fresh snapshot."""
    lease = await rows.running_job(conn)
    approval_id = await ask(conn, lease.job_id)
    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await rows.park(conn, lease.job_id)
        tasks.start_soon(approvals.resolve, other, approval_id, "approve", "ann")
        await until(lambda: rows.is_blocked(database, other))
    assert await rows.status(conn, lease.job_id) == QUEUED


async def test_a_decision_before_the_park_is_found_by_it(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    approval_id = await ask(conn, lease.job_id)
    await approvals.resolve(conn, approval_id, "approve", "ann")
    assert await rows.status(conn, lease.job_id) == ("running", None)
    await rows.park(conn, lease.job_id)
    await fetch_val(conn, "select jobsworth.unblock(array[%s::uuid])", [lease.job_id])
    assert await rows.status(conn, lease.job_id) == QUEUED


async def test_a_job_waits_for_its_last_approval(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    first, second = await ask(conn, job_id), await ask(conn, job_id)
    await approvals.resolve(conn, first, "approve", "ann")
    assert await rows.status(conn, job_id) == WAITING
    await approvals.resolve(conn, second, "reject", "ann")
    assert await rows.status(conn, job_id) == QUEUED


async def test_a_decision_after_the_deadline_records_the_expiry(conn: Connection) -> None:
    """No sweep has come by: the deadline counts in `resolve` itself."""
    job_id = await rows.parked_job(conn)
    approval_id = await overdue(conn, job_id)
    resolution = await approvals.resolve(conn, approval_id, "approve", "ann", comment="late")
    assert (resolution.accepted, resolution.status) == (False, ApprovalStatus.EXPIRED)
    with pytest.raises(Conflict, match="deadline has passed, and reject"):
        resolution.require_accepted()
    expired = await approvals.get_by_id(conn, approval_id)
    assert (expired.chosen_option, expired.decided_by, expired.comment) == (
        "reject",
        "deadline",
        None,
    )
    assert await rows.status(conn, job_id) == QUEUED


async def test_the_sweep_takes_the_default_of_what_is_overdue(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    due = await overdue(conn, job_id, options=("go", "reject"), on_timeout="go")
    await ask(conn, deadline_seconds=60)
    endless = await ask(conn)
    assert await approvals.expire(conn, 10) == 1
    expired = await approvals.get_by_id(conn, due)
    assert (expired.status, expired.chosen_option) == (ApprovalStatus.EXPIRED, "go")
    assert await rows.status(conn, job_id) == QUEUED
    assert await approvals.check_status(conn, endless) is ApprovalStatus.PENDING
    assert await approvals.expire(conn, 10) == 0


async def test_the_sweep_is_bounded(conn: Connection) -> None:
    for _ in range(3):
        await overdue(conn)
    assert [await approvals.expire(conn, 2) for _ in range(3)] == [2, 1, 0]


async def test_the_sweep_passes_over_what_somebody_holds(
    database: Database, conn: Connection
) -> None:
    """One long transaction on one job must not keep every other approval open."""
    held_job, free_job = await rows.parked_job(conn), await rows.parked_job(conn)
    held, free = await overdue(conn, held_job), await overdue(conn, free_job)
    row_held, jobless = await overdue(conn), await overdue(conn)
    async with database.transaction() as other:
        await execute(
            other, "select 1 from jobsworth.reactive_jobs where id = %s for update", [held_job]
        )
        await execute(
            other, "select 1 from jobsworth.approvals where id = %s for update", [row_held]
        )
        with anyio.fail_after(10):
            assert await approvals.expire(conn, 10) == 2
    for approval_id in (free, jobless):
        assert await approvals.check_status(conn, approval_id) is ApprovalStatus.EXPIRED
    assert await approvals.check_status(conn, held) is ApprovalStatus.PENDING
    assert await approvals.expire(conn, 10) == 2


async def test_the_sweep_closes_approvals_of_deleted_jobs(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await overdue(conn, job_id)
    await execute(conn, "delete from jobsworth.reactive_jobs where id = %s", [job_id])
    assert await approvals.expire(conn, 10) == 1
    assert await approvals.check_status(conn, approval_id) is ApprovalStatus.EXPIRED


async def test_the_job_of_a_superseded_approval_waits_for_the_successor(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    old = await ask(conn, job_id)
    new = (await approvals.create(conn, "Ship the other one?")).id
    await approvals.supersede(conn, old, new)
    superseded, successor = [await approvals.get_by_id(conn, each) for each in (old, new)]
    assert (superseded.status, superseded.superseded_by) == (ApprovalStatus.SUPERSEDED, new)
    assert (successor.job_id, successor.supersedes) == (job_id, old)
    assert "-Ship it?\n+Ship the other one?" in (successor.difference or "")
    assert await rows.status(conn, job_id) == WAITING
    late = await approvals.resolve(conn, old, "approve", "ann")
    with pytest.raises(Conflict, match="superseded"):
        late.require_accepted()
    await approvals.resolve(conn, new, "approve", "ann")
    assert await rows.status(conn, job_id) == QUEUED


async def test_a_job_whose_approval_was_replaced_waits_for_the_new_one(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    old, new = await ask(conn, job_id), await ask(conn, job_id)
    await approvals.supersede(conn, old, new)
    assert await rows.status(conn, job_id) == WAITING
    await approvals.resolve(conn, new, "approve", "ann")
    assert await rows.status(conn, job_id) == QUEUED


async def test_only_an_open_approval_is_superseded_by_another(conn: Connection) -> None:
    decided, new = await ask(conn), await ask(conn)
    await approvals.resolve(conn, decided, "approve", "ann")
    with pytest.raises(Conflict, match="already approved"):
        await approvals.supersede(conn, decided, new)
    with pytest.raises(InvalidInput, match="itself"):
        await approvals.supersede(conn, new, new)
    for old, by in ((new, uuid4()), (uuid4(), new)):
        with pytest.raises(NotFound):
            await approvals.supersede(conn, old, by)


async def test_a_superseding_that_waits_for_a_decision_comes_too_late(
    database: Database, conn: Connection
) -> None:
    job_id = await rows.parked_job(conn)
    old, new = await ask(conn, job_id), await ask(conn, job_id)
    refusals: list[Conflict] = []
    async with database.connection() as other, anyio.create_task_group() as tasks:

        async def supersede_late() -> None:
            try:
                await approvals.supersede(other, old, new)
            except Conflict as refused:
                refusals.append(refused)

        async with conn.transaction():
            await approvals.resolve(conn, old, "approve", "ann")
            tasks.start_soon(supersede_late)
            await until(lambda: rows.is_blocked(database, other))
    assert len(refusals) == 1
    assert await approvals.check_status(conn, old) is ApprovalStatus.APPROVED


async def test_the_approval_of_an_effect_is_found_by_its_key(conn: Connection) -> None:
    job_id = await rows.parked_job(conn)
    approval_id = await ask(conn, job_id)
    await execute(
        conn, "update jobsworth.approvals set effect_key = 'k' where id = %s", [approval_id]
    )
    found = await approvals.get_by_effect(conn, job_id, "k")
    assert found is not None
    assert found.id == approval_id
    assert await approvals.get_by_effect(conn, job_id, "other") is None


async def test_unknown_approvals_are_named(conn: Connection) -> None:
    unknown = uuid4()
    for look in (approvals.check_status, approvals.get_by_id):
        with pytest.raises(NotFound, match=str(unknown)):
            await look(conn, unknown)
    with pytest.raises(NotFound, match=str(unknown)):
        await approvals.resolve(conn, unknown, "approve", "ann")


SHOWN = [
    None,
    "text with a NUL \0 and “quotes”",
    {"b": 1, "a": [1.0, 1e22, -0.0, 1.5e300, 0.1, 1e-7, 12345678901234567890]},
    [True, {"nested": {"z": None, "a": "é"}}],
]


@pytest.mark.parametrize("shown", SHOWN)
async def test_the_stored_row_hashes_to_its_own_hash(conn: Connection, shown: Any) -> None:
    asked = await approvals.create(conn, "a \0 b", shown=shown)
    assert shown_hash(asked.proposal_text, asked.options, asked.shown) == asked.shown_hash


def test_the_hash_is_that_of_canonical_json() -> None:
    canonical = '{"options":["approve","reject"],"proposal_text":"é","shown":{"a":1,"b":[2.5]}}'
    expected = hashlib.sha256(canonical.encode()).hexdigest()
    assert shown_hash("é", ("approve", "reject"), {"b": [2.5], "a": 1.0}) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(JSON)
def test_the_hash_does_not_depend_on_the_order_of_keys(shown: Any) -> None:
    shuffled = json.loads(json.dumps(shown), object_pairs_hook=lambda p: dict(reversed(p)))
    assert shown_hash("p", ("reject",), shuffled) == shown_hash("p", ("reject",), shown)


def test_the_hash_depends_on_everything_that_was_asked() -> None:
    hashes = {
        shown_hash("p", ("approve", "reject"), None),
        shown_hash("q", ("approve", "reject"), None),
        shown_hash("p", ("reject", "approve"), None),
        shown_hash("p", ("approve", "reject"), {"a": 1}),
        shown_hash("p", ("approve", "reject"), {"a": 2}),
    }
    assert len(hashes) == 5
