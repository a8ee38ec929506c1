"""The database roles of an installation: who may do what, and whose rows they see.

In: a connection as the owner of the schema, who may create roles. Out: five roles without login,
named after the schema, of which logins are made members. Invariant: only the daemon's sees every
row.
"""

from typing import LiteralString

from psycopg import sql
from pydantic import BaseModel, ConfigDict

from db.diagnosis import fitness
from db.errors import translated
from db.pool import Connection, fetch_all
from db.transactions import transaction

ROLES: dict[str, str] = {
    "daemon": "runs workers: every right that a worker needs, on every row",
    "api": "reads and writes what people see of their team's rows",
    "enqueuer": "calls the function submit, and nothing else",
    "approver": "reads approvals of a team, and calls the function vote",
    "reader": "reads a team's rows",
}

# What people make by themselves; all else comes of jobs.
WRITTEN_BY_API = (
    *("chat_threads", "chat_messages", "message_artifacts"),
    *("agents", "projects", "sessions"),
)
CALLS = {"enqueuer": ("submit",), "approver": ("vote",)}
READ_BY_APPROVER = ("approvals", "approval_decisions")


class Role(BaseModel):
    """A role of the installation: its name, whether it was created, and what it may do."""

    model_config = ConfigDict(frozen=True)

    name: str
    exists: bool
    may: str


def role_name(schema: str, kind: str) -> str:
    """The name of one of `ROLES`: `jobsworth_api`."""
    return f"{schema}_{kind}"


TABLES: LiteralString = """
select c.relname::text as name, c.relkind::text as kind from pg_catalog.pg_class c
join pg_catalog.pg_class j on j.oid = 'jobsworth.reactive_jobs'::regclass
where c.relkind in ('r', 'p', 'v') and c.relname <> 'alembic_version'
  and c.relnamespace = j.relnamespace
order by 1
"""


async def create(conn: Connection) -> list[Role]:
    """Create the roles, give them their rights, and force the policies; returns them.

    Repeated, it gives later tables and views too. From then on the owner of the tables sees every
    row by a policy of its own. Raises `Refused` if this role may not.
    """
    with translated():
        async with transaction(conn):
            for role in await list_roles(conn):
                if not role.exists:
                    await _run(conn, "create role {role} nologin", role=role.name)
            await fitness.grant(conn, role_name(conn.schema, "daemon"))
            found = await fetch_all(conn, TABLES)
            for kind in ("api", "enqueuer", "approver", "reader"):
                await _grant(conn, kind, [row["name"] for row in found])
            await fitness.let_owner_see_all(conn)
            for row in found:
                if row["kind"] != "v":
                    force = "alter table {schema}.{table} force row level security"
                    await _run(conn, force, table=row["name"])
    return await list_roles(conn)


KNOWN: LiteralString = """
select r.rolname::text as name from pg_catalog.pg_roles r where r.rolname = any(%(names)s)
"""


async def list_roles(conn: Connection) -> list[Role]:
    """The roles, whether they are there or not."""
    names = [role_name(conn.schema, kind) for kind in ROLES]
    known = {row["name"] for row in await fetch_all(conn, KNOWN, {"names": names})}
    return [
        Role(name=name, exists=name in known, may=may)
        for name, may in zip(names, ROLES.values(), strict=True)
    ]


# Hashes of tokens, and words of people who have left.
READ_BY_NOBODY = ("api_tokens", "unproven_erasures")
# But a token is shown to its team without its hash.
SHOW_TOKENS: LiteralString = """
grant select (id, team_id, user_id, agent_id, name, scopes, created_at, expires_at, last_used_at,
  revoked_at)
on {schema}.api_tokens to {role}
"""


async def _grant(conn: Connection, kind: str, tables: list[str]) -> None:
    role = role_name(conn.schema, kind)
    await _run(conn, "grant usage on schema {schema} to {role}", role=role)
    read = {"api": tables, "reader": tables, "approver": READ_BY_APPROVER}.get(kind, ())
    for table in read:
        if table not in READ_BY_NOBODY:
            await _run(conn, "grant select on {schema}.{table} to {role}", table=table, role=role)
    if kind == "api":
        await _run(conn, SHOW_TOKENS, role=role)
        for table in WRITTEN_BY_API:
            write = "grant insert, update, delete on {schema}.{table} to {role}"
            await _run(conn, write, table=table, role=role)
    for function in CALLS.get(kind, ()):
        call = "grant execute on function {schema}.{function} to {role}"
        await _run(conn, call, function=function, role=role)


async def _run(conn: Connection, statement: LiteralString, **names: str) -> None:
    given = {"schema": conn.schema, **names}
    words = {key: sql.Identifier(name) for key, name in given.items()}
    await conn.execute(sql.SQL(statement).format(**words))
