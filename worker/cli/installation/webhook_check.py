"""What `jobsworth doctor` says of webhooks.

In: the outbox and the settings. Out: one finding, a warning if deliveries are late or were given
up.
"""

from db.approvals import webhooks
from db.approvals.webhooks import Outbox
from db.pool import Connection
from worker.cli.installation.finding import Finding, ok, warning
from worker.settings import Settings

PENDING_SECONDS_MAX = 300.0


async def check_webhooks(conn: Connection, settings: Settings) -> list[Finding]:
    """Whether deliveries wait too long, or were given up."""
    can_send = settings.webhook_secret is not None and bool(settings.webhook_hosts)
    return [_judge(await webhooks.outbox(conn), can_send=can_send)]


def _judge(outbox: Outbox, *, can_send: bool) -> Finding:
    if outbox.dead:
        return warning(
            "webhooks",
            f"{outbox.dead:,} deliveries were given up",
            "see why: jobsworth delivery list --dead; then: jobsworth delivery retry",
        )
    if outbox.pending and not can_send:
        return warning(
            "webhooks",
            f"{outbox.pending:,} deliveries wait, and these settings send none",
            "set JOBSWORTH_WEBHOOK_SECRET and JOBSWORTH_WEBHOOK_HOSTS, for the workers too",
        )
    if (outbox.oldest_seconds or 0) > PENDING_SECONDS_MAX:
        return warning(
            "webhooks",
            f"{outbox.pending:,} deliveries wait, some for more than five minutes",
            "see why: jobsworth delivery list; and that a worker runs",
        )
    return ok("webhooks", "every delivery was sent or will be soon")
