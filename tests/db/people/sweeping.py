"""A canary of one team in every table of the catalogue, and what another team finds of it.

In: a migrated database of a test, which loses its checks and foreign keys, so that a row may be
anything. Out: where a canary is seen. Everything is read from the catalogue: a new table, view or
function is swept without a word here.
"""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow
from psycopg.sql import SQL, Composable, Identifier, Literal

CANARY = "canary-4f1c"
READER = "jobsworth_reader"

COLUMNS: LiteralString = """
select c.relname as table, a.attname as name, a.attidentity <> '' as numbered,
  coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text as type,
  (select min(e.enumlabel) from pg_enum e where e.enumtypid = t.oid) as label,
  a.attnotnull and not a.atthasdef as needed
from pg_attribute a
join pg_class c on c.oid = a.attrelid
join pg_type t on t.oid = a.atttypid
where c.relnamespace = 'jobsworth'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0
  and not a.attisdropped and a.attgenerated = '' and c.relname <> 'alembic_version'
  and not c.relispartition
order by 1, a.attnum
"""
CONSTRAINTS: LiteralString = """
select f.conrelid::regclass::text as table, f.conname as name from pg_constraint f
where f.connamespace = 'jobsworth'::regnamespace and f.contype in ('c', 'f') and f.conrelid <> 0
  and f.coninhcount = 0
order by f.contype desc
"""
RELATIONS: LiteralString = """
select c.relname as name from pg_class c
where c.relnamespace = 'jobsworth'::regnamespace and c.relkind in ('r', 'p', 'v')
  and c.relname <> 'alembic_version'
order by 1
"""
FUNCTIONS: LiteralString = """
select f.oid::regprocedure::text as signature, f.proname as name,
  array(select t.oid::regtype::text from unnest(f.proargtypes) with ordinality as x (oid, n)
    join pg_type t on t.oid = x.oid order by x.n) as types
from pg_proc f
where f.pronamespace = 'jobsworth'::regnamespace and f.prokind = 'f'
  and f.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
order by 1
"""
# What a column of each type holds; `{id}` is the canary's id.
VALUES: dict[str, str] = {
    "text": CANARY,
    "jsonb": f'{{"said": "{CANARY}"}}',
    "bytea": CANARY.encode().hex(),
    "text[]": f"{{{CANARY}}}",
    "boolean": "false",
    "halfvec": "[1,0]",
    "timestamp with time zone": "2026-01-01",
    "date": "2026-01-01",
    "interval": "1 minute",
    "oid": "1",
    **dict.fromkeys(("smallint", "integer", "bigint", "numeric", "real"), "1"),
    "double precision": "1",
}


class Place:
    """Whose canary it is."""

    def __init__(self) -> None:
        self.team, self.session, self.row = uuid4(), uuid4(), uuid4()


def tables(conn: psycopg.Connection[DictRow]) -> list[str]:
    """All tables that may hold somebody's data."""
    return list(dict.fromkeys(row["table"] for row in conn.execute(COLUMNS)))


def release(conn: psycopg.Connection[DictRow]) -> None:
    """Take away what a row has to be."""
    for row in conn.execute(CONSTRAINTS).fetchall():
        drop = SQL("alter table {} drop constraint {}")
        conn.execute(drop.format(SQL(row["table"]), Identifier(row["name"])))


def put_canaries(conn: psycopg.Connection[DictRow], place: Place) -> None:
    """A row in every table: each id in it is the canary's, its team and session the place's."""
    columns = conn.execute(COLUMNS).fetchall()
    conn.execute("set session_replication_role = replica")
    for table in tables(conn):
        row: dict[str, str] = {}
        for column in columns:
            if column["table"] == table and not column["numbered"]:
                value = _value(column, table, place)
                if value is not None:
                    row[column["name"]] = value
        insert = SQL("insert into jobsworth.{} ({}) values ({}) on conflict do nothing").format(
            Identifier(table),
            SQL(", ").join(map(Identifier, row)),
            SQL(", ").join(map(Literal, row.values())),
        )
        conn.execute(insert)
    conn.execute("reset session_replication_role")


def _value(column: DictRow, table: str, place: Place) -> str | None:
    name = column["name"]
    if name == "team_id" or (table, name) == ("teams", "id"):
        return str(place.team)
    if name == "session_id" or (table, name) == ("sessions", "id"):
        return str(place.session)
    if column["type"] == "uuid":
        return str(place.row)
    if column["label"] is not None:
        return column["label"]
    value = VALUES.get(column["type"], "{}" if column["type"].endswith("[]") else None)
    if value is None:
        return None if not column["needed"] else "1"
    if column["type"] == "bytea":
        return "\\x" + value + place.row.hex
    if column["type"] == "bytea[]":
        return f'{{"\\\\x{VALUES["bytea"]}{place.row.hex}"}}'
    # Names have plain letters, and two canaries may not meet in a unique key.
    return f"{value}-{place.row.hex}" if column["type"] == "text" else value


def seen(
    conn: psycopg.Connection[DictRow],
    team: UUID | None,
    session: UUID | None = None,
    only: str | None = None,
) -> set[str]:
    """The tables and views (or the only one) in which this scope sees a canary."""
    names = [row["name"] for row in conn.execute(RELATIONS)] if only is None else [only]
    return {name for name in names if _in_scope(conn, team, session, _look(name))}


def _look(relation: str) -> Any:
    # Nothing but canaries is there: whoever sees a row sees one of them.
    return SQL("select from jobsworth.{} limit 1").format(Identifier(relation))


def told(conn: psycopg.Connection[DictRow], team: UUID, place: Place) -> set[str]:
    """The functions that tell this team of the canary, when they are asked about its id."""
    found = set[str]()
    for function in conn.execute(FUNCTIONS).fetchall():
        given = [_argument(of_type, place) for of_type in function["types"]]
        call = SQL("select x::text as text from jobsworth.{}({}) x").format(
            Identifier(function["name"]),
            SQL(", ").join(given),
        )
        rows = _in_scope(conn, team, None, call)
        if any(CANARY + "-" + place.row.hex in (row["text"] or "") for row in rows):
            found.add(function["signature"])
    return found


# The canary's text comes from a table alone: arguments that name it are ids.
def _argument(of_type: str, place: Place) -> Composable:
    if of_type == "uuid":
        return Literal(place.row)
    if of_type == "uuid[]":
        return Literal([place.row])
    return SQL("null::{}").format(SQL(of_type))  # pyright: ignore[reportArgumentType]


def _in_scope(
    conn: psycopg.Connection[DictRow], team: UUID | None, session: UUID | None, query: Any
) -> list[DictRow]:
    """The rows that a reader in this scope gets; none if it is refused. Nothing stays."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("select set_config('role', %s, true)", [READER])
            conn.execute("set local statement_timeout = '1s'")
            for name, value in (("team", team), ("session", session)):
                conn.execute(
                    "select set_config(%s, %s, true)", [f"jobsworth.{name}", value and str(value)]
                )
            return conn.execute(query).fetchall()
    except psycopg.Error:
        return []


def with_text(conn: psycopg.Connection[DictRow], place: Place) -> set[str]:
    """The columns, as `table.column`, in which the words of the canary stand."""
    found = set[str]()
    for table in tables(conn):
        look = SQL(
            "select distinct v.key from jobsworth.{} t, jsonb_each_text(to_jsonb(t)) v"
            " where position(%s in v.value) > 0"
        ).format(Identifier(table))
        found |= {f"{table}.{row['key']}" for row in conn.execute(look, [place.row.hex])}
    return found
