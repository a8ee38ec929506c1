"""`jobsworth runs`: pieces of agent work, each a graph of jobs.

In: filters, an id, or a file that declares a run. Out: runs; the id of a new one; a changed status.
One run whole is in `run_file`.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from rich.text import Text

from db.errors import Conflict, InvalidInput
from db.pool import Connection
from db.runs import runs
from db.runs.runs import Run, RunStarted, RunStatus, StartOptions
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.output import (
    Column,
    compact_json,
    emit,
    emit_json,
    emit_table,
    one_line,
    say,
    styled,
)
from worker.cli.times import age, parse_since, span
from worker.settings import load_settings

FILE_BYTES_MAX = 100_000_000

COLUMNS = [
    Column("ID"),
    Column("STATUS"),
    Column("AGE", right=True),
    Column("TOOK", right=True, optional=True),
    Column("ACTOR", flexible=True),
    Column("DETAIL", flexible=True),
]


def list_runs(
    *,
    status: str | None,
    actor: str | None,
    thread: str | None,
    agent: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    now = datetime.now(UTC)
    thread_id = None if thread is None else ids.whole_id(thread, "--thread")
    agent_id = None if agent is None else ids.whole_id(agent, "--agent")
    begin = None if since is None else parse_since(since, "--since", now)

    async def work(conn: Connection) -> list[Run]:
        return await runs.list_runs(
            conn,
            status=RunStatus(status) if status else None,
            actor=actor,
            thread_id=thread_id,
            agent_id=agent_id,
            since=begin,
            limit=limit,
        )

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json(found)
        return
    short = ids.short_ids(run.id for run in found)
    rows = [
        [
            short(run.id),
            status_words(run),
            age(run.created_at, now),
            _took(run),
            run.actor,
            _detail(run),
        ]
        for run in found
    ]
    filtered = any((status, actor, thread, agent, since))
    none = "no such runs" if filtered else "no runs yet\n  → jobsworth runs start FILE"
    emit_table(COLUMNS, rows, none)
    if len(found) == limit:
        say(f"the newest {limit}; there may be more: --limit")


def start(argument: str, *, key: str | None, as_json: bool) -> None:
    nodes, options = _declaration(argument)
    if key is not None:
        options["idempotency_key"] = key

    async def work(conn: Connection) -> RunStarted:
        return await runs.start(conn, nodes, **options)

    started = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": started.run_id, "created": started.created})
        return
    emit(str(started.run_id))
    if not started.created:
        say("a run has this key already; nothing was added to it, unless it was a draft")


def cancel(text: str, *, reason: str, as_json: bool) -> None:
    typed = ids.typed_run(text)

    async def work(conn: Connection) -> tuple[UUID, RunStatus]:
        run_id = await ids.find_run(conn, typed)
        before = await runs.get(conn, run_id)
        if before.finished_at is not None:
            raise Conflict(
                f"run {run_id} is {before.status} already: there is nothing to cancel",
                f"see what it did: jobsworth runs {run_id}",
            )
        return run_id, await runs.cancel(conn, run_id, reason)

    run_id, status = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": run_id, "status": status})
    elif status is RunStatus.CANCELED:
        emit(Text.assemble(f"run {run_id} is ", styled("canceled")))
    else:
        emit(f"run {run_id} is {status}: its jobs are told to stop, and it ends with the last")


def retry(text: str, *, as_json: bool) -> None:
    typed = ids.typed_run(text)

    async def work(conn: Connection) -> tuple[Run, int]:
        run_id = await ids.find_run(conn, typed)
        again = await runs.retry(conn, run_id)
        return await runs.get(conn, run_id), again

    run, again = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": run.id, "status": run.status, "jobs": again})
    else:
        more = f": {again:,} job{' runs' if again == 1 else 's run'} again"
        emit(Text.assemble(f"run {run.id} is ", styled(run.status, more)))


def delete(text: str, *, as_json: bool) -> None:
    typed = ids.typed_run(text)

    async def work(conn: Connection) -> UUID:
        run_id = await ids.find_run(conn, typed)
        await runs.delete(conn, run_id)
        return run_id

    run_id = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": run_id, "deleted": True})
    else:
        emit(f"run {run_id} is deleted")


def status_words(run: Run) -> Text:
    """Its status, and that it is being canceled."""
    return styled(run.status, ", canceling" if run.cancel_requested and not run.finished_at else "")


def _took(run: Run) -> str:
    if run.started_at is None or run.finished_at is None:
        return ""
    return span((run.finished_at - run.started_at).total_seconds())


def _detail(run: Run) -> str:
    if run.error:
        return one_line(run.error)
    return one_line(compact_json(run.request)) if run.request else ""


def _declaration(argument: str) -> tuple[str, StartOptions]:
    """The nodes of a file as JSON text, and the options beside them."""
    document = _parse(_read(argument), argument)
    if isinstance(document, list):
        return json.dumps(document), {}
    if not isinstance(document, dict):
        raise InvalidInput(
            f"{argument} declares no run: it is neither a list nor an object",
            'write {"nodes": [{"node": "fetch", "mode": "fetch"}]}',
        )
    options = cast(dict[str, Any], document)
    nodes = options.pop("nodes", None)
    known = StartOptions.__optional_keys__
    unknown = sorted(options.keys() - known)
    if unknown:
        raise InvalidInput(
            f"{argument} has unknown options: {', '.join(unknown)}",
            f"besides nodes it may have {', '.join(sorted(known))}",
        )
    return json.dumps(nodes), cast(StartOptions, options)


def _read(argument: str) -> bytes:
    if argument == "-":
        return sys.stdin.buffer.read(FILE_BYTES_MAX)
    try:
        with Path(argument).open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise InvalidInput(
            f"{argument} cannot be read: {error.strerror}", "name a readable file, or - for stdin"
        ) from error


def _parse(data: bytes, argument: str) -> object:
    try:
        return json.loads(data)
    except ValueError as error:
        raise InvalidInput(
            f"{argument} is not JSON: {error}", "write a list of nodes, or an object with one"
        ) from error
