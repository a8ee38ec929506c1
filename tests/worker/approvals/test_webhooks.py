"""Webhooks over real HTTP on this machine: signed, at least once, only to allowed hosts."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID

import pytest
import structlog

from db.approvals import approvals, webhooks
from db.errors import InvalidInput, NotFound
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from db.queue import jobs
from tests.support import Workers, until_sync
from tests.worker.approvals.listening import (
    HOSTS,
    SECRET,
    Listener,
    ask,
    client,
    signed_by,
)
from tests.worker.approvals.listening import listener as listener
from worker import events
from worker.approvals import webhooks as sending
from worker.approvals.webhooks import deliver

NOW_DUE: LiteralString = "update jobsworth.webhook_outbox set next_try_at = now()"

WAITS: LiteralString = """
update jobsworth.reactive_jobs j set status = 'waiting', waiting_for = 'approval'
where j.id = %(id)s
"""

OUTBOX: LiteralString = """
select o.id, o.event, o.tries, o.last_status, o.last_error, o.delivered_at is not null as delivered,
  o.dead_at is not null as dead, o.next_try_at > clock_timestamp() as later, o.payload
from jobsworth.webhook_outbox o
order by o.id
"""


async def send(database: Database, seconds: float = 10, hosts: Sequence[str] = HOSTS) -> int:
    async with client(seconds) as http:
        return await deliver(database, http, secret=SECRET, hosts=hosts)


async def outbox(conn: Connection) -> list[dict[str, Any]]:
    return await fetch_all(conn, OUTBOX)


async def test_opening_and_closing_are_told_with_all_that_is_needed_to_decide(
    database: Database, conn: Connection, listener: Listener
) -> None:
    await webhooks.add(conn, listener.url)
    approval_id = await ask(conn, deadline_seconds=60)
    await send(database)
    await approvals.resolve(conn, approval_id, "approve", "ann")
    await send(database)
    opened, closed = listener.requests
    assert (opened.told["type"], closed.told["type"]) == ("approval.opened", "approval.closed")
    asked = opened.told["data"]
    assert asked["approval_id"] == str(approval_id)
    assert (asked["proposal"], asked["shown"], asked["options"]) == (
        "Ship it?",
        {"n": 1},
        ["approve", "reject"],
    )
    assert asked["deadline"] is not None
    assert str(approval_id) in asked["decide"]["cli"]
    assert "jobsworth.resolve" in asked["decide"]["sql"]
    assert asked["hash"] == (await approvals.get_by_id(conn, approval_id)).shown_hash
    assert (closed.told["data"]["status"], closed.told["data"]["decided_by"]) == ("approved", "ann")
    assert closed.told["data"]["decide"] is None
    for request in listener.requests:
        assert signed_by(request, SECRET)
        assert not signed_by(request, SECRET[:6] + base64.b64encode(b"x" * 32).decode())
        assert abs(time.time() - int(request.headers["webhook-timestamp"])) < 60
    assert opened.headers["webhook-id"] != closed.headers["webhook-id"]
    assert all(row["delivered"] for row in await outbox(conn))


async def test_nothing_is_written_down_while_nobody_listens(conn: Connection) -> None:
    await ask(conn)
    webhook = await webhooks.add(conn, "https://example.org/")
    await webhooks.remove(conn, webhook.id)
    await ask(conn)
    assert await outbox(conn) == []
    with pytest.raises(NotFound):
        await webhooks.remove(conn, webhook.id)


async def test_what_is_rolled_back_is_not_told(conn: Connection, listener: Listener) -> None:
    await webhooks.add(conn, listener.url)
    async with conn.transaction(force_rollback=True):
        await ask(conn)
    assert await outbox(conn) == []


async def test_each_is_told_what_it_wants_to_know(conn: Connection) -> None:
    team_id = UUID(int=7)
    await webhooks.add(conn, "https://a.example/", events=["approval.closed"])
    await webhooks.add(conn, "https://b.example/", team_id=team_id)
    for team in (None, team_id):
        await approvals.resolve(conn, await ask(conn, team_id=team), "reject", "ann")
    told = sorted((d.url, d.event) for d in await webhooks.deliveries(conn, 10))
    assert told == [
        ("https://a.example/", "approval.closed"),
        ("https://a.example/", "approval.closed"),
        ("https://b.example/", "approval.closed"),
        ("https://b.example/", "approval.opened"),
    ]
    with pytest.raises(InvalidInput, match="unknown events"):
        await webhooks.add(conn, "https://a.example/", events=["approval.eaten"])


async def test_escalations_edits_and_the_last_no_are_told(conn: Connection) -> None:
    await webhooks.add(conn, "https://a.example/")
    approval_id = await ask(
        conn, deadline_seconds=60, on_timeout="escalate", editable=True, votes=2
    )
    await execute(conn, "update jobsworth.approvals set deadline = now() - interval '1 second'")
    await approvals.expire(conn, 10)
    await approvals.resolve(conn, approval_id, "approve", "ann", edited={"n": 2})
    await approvals.resolve(conn, approval_id, "approve", "bob")
    await approvals.resolve(conn, approval_id, "reject", "cem")
    found = await outbox(conn)
    assert [row["event"] for row in found] == [
        "approval.opened",
        "approval.escalated",
        "approval.edited",
        "approval.closed",
        "approval.closed",
    ]
    assert found[2]["payload"]["data"]["shown"] == {"n": 2}
    assert [row["payload"]["data"]["status"] for row in found[3:]] == ["approved", "rejected"]


async def test_what_fails_is_told_again_under_the_same_id(
    database: Database, conn: Connection, listener: Listener
) -> None:
    await webhooks.add(conn, listener.url)
    await ask(conn)
    listener.answers = [500, 200]
    await send(database)
    [failed] = await outbox(conn)
    assert (failed["delivered"], failed["later"], failed["last_status"]) == (False, True, 500)
    assert await send(database) == 0  # not before its time
    await execute(conn, NOW_DUE)
    await send(database)
    [told] = await outbox(conn)
    assert (told["delivered"], told["tries"], told["last_error"]) == (True, 2, None)
    first, second = listener.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == str(told["id"])


async def test_it_is_given_up_after_so_many_tries_until_a_person_retries_it(
    database: Database, conn: Connection, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "TRIES_MAX", 2)
    await webhooks.add(conn, listener.url)
    await ask(conn)
    listener.answers = [503, 503, 200]
    for _ in range(3):
        await execute(conn, NOW_DUE)
        await send(database)
    [row] = await outbox(conn)
    assert (row["dead"], row["tries"], len(listener.requests)) == (True, 2, 2)
    assert (await webhooks.outbox(conn)).dead == 1
    [dead] = await webhooks.deliveries(conn, 10, dead_only=True)
    assert (dead.state, dead.last_status) == ("dead", 503)
    assert await webhooks.retry(conn, dead.id) == 1
    with pytest.raises(NotFound):
        await webhooks.retry(conn, dead.id)
    await send(database)
    assert (await outbox(conn))[0]["delivered"]


async def test_an_address_that_is_gone_for_good_is_switched_off_and_that_is_said(
    database: Database, conn: Connection, listener: Listener
) -> None:
    """Standard Webhooks: after 410 an endpoint is disabled; what was due for it is given up."""
    gone = await webhooks.add(conn, listener.url)
    job_id = (await jobs.enqueue(conn, "answer", {})).job_id
    await ask(conn, job_id=job_id)
    await execute(conn, WAITS, {"id": job_id})
    other = await ask(conn)
    listener.answers = [410]
    with structlog.testing.capture_logs() as logged:
        await send(database)
        await send(database)
    assert len(listener.requests) <= sending.PLACES  # those that were under way together
    assert all(row["dead"] for row in await outbox(conn))
    await approvals.resolve(conn, other, "approve", "ann")
    assert await send(database) == 0  # it is told of nothing that happens from now on
    [listed] = await webhooks.list_webhooks(conn)
    assert (listed.active, listed.off_because) == (False, "answered 410 (Gone)")
    told = [line for line in logged if line["event"] == events.WEBHOOK_SWITCHED_OFF]
    assert [line["webhook_id"] for line in told] == [str(gone.id)]
    said = f"; webhook {gone.id} is off: its receiver answered 410 (Gone)"
    assert (await jobs.why(conn, job_id)).detail.endswith(said)


async def test_who_does_not_answer_is_asked_again(
    database: Database, conn: Connection, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.2)
    await webhooks.add(conn, listener.url)
    await ask(conn)
    listener.held.clear()
    await send(database)
    [row] = await outbox(conn)
    assert (row["dead"], row["later"]) == (False, True)
    assert "no answer within" in row["last_error"]


@pytest.mark.parametrize(
    ("said", "most_seconds"),
    [
        ("900", 900),
        ("99999999", 6 * 3600),
        ("Tue, 01 Jan 2999 00:00:00 GMT", 6 * 3600),
        ("Thu, 01 Jan 1998 00:00:00 GMT", 6),
        ("Tue, 01 Jan 99999999999999999999 00:00:00 GMT", 6),
        ("0", 6),
        ("soon", 6),
    ],
)
async def test_who_asks_to_be_left_alone_is_so_at_most_for_hours(
    database: Database, conn: Connection, listener: Listener, said: str, most_seconds: int
) -> None:
    await webhooks.add(conn, listener.url)
    await ask(conn)
    listener.answers, listener.retry_after = [429], said
    await send(database)
    pause = await fetch_val(
        conn,
        "select extract(epoch from next_try_at - clock_timestamp())::float8"
        " from jobsworth.webhook_outbox",
    )
    # Some of it has passed already, on a slow machine more.
    assert most_seconds - 300 < pause <= most_seconds


async def test_a_redirect_is_not_followed(
    database: Database, conn: Connection, listener: Listener
) -> None:
    await webhooks.add(conn, listener.url)
    await ask(conn)
    listener.answers = [307]
    await send(database)
    assert [request.path for request in listener.requests] == ["/hook"]
    assert "redirects are not followed" in (await outbox(conn))[0]["last_error"]


async def test_a_host_that_is_not_allowed_is_never_asked(
    database: Database, conn: Connection, listener: Listener
) -> None:
    """Not even if somebody has written its address into the table."""
    await webhooks.add(conn, listener.url)
    await ask(conn)
    await send(database, hosts=("example.org",))
    [row] = await outbox(conn)
    assert (row["dead"], listener.requests) == (True, [])
    assert "not among the hosts" in row["last_error"]


async def test_what_was_due_for_a_webhook_that_is_gone_is_given_up(
    database: Database, conn: Connection
) -> None:
    await webhooks.add(conn, "https://127.0.0.1/")
    await ask(conn)
    await execute(conn, "delete from jobsworth.webhooks")
    await send(database)
    assert "no longer active" in (await outbox(conn))[0]["last_error"]


async def test_a_dead_receiver_does_not_delay_a_healthy_one(
    database: Database, conn: Connection, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked by a few deliveries, then rests as a whole; the healthy one gets all of its."""
    dead = Listener()
    try:
        dead.answers = [503]
        await webhooks.add(conn, dead.url, events=["approval.opened"])
        for _ in range(40):
            await ask(conn)
        await webhooks.add(conn, listener.url, events=["approval.opened"])
        for _ in range(12):
            await ask(conn)
        receivers = sending.Receivers()
        async with client() as http:
            for _ in range(3):
                await deliver(database, http, secret=SECRET, hosts=HOSTS, receivers=receivers)
        assert len(listener.requests) == 12
        assert len(dead.requests) == sending.PLACES
        # Rested, it is asked by one delivery, and when it answers, by as many as before.
        dead.answers = [200]
        monkeypatch.setattr(sending, "monotonic", lambda: float("inf"))
        async with client() as http:
            for wanted in (1, 1 + sending.PLACES):
                await deliver(database, http, secret=SECRET, hosts=HOSTS, receivers=receivers)
                assert len(dead.requests) == sending.PLACES + wanted
    finally:
        dead.close()


async def test_two_workers_do_not_send_the_same(
    database: Database, conn: Connection, listener: Listener
) -> None:
    await webhooks.add(conn, listener.url)
    for _ in range(5):
        await ask(conn)
    async with database.transaction() as other:
        taken = await webhooks.take(other, 3, 60)
        assert len(taken) == 3
        assert await send(database) == 2
    assert await send(database) == 0


async def test_a_late_failure_does_not_undo_what_another_try_delivered(conn: Connection) -> None:
    await webhooks.add(conn, "https://example.org/")
    await ask(conn)
    [late] = await webhooks.take(conn, 1, 0)
    [second] = await webhooks.take(conn, 1, 60)
    await webhooks.failed(conn, late, "late", pause_seconds=None)
    assert not (await outbox(conn))[0]["dead"]
    await webhooks.delivered(conn, second.id, 200)
    await webhooks.failed(conn, second, "later", pause_seconds=None)
    assert (await outbox(conn))[0]["delivered"]


async def test_what_was_delivered_long_ago_is_forgotten(conn: Connection) -> None:
    await webhooks.add(conn, "https://example.org/")
    for _ in range(2):
        await ask(conn)
    [due] = await webhooks.take(conn, 1, 60)
    await webhooks.delivered(conn, due.id, 200)
    await execute(
        conn,
        "update jobsworth.webhook_outbox set delivered_at = now() - interval '31 days'"
        " where delivered_at is not null",
    )
    assert await webhooks.prune(conn, 30, 10) == 1
    assert await fetch_val(conn, "select count(*) from jobsworth.webhook_outbox") == 1


async def test_a_worker_killed_while_it_sends_leaves_it_to_the_next(
    database_url: str, conn: Connection, listener: Listener, workers: Workers
) -> None:
    await webhooks.add(conn, listener.url)
    await ask(conn)
    env = {"JOBSWORTH_WEBHOOK_SECRET": SECRET, "JOBSWORTH_WEBHOOK_HOSTS": "127.0.0.1"}
    listener.held.clear()
    first = workers.start(database_url, env)
    until_sync(lambda: listener.requests, 20, "the first request")
    first.kill()
    listener.held.set()
    [row] = await outbox(conn)
    assert (row["delivered"], row["later"]) == (False, True)
    await execute(conn, NOW_DUE)
    second = workers.start(database_url, env | {"JOBSWORTH_LOG_LEVEL": "debug"})
    second.wait_for("webhook.delivered", 20)
    assert len({request.headers["webhook-id"] for request in listener.requests}) == 1
    assert len(listener.requests) == 2
    assert (await outbox(conn))[0]["delivered"]
