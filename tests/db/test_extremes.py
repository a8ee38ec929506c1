"""Every extreme of every type, in every column that SQL can write: all readers go on.

In: one row of each table, made by a worker and by the library. Out: each column of each takes each
extreme of its type, triggers set aside; where the schema refuses it, the refusal is right. Once as
the schema is, and once without its bounds, as rows of older days may be. After each turn, every
list, look-up and sum of the library must answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, LiteralString, cast
from uuid import UUID

import psycopg
import pytest
from pydantic_core import to_json

from db.approvals import approvals, webhooks
from db.conversations import message_artifacts, messages, threads
from db.conversations.message_artifacts import MessageArtifactKind
from db.deployments import deployments, environments
from db.diagnosis import checkup, health, paperwork, violations
from db.memory import memories, outbox, spaces
from db.money import budgets, calls, ledger, limits, prices
from db.money.calls import Answer, Usage
from db.pool import Connection, fetch_val
from db.queue import jobs, queues, workers
from db.runs import branches, runs, view
from db.steps import artifacts, checkpoints, steps
from jobsworth import Job, Sending, handler
from tests.worker.job_api import JobApi, registered

NESTED = "[" * 3000 + "]" * 3000
EXTREMES: dict[str, Sequence[str]] = {
    "jsonb": ('{"n": 1e5000}', f'{{"n": {NESTED}}}', "1" * 400 + ".5", "[]", "null", '"x"', "7"),
    "timestamptz": (
        *("infinity", "-infinity", "20000-01-01", "4713-01-01 BC", "294276-12-31 23:59:59"),
        *("9999-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+00"),
    ),
    "date": ("infinity", "-infinity", "20000-01-01", "4713-01-01 BC"),
    "numeric": ("nan", "infinity", "-infinity", "1e1000", "-1", "1e-1000"),
    "float8": ("nan", "infinity", "-infinity", "1e308", "-1", "5e-324"),
    "float4": ("nan", "infinity", "-infinity", "3e38", "-1", "1e-45"),
    "int2": ("32767", "-32768", "0"),
    "int4": ("2147483647", "-2147483648", "0"),
    "int8": ("9223372036854775807", "-9223372036854775808", "0"),
    "text": ("", "x" * 100_000, "\x1b[31m\x01", "\u202eabc", "nan"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "_text": ("{}", "{NULL}", '{""}'),
    "_uuid": ("{}", "{NULL}"),
    "bool": ("true", "false"),
    "bytea": ("", "\\x00"),
}
TURNS = max(map(len, EXTREMES.values()))

COLUMNS: LiteralString = """
select c.relname as table, a.attname as column, coalesce(b.typname, t.typname) as type
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
left join pg_type b on b.oid = nullif(t.typbasetype, 0)
where n.nspname = 'jobsworth' and c.relkind = 'r' and a.attgenerated = '' and a.attidentity = ''
order by 1, a.attnum
"""

BOUNDS: LiteralString = """
select format('alter %s %s drop constraint %I cascade', case when c.contypid <> 0 then 'domain'
  else 'table' end, case when c.contypid <> 0 then c.contypid::regtype::text
  else c.conrelid::regclass::text end, c.conname) as statement
from pg_constraint c join pg_namespace n on n.oid = c.connamespace
where n.nspname = 'jobsworth' and c.contype = 'c'
"""


async def seed(url: str) -> dict[str, UUID]:
    """At least one row of each table that people and programs look at."""
    with registered():

        @handler("all")
        async def do_all(job: Job) -> str:
            async def send(_: Sending) -> Answer:
                return Answer("said", Usage(10, 5))

            await job.step("one", lambda: 1)
            await job.checkpoint("here", {"n": 1})
            await job.call("ask", send, provider="p", model="m", estimate=(10, 5))
            job.say("hello")
            job.save("file.txt", "content")
            job.remember("a note", metadata={"a": 1})
            job.metric("loss", 0.5)
            await job.wait("go", timeout_seconds=0.0)
            await job.gather(job.spawn("child", name="a"))
            await job.ask("May I?", shows={"a": 1}, deadline_seconds=3600)
            return "done"

        @handler("child")
        async def child() -> int:
            return 1

        async with JobApi.open(url) as api, api.database.connection() as conn:
            hook = await webhooks.add(conn, "https://example.org/hook")
            thread = await threads.get_or_create(conn, "web", "1", metadata={"a": 1})
            received = await messages.receive(conn, thread.id, "hi", "all", raw_payload={"a": 1})
            message = received.message.id
            await message_artifacts.store(
                conn, message, MessageArtifactKind.FILE_META, content_json={"a": 1}, uri="x:y"
            )
            started = await runs.start(
                conn,
                [runs.Node("first", "all"), runs.Node("second", "child", after=["first"])],
                request={"a": 1},
                thread_id=thread.id,
                actor="ada",
            )
            await budgets.set_budget(conn, "b", 100, unit="money", period="day")
            await prices.set_price(conn, "p", "m", input=Decimal(1), output=Decimal(2))
            await limits.set_limit(conn, "p", "m", requests=1000)
            await queues.pause(conn, "quiet")
            assert received.job is not None
            await jobs.enqueue(conn, "nobody.knows", {"a": 1})
            await conn.execute("select jobsworth.send_signal(%s, 'later', '{}')", [received.job.id])
            await api.work()
            [asked, *_] = await approvals.get_pending(conn)
            await approvals.resolve(
                conn, asked.id, "approve", decided_by="Ann", channel="test", comment="fine"
            )
            deployment = await deployments.create(
                conn, environment="staging", sha="a" * 40, branch="main"
            )
            [file, *_] = await artifacts.list_for_job(conn, received.job.id)
            return {
                "hook": hook.id,
                "thread": thread.id,
                "message": message,
                "job": received.job.id,
                "run": started.run_id,
                "approval": asked.id,
                "deployment": deployment.id,
                "file": file.id,
            }


def readers(ids: dict[str, UUID]) -> dict[str, Callable[[Connection], Awaitable[object]]]:
    """Every list, look-up and sum of the library."""
    job, run, thread, message = ids["job"], ids["run"], ids["thread"], ids["message"]
    space = spaces.Space(id=1, provider="p", model="m", dimensions=64, chunker="c")
    return {
        "jobs.get": lambda c: jobs.get_by_id(c, job),
        "jobs.list": jobs.list_jobs,
        "jobs.counts": jobs.counts,
        "jobs.why": lambda c: jobs.why(c, job),
        "steps": lambda c: steps.list_for_job(c, job),
        "steps.readable": lambda c: steps.list_readable(c, job),
        "children": lambda c: steps.children(c, job),
        "checkpoints": lambda c: checkpoints.list_for_job(c, job),
        "checkpoints.run": lambda c: checkpoints.list_for_run(c, run),
        "artifacts": lambda c: artifacts.list_for_job(c, job),
        "artifact": lambda c: artifacts.get(c, ids["file"]),
        "content": lambda c: artifacts.content(c, ids["file"]),
        "runs.get": lambda c: runs.get(c, run),
        "runs.list": runs.list_runs,
        "runs.count": runs.count,
        "runs.jobs": lambda c: view.get_jobs(c, run),
        "runs.graph": lambda c: view.get_graph(c, run),
        "runs.steps": lambda c: view.get_steps(c, run),
        "runs.artifacts": lambda c: view.get_artifacts(c, run),
        "runs.calls": lambda c: view.get_calls(c, run),
        "runs.stats": lambda c: view.stats(c, run),
        "runs.metrics": lambda c: view.metrics(c, run),
        "runs.courses": lambda c: view.courses(c, run),
        "runs.beat": lambda c: view.last_beat(c, run),
        "branches": lambda c: branches.list_for_run(c, run),
        "parents": lambda c: view.parents(c, job),
        "threads.get": lambda c: threads.get_by_id(c, thread),
        "threads.activity": lambda c: threads.activity(c, thread),
        "messages.recent": lambda c: messages.fetch_recent(c, thread),
        "messages.get": lambda c: messages.get_by_id(c, message),
        "messages.roles": lambda c: messages.count_by_role(c, thread),
        "message_artifacts": lambda c: message_artifacts.get_for_message(c, message),
        "approvals.get": lambda c: approvals.get_by_id(c, ids["approval"]),
        "approvals.pending": approvals.get_pending,
        "approvals.votes": lambda c: approvals.votes(c, ids["approval"]),
        "approvals.latest": lambda c: paperwork.latest_approvals(c, 10),
        "webhooks": webhooks.list_webhooks,
        "deliveries": lambda c: webhooks.deliveries(c, 10),
        "webhooks.outbox": webhooks.outbox,
        "deployments": deployments.get_recent,
        "deployment": lambda c: deployments.get_by_id(c, ids["deployment"]),
        "environments": environments.list_states,
        "queues": queues.list_all,
        "workers": workers.list_workers,
        "budgets": lambda c: budgets.list_all(c, everything=True),
        "limits": limits.list_all,
        "prices": prices.list_prices,
        "calls": lambda c: calls.list_calls(c, job),
        "ledger.daily": ledger.get_daily_usage,
        "ledger.stats": lambda c: ledger.get_stats(c, 7),
        "ledger.models": lambda c: ledger.usage_by(c, "model"),
        "ledger.runs": lambda c: ledger.usage_by(c, "run"),
        "memories": lambda c: memories.search(c, space, [1.0] * 64, any_team=True),
        "outbox": outbox.counts,
        "paperwork.messages": lambda c: paperwork.messages(c, job),
        "paperwork.offspring": lambda c: paperwork.offspring(c, job),
        "paperwork.approvals": lambda c: paperwork.approvals(c, job),
        "paperwork.deployments": lambda c: paperwork.deployments(c, job),
        "violations": violations.list_violations,
        "checkup.queues": checkup.queues,
        "checkup.modes": lambda c: checkup.unknown_modes(c, 12.0),
        "health": health.check_ready,
    }


@pytest.mark.parametrize("bounds", [True, False], ids=["with bounds", "without bounds"])
async def test_no_value_of_a_column_hides_anything_else(database_url: str, bounds: bool) -> None:
    ids = await seed(database_url)
    failures: list[str] = []
    cases = accepted = 0
    async with await Connection.connect(database_url, autocommit=True) as conn:
        if not bounds:
            for row in await (await conn.execute(BOUNDS)).fetchall():
                await conn.execute(cast(LiteralString, row[0]))
        await conn.execute("set session_replication_role = replica")
        columns = await (await conn.execute(COLUMNS)).fetchall()
        filled = {table for table, _, _ in columns if await has_rows(conn, table)}
        for turn in range(TURNS):
            await conn.execute("begin")
            for table, column, kind in columns:
                values = EXTREMES.get(kind, ())
                if table in filled and turn < len(values):
                    cases += 1
                    accepted += await write(conn, table, column, kind, values[turn])
            for name, read in readers(ids).items():
                reason = await answer(conn, read)
                if reason is not None:
                    failures.append(f"turn {turn}: {name}: {reason}")
            await conn.execute("rollback")
    print(f"{cases} values, {accepted} of them accepted")
    assert not failures, "\n".join(failures)
    assert cases > 500
    assert accepted > (150 if bounds else 400)


async def has_rows(conn: Connection, table: str) -> bool:
    query = f"select exists (select from jobsworth.{table})"
    return bool(await fetch_val(conn, cast(LiteralString, query)))


async def write(conn: Connection, table: str, column: str, kind: str, value: str) -> bool:
    """Write the value into the column of the table's last row, unless the schema refuses it."""
    await conn.execute("savepoint before")
    try:
        await conn.execute(
            f"update jobsworth.{table} set {column} = %s::text::{kind}"  # pyright: ignore[reportArgumentType]
            f" where ctid = (select max(ctid) from jobsworth.{table})",
            [value],
        )
    except psycopg.Error:
        await conn.execute("rollback to before")
        return False
    return True


async def answer(conn: Connection, read: Callable[[Connection], Awaitable[object]]) -> str | None:
    """Why this reader has no answer that can be shown; None if it has one."""
    await conn.execute("savepoint before")
    try:
        found: Any = await read(conn)
        to_json(found, inf_nan_mode="null")
        str(found)
    except Exception as error:
        if type(error).__name__ == "NotFound":
            return None
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        await conn.execute("rollback to before")
    return None
