"""One row of each table, and what a client may put into each of its columns.

In: the catalogue of a migrated database. Out: cases: a table, a column, a value. `insert` writes a
case's row: a healthy one, but for that column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString, NamedTuple
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from tests.hostile.suite import documents

COLUMNS: LiteralString = """
select c.relname as table, a.attname as name,
  coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text as type,
  array(select e.enumlabel from pg_enum e where e.enumtypid = t.oid order by 1)::text[] as labels
from pg_attribute a
join pg_class c on c.oid = a.attrelid
join pg_type t on t.oid = a.atttypid
where c.relnamespace = 'jobsworth'::regnamespace and c.relkind = 'r' and a.attnum > 0
  and not a.attisdropped and a.attgenerated = '' and a.attidentity = ''
order by 1, a.attnum
"""

NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "-1",
    "0",
    "1",
    "0.5",
    "1e12",
    "1e15",
    "1e18",
    "1e30",
    "1e300",
)
TIMES = (
    *("infinity", "-infinity", "0044-03-15 BC", "0001-01-01", "1899-12-31", "1900-01-02"),
    *("2000-02-29", "2199-12-30", "2200-01-02", "9999-12-31", "10000-01-01", "294276-12-31"),
)
TEXTS = tuple(text for text in documents.TEXTS.values() if len(text) <= 100_000)
INTEGERS = ("-9223372036854775808", "-2147483648", "-32768", "-1", "0", "1", "5", "32767",
            "1000000001", "2147483647", "9223372036854775807")  # fmt: skip
VALUES: dict[str, tuple[Any, ...]] = {
    "timestamp with time zone": TIMES,
    "date": TIMES,
    "numeric": (*NUMBERS, "1e-30", "1e130000"),
    "double precision": NUMBERS,
    "real": NUMBERS,
    "smallint": INTEGERS,
    "integer": INTEGERS,
    "bigint": INTEGERS,
    "text": TEXTS,
    "text[]": (["", "x"], [], ["x"] * 1_000, [None]),
    "boolean": ("true", "false"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "bytea": ("\\x", "\\x00ff"),
}
# A healthy row of each table, as JSON. {id} is a new id; {job}, {thread} and the like are rows that
# are there; {n} makes a name new.
ROWS: dict[str, dict[str, Any]] = {
    "approval_decisions": {"approval_id": "{approval}", "option": "approve", "decided_by": "a{n}",
                           "channel": "cli"},
    "approvals": {"job_id": "{job}", "effect_key": "k{n}", "proposal_text": "p", "shown_hash": "h"},
    "artifacts": {"job_id": "{job}", "effect_key": "k{n}", "name": "n{n}", "media_type": "t",
                  "uri": "https://example.org/{n}"},
    "budgets": {"name": "b{n}", "unit": "tokens", "amount": "1000000000", "period": "day"},
    "chat_messages": {"thread_id": "{thread}", "role": "user", "text": "hello"},
    "chat_threads": {"platform": "p", "chat_id": "c{n}"},
    "deployments": {"environment": "e{n}", "sha": "0" * 40},
    "environments": {"name": "e{n}"},
    "llm_calls": {"provider": "p", "model": "m", "request_id": "r{n}"},
    "memories": {"source_kind": "note", "text": "hello"},
    "message_artifacts": {"message_id": "{message}", "kind": "tool_result", "content_json": {}},
    "prices": {"provider": "p{n}", "model": "m", "input": "1", "output": "1"},
    "queues": {"name": "q{n}"},
    "rate_limits": {"provider": "p{n}", "requests_per_minute": "1"},
    "reactive_jobs": {"mode": "echo"},
    "run_metrics": {"job_id": "{job}", "effect_key": "k{n}", "name": "n", "value": "1"},
    "runs": {"actor": "a"},
    "signals": {"job_id": "{reader}", "name": "go"},
    "step_decisions": {"job_id": "{job}", "step_name": "s{n}", "decision": "retry", "attempt": "1",
                       "begun_at": "2026-01-01", "decided_by": "a"},
    "steps": {"job_id": "{reader}", "name": "greet", "attempt": "1", "output": "hi",
              "finished_at": "2026-01-01"},
    "token_ledger": {"entry": "settle", "provider": "p", "model": "m"},
    "webhook_outbox": {"webhook_id": "{webhook}", "approval_id": "{approval}", "event": "e",
                       "payload": {}},
    "webhooks": {"url": "https://example.org/{n}"},
    "workers": {"id": "{id}", "host": "h", "pid": "1", "version": "0", "modes": ["none"],
                "queues": ["none"], "slots": "1"},
}  # fmt: skip
GROUND: dict[str, LiteralString] = {
    "thread": "insert into jobsworth.chat_threads (platform, chat_id) values ('p', 'ground')"
    " returning id",
    "message": "insert into jobsworth.chat_messages (thread_id, role, text)"
    " select id, 'user', 'hello' from jobsworth.chat_threads limit 1 returning id",
    "approval": "insert into jobsworth.approvals (proposal_text, shown_hash) values ('p', 'h')"
    " returning id",
    "webhook": "insert into jobsworth.webhooks (url) values ('https://example.org/') returning id",
    "job": "select jobsworth.enqueue('echo') as id",
    "done": "select jobsworth.enqueue('echo') as id",
}
READER: LiteralString = "select jobsworth.enqueue('reads') as id"
# A healthy row may be refused for these: the case's value stands for another row, or for none.
ELSEWHERE = ("23503", "23505")


class Case(NamedTuple):
    """One value for one column of one table."""

    table: str
    column: str
    value: Any


def cases(conn: psycopg.Connection[DictRow]) -> Iterator[Case]:
    """Every extreme of every column's type, for every table that has a healthy row here."""
    extremes = list(documents.fixed().values())
    for column in conn.execute(COLUMNS).fetchall():
        if column["table"] not in ROWS:
            continue
        values = extremes if column["type"] == "jsonb" else VALUES.get(column["type"], ())
        for value in (*values, *column["labels"]):
            yield Case(column["table"], column["name"], value)


def ground(conn: psycopg.Connection[DictRow]) -> dict[str, UUID]:
    """Add the rows that others refer to; their ids by name."""
    return {name: _id(conn, query) for name, query in GROUND.items()}


def insert(
    conn: psycopg.Connection[DictRow], case: Case, known: dict[str, UUID], n: int
) -> psycopg.Error | None:
    """Insert the case's row, and return None; or PostgreSQL's refusal."""
    healthy = ROWS[case.table]
    if "{reader}" in healthy.values():
        known = known | {"reader": _id(conn, READER)}
    row = _filled(healthy, known | {"id": uuid4()}, n)
    row[case.column] = case.value
    names = [Identifier(name) for name in row]
    is_document = isinstance(case.value, str) and case.value[:1] in "{[" and case.value[1:]
    query = SQL(
        "insert into jobsworth.{table} ({names}) select {names}"
        " from jsonb_populate_record(null::jobsworth.{table}, %(row)s || %(document)s::jsonb)"
    ).format(table=Identifier(case.table), names=SQL(", ").join(names))
    document = f'{{"{case.column}": {case.value}}}' if is_document else "{}"
    try:
        conn.execute(query, {"row": Jsonb(row), "document": document})
    except psycopg.Error as refusal:
        return refusal
    return None


def is_readable(refusal: psycopg.Error, case: Case) -> bool:
    """Whether a refusal names its rule or the column, or says what to do."""
    if refusal.sqlstate in ELSEWHERE or refusal.diag.constraint_name or refusal.diag.message_hint:
        return True
    named = (case.column, case.table, str(case.value)[:50], case.column.removesuffix("_id"))
    return any(name and name in str(refusal) for name in named)


def _filled(row: dict[str, Any], known: dict[str, UUID], n: int) -> dict[str, Any]:
    names = {name: str(value) for name, value in known.items()} | {"n": str(n)}
    return {
        key: value.format(**names) if isinstance(value, str) and "{" in value else value
        for key, value in row.items()
    }


def _id(conn: psycopg.Connection[DictRow], query: LiteralString) -> UUID:
    row = conn.execute(query).fetchone()
    assert row is not None
    return row["id"]
