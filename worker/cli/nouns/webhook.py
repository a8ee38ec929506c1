"""`jobsworth webhook`: addresses that are told about approvals.

In: addresses, and ids of webhooks. Out: webhooks; a new secret to sign deliveries with. A secret in
use is never shown.
"""

from uuid import UUID

import click

from db.approvals import webhooks
from db.approvals.webhooks import Webhook
from db.pool import Connection
from worker.approvals.webhook_signature import new_secret
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import (
    Column,
    emit_json,
    emit_table,
    emit_text,
    indented_json,
    say,
    styled,
)
from worker.settings import load_settings

webhook = Noun("webhook", "Webhooks: addresses that are told when approvals open and close.")


@webhook.verb("list", "jobsworth webhook")
@options.as_json
def list_webhooks(as_json: bool) -> None:
    """List the addresses that are told about approvals."""
    found = run_in_database(webhooks.list_webhooks)
    if as_json:
        emit_json(found)
        return
    columns = [
        Column("ID"),
        Column("STATE"),
        Column("URL", flexible=True),
        Column("EVENTS", flexible=True),
        Column("TEAM"),
        Column("DETAIL", flexible=True),
    ]
    short = ids.short_ids(each.id for each in found)
    rows = [
        [
            short(each.id),
            styled("active" if each.active else "off"),
            each.url,
            ", ".join(each.events),
            str(each.team_id or "all"),
            each.off_because or "",
        ]
        for each in found
    ]
    emit_table(columns, rows, "no webhooks yet\n  → jobsworth webhook add URL")


@webhook.verb(
    "add",
    "export JOBSWORTH_WEBHOOK_HOSTS=example.org  # for the workers too",
    "jobsworth webhook add https://example.org/hook",
)
@click.argument("url", metavar="URL", help="The address, like https://host/path.")
@options.choice(
    "--event",
    "events",
    metavar="EVENT",
    words=webhooks.EVENTS,
    multiple=True,
    help="Only this event; may be given several times",
)
@click.option("--team", metavar="UUID", help="Only approvals of this team.")
@options.as_json
def add(url: str, events: tuple[str, ...], team: str | None, as_json: bool) -> None:
    """Tell an address about approvals from now on."""
    from worker.approvals.webhooks import check_url

    settings = load_settings()
    team_id = None if team is None else ids.whole_id(team, "--team")
    check_url(url, settings.webhook_hosts)

    async def work(conn: Connection) -> Webhook:
        return await webhooks.add(conn, url, events=events or webhooks.EVENTS, team_id=team_id)

    added = run_in_database(work, settings)
    if as_json:
        emit_json(added)
        return
    say(f"webhook {added.id} is told of {', '.join(added.events)}")
    if settings.webhook_secret is None:
        say(
            "nothing is sent until the workers have JOBSWORTH_WEBHOOK_SECRET to sign it with\n"
            "  → make one: jobsworth webhook secret"
        )


@webhook.verb("remove", "jobsworth webhook remove 0123456789ab")
@options.webhook_id
@options.as_json
def remove(webhook: str, as_json: bool) -> None:
    """Stop telling an address."""
    typed = ids.typed(webhook, "webhook")

    async def work(conn: Connection) -> UUID:
        known = [each.id for each in await webhooks.list_webhooks(conn)]
        webhook_id = ids.find_among(typed, known, "jobsworth webhook list")
        await webhooks.remove(conn, webhook_id)
        return webhook_id

    webhook_id = run_in_database(work)
    if as_json:
        emit_json({"id": webhook_id, "removed": True})
    else:
        say(f"webhook {webhook_id} is removed")


@webhook.verb("secret", "jobsworth webhook secret")
@options.as_json
def secret(as_json: bool) -> None:
    """Make a new secret to sign deliveries with, and say how to change to it."""
    made = new_secret()
    if as_json:
        emit_text(indented_json({"secret": made}) + "\n")
        return
    emit_text(f"{made}\n")
    say("set it as JOBSWORTH_WEBHOOK_SECRET for the workers and for the receiver")
    say("to replace a secret: set NEW,OLD for the workers, then NEW for the receiver, then NEW for")
    say("the workers; meanwhile every delivery is signed with both")
