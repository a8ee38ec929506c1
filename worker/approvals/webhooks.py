"""Webhooks: tells other programs what happens to approvals.

In: deliveries of the outbox that are due. Out: signed POST requests, and their results.

Invariants: no connection to the database is held while the network is used; a delivery whose result
was not recorded is sent again, under the same `webhook-id`; no request goes to an address that is
not allowed, and no redirect is followed. After a Retry-After the pause is that long, at most
`PAUSE_SECONDS_MAX`.

A trigger, not a caller, fills the outbox, so every way in which an approval can change is told in
its own transaction. A delivery is taken by moving its next try to the end of a lease, sent while
nothing is held, and marked under the number of the try.
"""

import ipaddress
import time
from collections.abc import Collection
from functools import partial
from random import random
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import anyio
import orjson

from db.approvals import webhooks
from db.approvals.webhooks import DueDelivery
from db.errors import InvalidInput, JobsworthError
from db.masking import mask
from db.pool import Database
from worker import events
from worker.approvals.webhook_signature import signature
from worker.log import get_logger
from worker.retry_after import retry_after_seconds

if TYPE_CHECKING:
    import httpx

BATCH = 20
POLL_SECONDS = 1.0
SEND_SECONDS = 10.0
# A whole batch is sent at once; after this, deliveries without a recorded result are due again.
LEASE_SECONDS = 60.0
TRIES_MAX = 12
PAUSE_SECONDS = 5.0
PAUSE_SECONDS_MAX = 6 * 3600.0
KEEP_DAYS = 30.0
PRUNE_BATCH = 1000
PRUNE_PERIOD_SECONDS = 600.0
ERROR_CHARACTERS_MAX = 300
DEFAULT_PORTS = {"https": 443, "http": 80}
GONE = 410

log = get_logger()


async def run(database: Database, *, secret: str, hosts: Collection[str]) -> None:
    """Deliver what is due, until cancelled."""
    # Only where webhooks are used: httpx takes 9 MB of a worker's memory.
    import httpx

    pruned_at = 0.0
    # No proxies and no passwords from the environment: only allowed hosts are reached.
    async with httpx.AsyncClient(
        timeout=SEND_SECONDS, follow_redirects=False, trust_env=False
    ) as client:
        while True:
            taken = 0
            try:
                taken = await deliver(database, client, secret=secret, hosts=hosts)
                if time.monotonic() - pruned_at > PRUNE_PERIOD_SECONDS:
                    pruned_at = time.monotonic()
                    async with database.connection() as connection:
                        await webhooks.prune(connection, KEEP_DAYS, PRUNE_BATCH)
            except JobsworthError as error:
                log.warning(events.UPKEEP_FAILED, part="webhooks", error=str(error))
            if taken < BATCH:
                await anyio.sleep(POLL_SECONDS * (0.8 + 0.4 * random()))


async def deliver(
    database: Database, client: "httpx.AsyncClient", *, secret: str, hosts: Collection[str]
) -> int:
    """Take one batch, send it, and record each result; returns the size of the batch."""
    async with database.connection() as connection:
        batch = await webhooks.take(connection, BATCH, LEASE_SECONDS)
    async with anyio.create_task_group() as tasks:
        for due in batch:
            tasks.start_soon(partial(_deliver, database, client, due, secret=secret, hosts=hosts))
    return len(batch)


def check_url(url: str, hosts: Collection[str]) -> None:
    """Raise `InvalidInput` unless a webhook may be sent to this address.

    Its host must be among `hosts`, with its port where one is named there; http is only allowed for
    this machine.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise InvalidInput(f"{url!r} is not a URL: {error}", "like https://host/path") from error
    if parts.scheme not in ("https", "http") or not host:
        raise InvalidInput(f"{url!r} is not a web address", "like https://host/path")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(
            "a webhook's address must not contain a user or a password",
            "check the signature of the requests instead",
        )
    written = f"[{host}]" if ":" in host else host
    with_port = f"{written}:{DEFAULT_PORTS[parts.scheme] if port is None else port}"
    if {host, written, with_port}.isdisjoint(each.lower() for each in hosts):
        raise InvalidInput(
            f"{with_port} is not among the hosts that webhooks may reach",
            "add it to JOBSWORTH_WEBHOOK_HOSTS, of the workers too",
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise InvalidInput(f"{url!r} is not encrypted", "use https; http is for this machine only")


class _Answer(NamedTuple):
    """The result of a request: its status, and the error unless it was accepted.

    `final` means that no further try can succeed; `wait_seconds` is the pause that was asked for.
    """

    status: int | None = None
    error: str | None = None
    final: bool = False
    wait_seconds: float = 0.0


async def _deliver(
    database: Database,
    client: "httpx.AsyncClient",
    due: DueDelivery,
    *,
    secret: str,
    hosts: Collection[str],
) -> None:
    status, error, final, wait = await _send(client, due, secret, hosts)
    pause = None if final or due.tries >= TRIES_MAX else max(wait, _pause_seconds(due.tries))
    try:
        async with database.connection() as connection:
            if error is None:
                await webhooks.delivered(connection, due.id, status or 0)
            else:
                await webhooks.failed(connection, due, error, status=status, pause_seconds=pause)
    except JobsworthError as unmarked:
        # It is sent again after its lease.
        log.warning(events.UPKEEP_FAILED, part="webhooks", error=str(unmarked))
    if error is None:
        log.debug(events.WEBHOOK_DELIVERED, delivery_id=str(due.id), tells=due.event)
        return
    event = events.WEBHOOK_FAILED if pause is not None else events.WEBHOOK_ABANDONED
    facts = {"delivery_id": str(due.id), "tells": due.event, "tries": due.tries}
    log.warning(event, **facts, status=status, error=error)


async def _send(
    client: "httpx.AsyncClient", due: DueDelivery, secret: str, hosts: Collection[str]
) -> _Answer:
    import httpx

    if due.url is None:
        return _Answer(error="its webhook is no longer active", final=True)
    try:
        check_url(due.url, hosts)
    except InvalidInput as refused:
        return _Answer(error=refused.message, final=True)
    body = orjson.dumps(due.payload)
    timestamp = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "jobsworth",
        "webhook-id": str(due.id),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, due.id, timestamp, body),
    }
    try:
        # httpx bounds each read only: a host that answers in drips would never end. The answer's
        # body is not read.
        with anyio.fail_after(SEND_SECONDS):
            async with client.stream("POST", due.url, content=body, headers=headers) as response:
                status = response.status_code
                wait = retry_after_seconds(response.headers, PAUSE_SECONDS_MAX) or 0.0
    except (httpx.TimeoutException, TimeoutError):
        return _Answer(error=f"no answer within {SEND_SECONDS:g} s")
    except Exception as error:
        # No answer, however strange, may end the daemon.
        return _Answer(error=mask(str(error) or type(error).__name__)[:ERROR_CHARACTERS_MAX])
    if 200 <= status < 300:
        return _Answer(status)
    if 300 <= status < 400:
        return _Answer(status, f"answered {status}: redirects are not followed")
    return _Answer(status, f"answered {status}", status == GONE, wait)


def _pause_seconds(tries: int) -> float:
    return min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * 3.0 ** (tries - 1)) * (0.8 + 0.4 * random())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
