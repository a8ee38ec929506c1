"""`jobsworth doctor`: is everything as it should be, and if not, what to do.

In: the environment and whatever database it names, reachable or not. Out: one finding per check,
each with its remedy; the exit code is 1 if there is a problem. Invariant: a check that cannot be
made is a finding, never an end: the ones after it are made all the same.
"""

import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from db.deployments import environments
from db.diagnosis import checkup, violations
from db.diagnosis.checkup import Server
from db.errors import JobsworthError
from db.memory import memories
from db.migrate import COMMAND, check
from db.money import books
from db.pool import Connection
from db.queue import workers
from worker.cli import webhooks
from worker.cli.books import REMEDY
from worker.cli.database import (
    connection_to,
    database_url,
    run_async,
    schema_mismatch,
    shown_url,
)
from worker.cli.exit_codes import ExitCode
from worker.cli.models import check_model
from worker.cli.output import clean, emit, emit_facts, emit_json, styled
from worker.cli.spool import check_spool
from worker.cli.status import worker_state
from worker.cli.times import span
from worker.deployments.pipeline import load_environments
from worker.deployments.pipeline.drift import find_drift
from worker.handlers import shadowing_files
from worker.settings import (
    PREFIX,
    Settings,
    SettingsError,
    load_settings,
    load_settings_despite_unknown_names,
    settings_reference,
)

SERVER_MAJOR_MIN = 16
PGVECTOR_MIN = (0, 8, 4)
TRANSACTION_SECONDS_MAX = 300.0
SKEW_SECONDS_MAX = 2.0
OUTBOX_SECONDS_MAX = 300.0
VIOLATIONS_SECONDS = 20.0
SHOWN_MAX = 10

Mark = Literal["ok", "warning", "problem"]
SIGNS: dict[Mark, str] = {"ok": "✓", "warning": "!", "problem": "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    mark: Mark
    subject: str
    text: str
    remedy: str = ""


NOT_EXAMINED = Finding("warning", "database", "not looked at: the settings cannot be used")


def examine(*, as_json: bool) -> ExitCode:
    """Make every check and say what was found."""
    findings, settings = check_settings()
    findings += check_surroundings(settings)
    if settings is not None:
        findings += run_async(lambda: check_database(settings))
    else:
        findings.append(NOT_EXAMINED)
    healthy = all(finding.mark != "problem" for finding in findings)
    if as_json:
        emit_json({"ok": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        _emit(findings)
    return ExitCode.OK if healthy else ExitCode.NO


def show_settings(*, as_json: bool) -> None:
    """The reference of all settings."""
    reference = settings_reference()
    if as_json:
        emit_json([setting._asdict() for setting in reference])
        return
    for setting in reference:
        emit(Text(setting.env_name, style="bold"))
        emit_facts(
            [("", setting.description), ("", f"{setting.type}; default: {setting.default}")],
            indent="  ",
        )


def check_settings() -> tuple[list[Finding], Settings | None]:
    """What is wrong with the settings, and those that can be used all the same."""
    try:
        settings = load_settings()
    except SettingsError as error:
        problems = [
            Finding(
                "problem",
                "settings",
                f"{_subject(each.name, each.value)}: {each.reason}",
                each.remedy,
            )
            for each in error.problems
        ]
        return problems, load_settings_despite_unknown_names()
    given = sum(1 for name in os.environ if name.upper().startswith(PREFIX))
    return [Finding("ok", "settings", f"{given} in the environment, all known")], settings


def check_surroundings(settings: Settings | None) -> list[Finding]:
    """The working directory, the model, the spool, and the deploy.toml."""
    findings = [
        Finding(
            "warning",
            "directory",
            f"{path} has the name of a package of Jobsworth: your handlers cannot import it",
            "rename it",
        )
        for path in shadowing_files(Path.cwd())
    ]
    if settings is not None:
        findings.append(Finding(*check_model(settings)))
        findings += [Finding(*said) for said in check_spool(settings)]
    if settings is not None and settings.deploy_file is not None:
        try:
            names = ", ".join(load_environments(settings.deploy_file))
            findings.append(Finding("ok", "deploy.toml", f"environments: {names}"))
        except JobsworthError as error:
            findings.append(_problem("deploy.toml", error))
    return findings


async def check_database(settings: Settings) -> list[Finding]:
    """The server, the schema, and what is stored there."""
    findings: list[Finding] = []
    try:
        async with _connection(settings) as (conn, url):
            server = await checkup.server(conn)
            findings += judge_server(server, url, embedded=settings.database_url is None)
            findings.append(await _oldest_transaction(conn))
            schema = await _schema(conn, settings)
            findings.append(schema)
            if schema.mark == "ok":
                findings += await _installation(conn, settings)
    except JobsworthError as error:
        findings.append(_problem("database", error))
    return findings


def judge_server(server: Server, url: str, *, embedded: bool) -> list[Finding]:
    """Whether Jobsworth can work with this server."""
    address = "embedded" if embedded else shown_url(url)
    connection = Finding("ok", "database", f"{address}, as {server.role}")
    return [connection, _version(server), _pgvector(server, embedded=embedded), _clock(server)]


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncGenerator[tuple[Connection, str]]:
    async with database_url(settings) as url, connection_to(url, settings) as conn:
        yield conn, url


def _version(server: Server) -> Finding:
    text = f"PostgreSQL {server.version}"
    if server.version_number < SERVER_MAJOR_MIN * 10_000:
        return Finding(
            "problem",
            "server",
            f"{text} is older than {SERVER_MAJOR_MIN}",
            f"upgrade it to {SERVER_MAJOR_MIN} or newer",
        )
    return Finding("ok", "server", text)


def _pgvector(server: Server, *, embedded: bool) -> Finding:
    if server.pgvector is None and server.pgvector_available is None:
        return Finding(
            "problem",
            "pgvector",
            "the server does not have the extension vector (pgvector)",
            "install pgvector 0.8.4 or newer there",
        )
    if server.pgvector is None:
        return Finding(
            "warning" if embedded else "problem",
            "pgvector",
            "the extension vector is not created in this database",
            f"run: {COMMAND}",
        )
    if _numbers(server.pgvector) < PGVECTOR_MIN:
        return Finding(
            "warning",
            "pgvector",
            f"{server.pgvector}; before 0.8.4, vacuum can corrupt its HNSW indexes",
            "install a newer one on the server, then run: alter extension vector update",
        )
    return Finding("ok", "pgvector", server.pgvector)


def _clock(server: Server) -> Finding:
    skew = (datetime.now(UTC) - server.clock).total_seconds()
    if abs(skew) > SKEW_SECONDS_MAX:
        return Finding(
            "warning",
            "clock",
            f"this machine is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the server",
            "synchronise both (NTP); jobs run by the server's clock",
        )
    return Finding("ok", "clock", "this machine and the server agree")


async def _oldest_transaction(conn: Connection) -> Finding:
    oldest = await checkup.oldest_transaction(conn)
    if oldest is None:
        return Finding("ok", "snapshots", "no transaction is open")
    text = f"the oldest transaction is open for {span(oldest.seconds)}"
    if oldest.seconds <= TRANSACTION_SECONDS_MAX:
        return Finding("ok", "snapshots", text)
    name = oldest.application_name or "an unnamed program"
    if oldest.pid is None:
        return Finding(
            "warning",
            "snapshots",
            f"{text} ({name}): vacuum cannot remove what died since",
            "commit it or roll it back: commit prepared …",
        )
    return Finding(
        "warning",
        "snapshots",
        f"{text} (process {oldest.pid}, {name}, {oldest.state}): "
        "vacuum cannot remove what died since",
        f"end it: select pg_terminate_backend({oldest.pid})",
    )


async def _schema(conn: Connection, settings: Settings) -> Finding:
    state = await check(conn, settings.schema_name)
    if state.state == "ok":
        return Finding("ok", "schema", f"{settings.schema_name}, revision {state.revision}")
    mismatch = schema_mismatch(state)
    if settings.database_url is None and state.state != "newer":
        return Finding(
            "warning", "schema", f"{mismatch.message} (the first command does)", mismatch.remedy
        )
    return Finding("problem", "schema", mismatch.message, mismatch.remedy)


async def _installation(conn: Connection, settings: Settings) -> list[Finding]:
    checks: dict[str, Callable[[], Awaitable[list[Finding]]]] = {
        "writes": lambda: _writes(conn),
        "workers": lambda: _workers(conn, settings.rescue_seconds),
        "modes": lambda: _modes(conn, settings.rescue_seconds),
        "violations": lambda: _violations(conn),
        "books": lambda: _books(conn),
        "memory": lambda: _memory(conn),
        "webhooks": lambda: _webhooks(conn, settings),
        "environments": lambda: _environments(conn, settings.releases_dir),
    }
    findings: list[Finding] = []
    for subject, make in checks.items():
        try:
            findings += await make()
        except JobsworthError as error:
            findings.append(_problem(subject, error))
    return findings


async def _writes(conn: Connection) -> list[Finding]:
    await checkup.try_write(conn)
    return [Finding("ok", "writes", "the server takes them from this role")]


async def _environments(conn: Connection, releases_dir: Path) -> list[Finding]:
    states = await environments.list_states(conn)
    drift = find_drift(states, releases_dir, socket.gethostname())
    return [
        Finding("warning", name, difference, "look what runs there; then deploy, or roll back")
        for name, difference in drift.items()
    ]


async def _workers(conn: Connection, rescue_seconds: float) -> list[Finding]:
    found = await workers.list_workers(conn)
    silent = [each for each in found if worker_state(each, rescue_seconds) == "silent"]
    alive = len(found) - len(silent)
    findings = [
        Finding(
            "warning",
            "workers",
            f"{each.host}, process {each.pid}, has been silent for {span(each.beaten_seconds_ago)}",
            "see why it is gone; a living worker takes over its jobs and removes it",
        )
        for each in silent[:SHOWN_MAX]
    ]
    if alive:
        return [Finding("ok", "workers", f"{alive} alive"), *findings]
    return [
        Finding("warning", "workers", "none is alive", "start one: jobsworth worker"),
        *findings,
    ]


async def _modes(conn: Connection, rescue_seconds: float) -> list[Finding]:
    unknown = await checkup.unknown_modes(conn, rescue_seconds)
    if not unknown:
        return [Finding("ok", "modes", "a living worker knows the mode of every ready job")]
    return [
        Finding(
            "warning",
            "modes",
            f"{_count(each.jobs, 'job')} of mode {each.mode} could run, "
            "but no living worker knows that mode",
            "start a worker whose JOBSWORTH_HANDLERS define it, or cancel them",
        )
        for each in unknown[:SHOWN_MAX]
    ]


async def _violations(conn: Connection) -> list[Finding]:
    count = await violations.count(conn, VIOLATIONS_SECONDS)
    if count is None:
        text = f"could not be counted within {VIOLATIONS_SECONDS:g} s"
        remedy = "look when there is less to do: select * from jobsworth.violations"
        return [Finding("warning", "violations", text, remedy)]
    if count == 0:
        return [Finding("ok", "violations", "none")]
    return [
        Finding(
            "problem",
            "violations",
            f"{each.invariant}: {each.subject_id} ({each.detail})",
            "report it with the logs of that time: an invariant of Jobsworth is broken",
        )
        for each in await violations.list_violations(conn, SHOWN_MAX)
    ]


async def _books(conn: Connection) -> list[Finding]:
    found = await books.check(conn)
    if not found:
        return [Finding("ok", "books", "calls and ledger agree")]
    return [
        Finding(
            "problem",
            "books",
            f"{each.rule}: {each.subject} has {each.found}, expected {each.expected}",
            REMEDY,
        )
        for each in found[:SHOWN_MAX]
    ]


async def _memory(conn: Connection) -> list[Finding]:
    outbox = await memories.outbox(conn)
    if not outbox.pending:
        return [Finding("ok", "memory", "every text is embedded")]
    text = f"{outbox.pending:,} texts wait to be embedded, {outbox.failing:,} of them failed before"
    late = (outbox.oldest_seconds or 0) > OUTBOX_SECONDS_MAX
    if outbox.failing or late:
        remedy = (
            "see last_error in embedding_outbox, JOBSWORTH_EMBEDDER_URL, and that a worker runs"
        )
        return [Finding("warning", "memory", text, remedy)]
    return [Finding("ok", "memory", text)]


async def _webhooks(conn: Connection, settings: Settings) -> list[Finding]:
    found = await webhooks.problem(conn, settings)
    if found is None:
        return [Finding("ok", "webhooks", "everything was told")]
    return [Finding("warning", "webhooks", *found)]


def _problem(subject: str, error: JobsworthError) -> Finding:
    return Finding("problem", subject, error.message, error.remedy)


def _subject(name: str, value: str | None) -> str:
    return name if value is None else f"{name}={value}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _emit(findings: list[Finding]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(styled(SIGNS[finding.mark]), finding.subject, Text(clean(finding.text)))
        if finding.remedy and finding.mark != "ok":
            table.add_row("", "", Text(clean(f"→ {finding.remedy}")))
    emit(Padding(table, 0))
    problems = sum(finding.mark == "problem" for finding in findings)
    warnings = sum(finding.mark == "warning" for finding in findings)
    emit(f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}")


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
