"""What `jobsworth doctor` finds in the database: the server, the schema, and what is stored there.

In: settings. Out: findings. Invariant: a check that fails is a finding, and the next one is made.
"""

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from db.deployments import environments
from db.diagnosis import checkup, fitness, violations
from db.errors import JobsworthError
from db.memory import index_recall, outbox, spaces
from db.memory.index_recall import RECALL_MIN, IndexRecall, K
from db.memory.outbox import Outbox
from db.migrate import check
from db.money import books
from db.people import erasure
from db.pool import Connection
from db.queue import workers
from db.schedules import schedules
from worker.cli.installation.finding import SHOWN_MAX, Finding, failed, ok, problem, warning
from worker.cli.installation.server_checks import judge_server
from worker.cli.installation.webhook_check import check_webhooks
from worker.cli.terminal.database import connection_to, database_url, schema_mismatch
from worker.cli.terminal.times import span
from worker.cli.terminal.words import BOOKS_REMEDY, count, worker_state
from worker.deployments.pipeline.drift import find_drift
from worker.memory.choice import space_of
from worker.settings import Settings

TRANSACTION_SECONDS_MAX = 300.0
OUTBOX_SECONDS_MAX = 300.0
OUTBOX_REMEDY = "see that a worker runs, JOBSWORTH_EMBEDDER_URL, and jobsworth budget list"
VIOLATIONS_SECONDS = 20.0
# Heartbeat and LISTEN.
CONNECTIONS_BESIDE_THE_POOLS = 2


async def check_database(
    settings: Settings, *, transaction_seconds_max: float = TRANSACTION_SECONDS_MAX
) -> list[Finding]:
    """Check the server, the schema, and what is stored there."""
    findings: list[Finding] = []
    try:
        async with _connection(settings) as (conn, url):
            server = await checkup.server(conn)
            findings += judge_server(server, url, embedded=settings.database_url is None)
            findings += _unfit(await fitness.unfit_session(conn))
            findings += _pooler(conn, settings)
            findings.append(await _oldest_transaction(conn, transaction_seconds_max))
            schema = await _schema(conn, settings)
            findings.append(schema)
            if schema.mark == "ok":
                findings += await _installation(conn, settings)
    except JobsworthError as error:
        findings.append(failed("database", error))
    return findings


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncGenerator[tuple[Connection, str]]:
    async with database_url(settings) as url, connection_to(url, settings) as conn:
        yield conn, url


async def _oldest_transaction(conn: Connection, seconds_max: float) -> Finding:
    oldest = await checkup.oldest_transaction(conn)
    if oldest is None:
        return ok("snapshots", "no transaction is open")
    text = f"the oldest transaction has been open for {span(oldest.seconds)}"
    if oldest.seconds <= seconds_max:
        return ok("snapshots", text)
    name = oldest.application_name or "an unnamed program"
    if oldest.pid is None:
        return warning(
            "snapshots",
            f"{text} ({name}): vacuum cannot remove rows deleted since",
            "commit it or roll it back: commit prepared …",
        )
    return warning(
        "snapshots",
        f"{text} (process {oldest.pid}, {name}, {oldest.state}): "
        "vacuum cannot remove rows deleted since",
        f"end it: select pg_terminate_backend({oldest.pid})",
    )


async def _schema(conn: Connection, settings: Settings) -> Finding:
    state = await check(conn, settings.schema_name)
    if state.state == "ok":
        return ok("schema", f"{settings.schema_name}, revision {state.revision}")
    mismatch = schema_mismatch(state)
    if settings.database_url is None and state.state != "newer":
        return warning(
            "schema", f"{mismatch.message} (the first command creates it)", mismatch.remedy
        )
    return problem("schema", mismatch.message, mismatch.remedy)


async def _installation(conn: Connection, settings: Settings) -> list[Finding]:
    checks: dict[str, Callable[[], Awaitable[list[Finding]]]] = {
        "rights": lambda: _rights(conn),
        "writes": lambda: _writes(conn),
        "connections": lambda: _connections(conn, settings),
        "workers": lambda: _workers(conn, settings.rescue_seconds),
        "modes": lambda: _modes(conn, settings.rescue_seconds),
        "violations": lambda: _violations(conn),
        "books": lambda: _books(conn),
        "schedules": lambda: _schedules(conn),
        "memory": lambda: _memory(conn, settings),
        "erasures": lambda: _erasures(conn),
        "webhooks": lambda: check_webhooks(conn, settings),
        "environments": lambda: _environments(conn, settings.releases_dir),
    }
    findings: list[Finding] = []
    for subject, make in checks.items():
        try:
            findings += await make()
        except JobsworthError as error:
            findings.append(failed(subject, error))
    return findings


def _unfit(found: list[fitness.Unfit]) -> list[Finding]:
    return [problem(each.subject, each.text, each.remedy) for each in found]


def _pooler(conn: Connection, settings: Settings) -> list[Finding]:
    if not conn.pooled:
        return []
    text = "a pooler is in between; nothing is prepared"
    if settings.listen_url is None:
        return [
            warning(
                "pooler",
                f"{text}, and idle workers find new jobs by polling only",
                "set JOBSWORTH_LISTEN_URL to the server itself",
            )
        ]
    return [ok("pooler", text)]


async def _rights(conn: Connection) -> list[Finding]:
    missing = await fitness.missing_rights(conn)
    return _unfit(missing) if missing else [ok("rights", "this role has every right it needs")]


async def _connections(conn: Connection, settings: Settings) -> list[Finding]:
    """Whether the pools of all workers fit, if they are set as this process is."""
    if conn.pooled:
        return []
    room = await checkup.connection_room(conn)
    alive = [
        each
        for each in await workers.list_workers(conn)
        if worker_state(each, settings.rescue_seconds) != "silent"
    ]
    pools = max(1, len(alive))
    a_worker = settings.pool_max + settings.handler_pool_max + CONNECTIONS_BESIDE_THE_POOLS
    needed = pools * a_worker
    if needed <= room.for_us:
        return [ok("connections", f"{needed} of {room.for_us} for {count(pools, 'worker')}")]
    return [
        warning(
            "connections",
            f"{count(pools, 'worker')} may open {needed} connections, and there is room for "
            f"{room.for_us} (the limit is {room.limit}, others hold {room.others})",
            "lower JOBSWORTH_POOL_MAX or JOBSWORTH_HANDLER_POOL_MAX, raise max_connections, or put "
            "PgBouncer in between",
        )
    ]


async def _writes(conn: Connection) -> list[Finding]:
    await checkup.try_write(conn)
    return [ok("writes", "this role may write")]


async def _environments(conn: Connection, releases_dir: Path) -> list[Finding]:
    states = await environments.list_states(conn)
    drift = find_drift(states, releases_dir, socket.gethostname())
    return [
        warning(name, difference, "see what runs there; then deploy, or roll back")
        for name, difference in drift.items()
    ]


async def _workers(conn: Connection, rescue_seconds: float) -> list[Finding]:
    found = await workers.list_workers(conn)
    silent = [each for each in found if worker_state(each, rescue_seconds) == "silent"]
    alive = len(found) - len(silent)
    findings = [
        warning(
            "workers",
            f"{each.host}, process {each.pid}, has been silent for {span(each.beaten_seconds_ago)}",
            "find out why; a living worker takes over its jobs and removes it",
        )
        for each in silent[:SHOWN_MAX]
    ]
    if alive:
        return [ok("workers", f"{alive} alive"), *findings]
    return [
        warning("workers", "no worker is alive", "start one: jobsworth worker"),
        *findings,
    ]


async def _modes(conn: Connection, rescue_seconds: float) -> list[Finding]:
    unknown = await checkup.unknown_modes(conn, rescue_seconds)
    if not unknown:
        return [ok("modes", "every ready job has a living worker that knows its mode")]
    return [
        warning(
            "modes",
            f"{count(each.jobs, 'job')} of mode {each.mode} could run, "
            "but no living worker knows that mode",
            "start a worker whose JOBSWORTH_HANDLERS define it, or cancel them",
        )
        for each in unknown[:SHOWN_MAX]
    ]


async def _schedules(conn: Connection) -> list[Finding]:
    found = await schedules.list_all(conn)
    if not found:
        return []
    wrong = [each for each in found if each.problem is not None]
    if not wrong:
        return [ok("schedules", f"{count(len(found), 'schedule')}, and each can fire")]
    return [
        problem(
            "schedules",
            f"schedule {each.name} does not fire: {each.problem}",
            f"correct it: jobsworth schedule add {each.name} … --replace",
        )
        for each in wrong[:SHOWN_MAX]
    ]


async def _violations(conn: Connection) -> list[Finding]:
    count = await violations.count(conn, VIOLATIONS_SECONDS)
    if count is None:
        text = f"could not be counted within {VIOLATIONS_SECONDS:g} s"
        remedy = "try when the system is less busy: select * from jobsworth.violations"
        return [warning("violations", text, remedy)]
    if count == 0:
        return [ok("violations", "none")]
    return [
        problem(
            "violations",
            f"{each.invariant}: {each.subject_id or each.detail}"
            + (f" ({each.detail})" if each.subject_id else ""),
            "report it with the logs of that time: an invariant of Jobsworth is broken",
        )
        for each in await violations.list_violations(conn, SHOWN_MAX)
    ]


async def _books(conn: Connection) -> list[Finding]:
    found = await books.check(conn)
    if not found:
        return [ok("books", "calls and ledger agree")]
    return [
        problem(
            "books",
            f"{each.rule}: {each.subject} has {each.found}, expected {each.expected}",
            BOOKS_REMEDY,
        )
        for each in found[:SHOWN_MAX]
    ]


async def _memory(conn: Connection, settings: Settings) -> list[Finding]:
    waiting = await outbox.counts(conn)
    hidden = await spaces.hidden(conn, space_of(settings))
    # Each query compares all vectors: more than one only if that one was answered badly.
    recalls = await index_recall.sample(conn, queries=1)
    if any(judge_recall(one) for one in recalls):
        recalls = await index_recall.sample(conn)
    return [
        *_outbox(waiting),
        *_dead(waiting),
        *_switching(waiting),
        *(warning("memory", str(one), spaces.HIDDEN_REMEDY) for one in hidden),
        *(judged for one in recalls if (judged := judge_recall(one))),
    ]


async def _erasures(conn: Connection) -> list[Finding]:
    """What is looked for stays in the database until its proof has been seen."""
    return [warning("erasures", one.message, one.remedy) for one in await erasure.unproven(conn)]


def judge_recall(one: IndexRecall) -> Finding | None:
    """A warning about an index that misses too much of what exact search finds."""
    if one.recall >= RECALL_MIN:
        return None
    text = f"the index of space {one.space_id} finds {one.recall:.0%} of the {K} nearest memories"
    statement = f"reindex index concurrently jobsworth.{one.index_name}"
    return warning("memory", text, f"make it anew: jobsworth psql -c '{statement}'")


def _dead(waiting: Outbox) -> list[Finding]:
    if not waiting.dead:
        return []
    text = f"{waiting.dead:,} texts were refused by the embedder too often and cannot be found"
    return [warning("memory", text, "jobsworth memory dead, then jobsworth memory retry")]


def _switching(waiting: Outbox) -> list[Finding]:
    if not waiting.switching:
        return []
    text = f"{waiting.switching:,} texts wait for the embedder that is switched to"
    return [warning("memory", text, "go on with that: jobsworth memory switch (or --stop it)")]


def _outbox(outbox: Outbox) -> list[Finding]:
    if not outbox.pending:
        return [ok("memory", "every text is embedded")]
    text = f"{outbox.pending:,} texts wait to be embedded, {outbox.failing:,} of them were put off"
    late = (outbox.oldest_seconds or 0) > OUTBOX_SECONDS_MAX
    if outbox.failing or late:
        reason = f": {outbox.reason}" if outbox.reason else ""
        return [warning("memory", f"{text}{reason}", OUTBOX_REMEDY)]
    return [ok("memory", text)]
