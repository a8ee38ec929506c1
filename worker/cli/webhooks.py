"""`jobsworth webhook add | list | remove | deliveries | retry | secret`.

In: addresses, and ids of webhooks and deliveries. Out: who is told about approvals, what became of
what they were to be told, and a new secret to sign it with. Secrets that are in use are not shown.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from db.approvals import webhooks
from db.approvals.webhooks import Delivery, Outbox, Webhook
from db.pool import Connection
from worker.approvals.webhook_signature import new_secret
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.output import Column, emit, emit_json, emit_table, say, styled
from worker.cli.times import ago
from worker.settings import Settings, load_settings

PENDING_SECONDS_MAX = 300.0


def add(url: str, *, events: Sequence[str], team: str | None, as_json: bool) -> None:
    from worker.approvals.webhooks import check_url

    settings = load_settings()
    team_id = None if team is None else ids.whole_id(team, "team")
    check_url(url, settings.webhook_hosts)

    async def work(conn: Connection) -> Webhook:
        return await webhooks.add(conn, url, events=events or webhooks.EVENTS, team_id=team_id)

    added = run_in_database(settings, work)
    if as_json:
        emit_json(added)
        return
    say(f"webhook {added.id} is told of {', '.join(added.events)}")
    if settings.webhook_secret is None:
        say(
            "nothing is sent until the workers have JOBSWORTH_WEBHOOK_SECRET to sign it with; "
            "make one: jobsworth webhook secret"
        )


def list_webhooks(*, as_json: bool) -> None:
    found = run_in_database(load_settings(), webhooks.list_webhooks)
    if as_json:
        emit_json(found)
        return
    columns = [
        Column("ID"),
        Column("STATE"),
        Column("URL", flexible=True),
        Column("EVENTS", flexible=True),
        Column("TEAM"),
    ]
    rows = [
        [
            str(each.id),
            styled("active" if each.active else "off"),
            each.url,
            ", ".join(each.events),
            str(each.team_id or "all"),
        ]
        for each in found
    ]
    emit_table(columns, rows, "nobody is told about approvals")


def remove(webhook: str, *, as_json: bool) -> None:
    webhook_id = ids.whole_id(webhook, "webhook")

    async def work(conn: Connection) -> None:
        await webhooks.remove(conn, webhook_id)

    run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": webhook_id, "removed": True})
    else:
        say(f"webhook {webhook_id} is told no more")


def deliveries(*, dead_only: bool, limit: int, as_json: bool) -> None:
    async def work(conn: Connection) -> list[Delivery]:
        return await webhooks.deliveries(conn, limit, dead_only=dead_only)

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    columns = [
        Column("ID"),
        Column("STATE"),
        Column("EVENT"),
        Column("APPROVAL"),
        Column("MADE", right=True),
        Column("TRIES", right=True),
        Column("LAST ERROR", flexible=True),
    ]
    rows = [
        [
            str(each.id),
            styled(each.state),
            each.event,
            str(each.approval_id),
            ago(each.created_at, now),
            str(each.tries),
            each.last_error or "",
        ]
        for each in found
    ]
    emit_table(columns, rows, "nothing was given up" if dead_only else "nothing was to be told")
    if any(each.state == "dead" for each in found):
        say("try what was given up again: jobsworth webhook retry")


def retry(delivery: str | None, *, as_json: bool) -> None:
    delivery_id = None if delivery is None else ids.whole_id(delivery, "delivery")

    async def work(conn: Connection) -> int:
        return await webhooks.retry(conn, delivery_id)

    tried = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"retried": tried})
    else:
        say(f"{tried} to be tried again" if tried else "nothing was given up")


def secret(*, as_json: bool) -> None:
    made = new_secret()
    if as_json:
        emit_json({"secret": made})
        return
    emit(made)
    say("set it as JOBSWORTH_WEBHOOK_SECRET, of the workers and of whoever listens")
    say("if there is one already: set NEW,OLD for the workers, then NEW for whoever listens,")
    say("then NEW for the workers; everything sent meanwhile is signed with both")


async def problem(conn: Connection, settings: Settings) -> tuple[str, str] | None:
    """What `jobsworth doctor` has to say about webhooks: the finding and its remedy."""
    return _problem(
        await webhooks.outbox(conn),
        can_send=settings.webhook_secret is not None and bool(settings.webhook_hosts),
    )


def _problem(outbox: Outbox, *, can_send: bool) -> tuple[str, str] | None:
    if outbox.dead:
        return (
            f"{outbox.dead:,} deliveries were given up",
            "see why: jobsworth webhook deliveries --dead; then: jobsworth webhook retry",
        )
    if outbox.pending and not can_send:
        return (
            f"{outbox.pending:,} deliveries wait, and these settings send none",
            "set JOBSWORTH_WEBHOOK_SECRET and JOBSWORTH_WEBHOOK_HOSTS, for the workers too",
        )
    if (outbox.oldest_seconds or 0) > PENDING_SECONDS_MAX:
        return (
            f"{outbox.pending:,} deliveries wait, some for more than five minutes",
            "see why: jobsworth webhook deliveries; and that a worker runs",
        )
    return None
