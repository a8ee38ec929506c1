"""Webhooks: tells other programs what happens to approvals.

In: deliveries of the outbox that are due. Out: signed POST requests, and their results.

Invariants: no connection to the database is held while the network is used; a delivery whose result
was not recorded is sent again, under the same `webhook-id`; no request goes to an address that is
not allowed, and no redirect is followed. After a Retry-After the pause is that long, at most
`PAUSE_SECONDS_MAX`. A receiver that answers 410 (Gone) is switched off, as Standard Webhooks says.

A trigger, not a caller, fills the outbox, so every way in which an approval can change is told in
its own transaction. Each receiver has places of its own, and one that does not answer rests as a
whole: 700 deliveries to a dead one had delayed a healthy one by 335 s. A delivery is taken by
moving its next try to the end of a lease, sent while nothing is held, and marked under the number
of the try.
"""

import ipaddress
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from random import random
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import anyio
import orjson

from db.approvals import webhooks
from db.approvals.webhooks import DueDelivery
from db.errors import InvalidInput, JobsworthError
from db.pool import Database
from worker import events
from worker.approvals.webhook_signature import signature
from worker.log import get_logger
from worker.masking import mask
from worker.retry_after import retry_after_seconds

if TYPE_CHECKING:
    import httpx

# Requests that one receiver is sent at once.
PLACES = 5
POLL_SECONDS = 1.0
SEND_SECONDS = 10.0
# After this, deliveries without a recorded result are due again.
LEASE_SECONDS = 60.0
TRIES_MAX = 12
PAUSE_SECONDS = 5.0
PAUSE_SECONDS_MAX = 6 * 3600.0
# A receiver that does not answer is asked again this long after, by one delivery.
RECEIVER_PAUSE_SECONDS_MAX = 300.0
KEEP_DAYS = 30.0
PRUNE_BATCH = 1000
PRUNE_PERIOD_SECONDS = 600.0
ERROR_CHARACTERS_MAX = 300
DEFAULT_PORTS = {"https": 443, "http": 80}
GONE = 410
TOO_MANY = 429

log = get_logger()


async def run(database: Database, *, secret: str, hosts: Collection[str]) -> None:
    """Deliver what is due, until cancelled."""
    # Only where webhooks are used: httpx takes 9 MB of a worker's memory.
    import httpx

    pruned_at = 0.0
    # No proxies and no passwords from the environment: only allowed hosts are reached.
    async with (
        httpx.AsyncClient(timeout=SEND_SECONDS, follow_redirects=False, trust_env=False) as client,
        anyio.create_task_group() as sending,
    ):
        receivers = Receivers()
        while True:
            freed = receivers.freed = anyio.Event()
            try:
                for due in await receivers.take(database):
                    sending.start_soon(
                        partial(receivers.send, database, client, due, secret=secret, hosts=hosts)
                    )
                if monotonic() - pruned_at > PRUNE_PERIOD_SECONDS:
                    pruned_at = monotonic()
                    async with database.connection() as connection:
                        await webhooks.prune(connection, KEEP_DAYS, PRUNE_BATCH)
            except JobsworthError as error:
                log.warning(events.UPKEEP_FAILED, part="webhooks", error=error)
            with anyio.move_on_after(POLL_SECONDS * (0.8 + 0.4 * random())):
                await freed.wait()


async def deliver(
    database: Database,
    client: "httpx.AsyncClient",
    *,
    secret: str,
    hosts: Collection[str],
    receivers: "Receivers | None" = None,
) -> int:
    """Take what may be sent now, send it, and record each result; returns how many were taken."""
    receivers = receivers or Receivers()
    batch = await receivers.take(database)
    async with anyio.create_task_group() as tasks:
        for due in batch:
            tasks.start_soon(
                partial(receivers.send, database, client, due, secret=secret, hosts=hosts)
            )
    return len(batch)


@dataclass(slots=True)
class _Receiver:
    """How many requests it is being sent, how often it failed in a row, and until when it rests."""

    sending: int = 0
    failures: int = 0
    rests_until: float = 0.0

    def places(self) -> int:
        if self.rests_until > monotonic():
            return 0
        return max(0, (1 if self.failures else PLACES) - self.sending)


class Receivers:
    """The addresses as this worker knows them: each has places of its own, a dead one rests."""

    def __init__(self) -> None:
        self.freed = anyio.Event()
        self._known: dict[UUID, _Receiver] = {}

    async def take(self, database: Database) -> list[DueDelivery]:
        """Take what is due and has a place; `send` must be called for each."""
        places = {webhook_id: one.places() for webhook_id, one in self._known.items()}
        async with database.connection() as connection:
            batch = await webhooks.take(connection, PLACES, LEASE_SECONDS, places)
        for due in batch:
            self._known.setdefault(due.webhook_id, _Receiver()).sending += 1
        return batch

    async def send(
        self,
        database: Database,
        client: "httpx.AsyncClient",
        due: DueDelivery,
        *,
        secret: str,
        hosts: Collection[str],
    ) -> None:
        """Send a delivery that was taken, and record its result."""
        receiver = self._known[due.webhook_id]
        try:
            answer = await _deliver(database, client, due, secret=secret, hosts=hosts)
        finally:
            receiver.sending -= 1
            self.freed.set()
        if not answer.away:
            receiver.failures, receiver.rests_until = 0, 0.0
            if not receiver.sending:
                del self._known[due.webhook_id]
        elif receiver.rests_until <= monotonic():
            # Those that were sent together and failed together count once.
            receiver.failures += 1
            pause = max(answer.wait_seconds, _pause_seconds(min(receiver.failures, TRIES_MAX)))
            receiver.rests_until = monotonic() + min(pause, RECEIVER_PAUSE_SECONDS_MAX)


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
    `away` means that the receiver as a whole does not work now, whatever it is sent.
    """

    status: int | None = None
    error: str | None = None
    final: bool = False
    wait_seconds: float = 0.0
    away: bool = False


async def _deliver(
    database: Database,
    client: "httpx.AsyncClient",
    due: DueDelivery,
    *,
    secret: str,
    hosts: Collection[str],
) -> _Answer:
    answer = await _send(client, due, secret, hosts)
    status, error, final, wait, _ = answer
    pause = None if final or due.tries >= TRIES_MAX else max(wait, _pause_seconds(due.tries))
    try:
        async with database.connection() as connection:
            if error is None:
                await webhooks.delivered(connection, due.id, status or 0)
            else:
                await webhooks.failed(connection, due, error, status=status, pause_seconds=pause)
            if status == GONE and await webhooks.switch_off(
                connection, due.webhook_id, "answered 410 (Gone)"
            ):
                log.warning(events.WEBHOOK_SWITCHED_OFF, webhook_id=str(due.webhook_id))
    except JobsworthError as unmarked:
        # It is sent again after its lease.
        log.warning(events.UPKEEP_FAILED, part="webhooks", error=unmarked)
    if error is None:
        log.debug(events.WEBHOOK_DELIVERED, delivery_id=str(due.id), tells=due.event)
        return answer
    event = events.WEBHOOK_FAILED if pause is not None else events.WEBHOOK_ABANDONED
    facts = {"delivery_id": str(due.id), "tells": due.event, "tries": due.tries}
    log.warning(event, **facts, status=status, error=error)
    return answer


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
        return _Answer(error=f"no answer within {SEND_SECONDS:g} s", away=True)
    except Exception as error:
        # No answer, however strange, may end the daemon.
        said = mask(str(error) or type(error).__name__)[:ERROR_CHARACTERS_MAX]
        return _Answer(error=said, away=True)
    if 200 <= status < 300:
        return _Answer(status)
    if 300 <= status < 400:
        return _Answer(status, f"answered {status}: redirects are not followed")
    away = status >= 500 or status == TOO_MANY
    return _Answer(status, f"answered {status}", status == GONE, wait, away)


def _pause_seconds(tries: int) -> float:
    return min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * 3.0 ** (tries - 1)) * (0.8 + 0.4 * random())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
