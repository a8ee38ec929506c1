"""`jobsworth delivery`: what webhooks were sent, or are still to be sent.

In: ids. Out: deliveries; those that were given up are tried again.
"""

from datetime import UTC, datetime

import click

from db.approvals import webhooks
from db.approvals.webhooks import Delivery
from db.pool import Connection
from worker.cli.terminal import ids, names, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit_json, emit_table, say, styled
from worker.cli.terminal.times import ago

# Ids of older deliveries are given whole.
FOUND_AMONG = 1000

delivery = Noun("delivery", "Deliveries: what webhooks are sent.")


@delivery.verb("list", "jobsworth delivery --dead")
@click.option("--dead", is_flag=True, help="Only deliveries that were given up.")
@options.limit(30)
@options.as_json
def list_deliveries(dead: bool, limit: int, as_json: bool) -> None:
    """List deliveries, newest first."""

    async def work(conn: Connection) -> list[Delivery]:
        return await webhooks.deliveries(conn, limit, dead_only=dead)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    short = ids.short_ids(each.id for each in found)
    short_approval = ids.short_ids(each.approval_id for each in found)
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
            short(each.id),
            styled(each.state),
            each.event,
            short_approval(each.approval_id),
            ago(each.created_at, now),
            str(each.tries),
            each.last_error or "",
        ]
        for each in found
    ]
    emit_table(columns, rows, "no delivery was given up" if dead else "no deliveries yet")
    if any(each.state == "dead" for each in found):
        say("to try again those that were given up: jobsworth delivery retry")


@delivery.verb("retry", "jobsworth delivery retry", "jobsworth delivery retry 0123456789ab")
@click.argument(
    "delivery",
    metavar="[ID]",
    required=False,
    shell_complete=names.dead_deliveries,
    help="Only this delivery; by default all that were given up.",
)
@options.as_json
def retry(delivery: str | None, as_json: bool) -> None:
    """Try deliveries again that were given up."""
    typed = None if delivery is None else ids.typed(delivery, "delivery")

    async def work(conn: Connection) -> int:
        if typed is None:
            return await webhooks.retry(conn)
        if len(typed.digits) == ids.UUID_DIGITS:
            return await webhooks.retry(conn, typed.lowest)
        recent = await webhooks.deliveries(conn, FOUND_AMONG, dead_only=True)
        known = [each.id for each in recent]
        found = ids.find_among(typed, known, "jobsworth delivery list --dead")
        return await webhooks.retry(conn, found)

    tried = run_in_database(work)
    if as_json:
        emit_json({"retried": tried})
    else:
        say(f"{tried} will be tried again" if tried else "no delivery was given up")
