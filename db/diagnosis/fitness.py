"""What a server, a database or a role must be for Jobsworth to work there, and what to do if not.

In: a connection, whatever the state of the installation. Out: everything that keeps a worker from
working, with the setting or the right by its name and the remedy. `doctor`, `/readyz` and the start
of a worker say the same. What a session can set for itself (`db.sessions`) is not listed, unless a
pooler is in between.
"""

from typing import Any, LiteralString

from psycopg import sql
from pydantic import BaseModel, ConfigDict

from db.errors import InvalidInput, translated
from db.pool import Connection, fetch_all, fetch_one
from db.transactions import transaction

NEEDED_ENCODING = "UTF8"
# Behind a pooler, single statements run under the server's own limit.
STATEMENT_MILLISECONDS_MIN = 2_000
RIGHTS_NAMED_MAX = 5


class Unfit(BaseModel):
    """One thing that keeps Jobsworth from working here."""

    model_config = ConfigDict(frozen=True)

    subject: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


class Setup(BaseModel):
    """What the server says of a session; milliseconds, 0 without a limit."""

    model_config = ConfigDict(frozen=True)

    role: str
    database: str
    encoding: str
    replication_role: str
    isolation: str
    statement_milliseconds: int


SETUP: LiteralString = """
select current_user::text as role, current_database()::text as database,
  current_setting('server_encoding') as encoding,
  current_setting('session_replication_role') as replication_role,
  current_setting('default_transaction_isolation') as isolation,
  (select s.setting::int from pg_catalog.pg_settings s where s.name = 'statement_timeout')
    as statement_milliseconds
"""


async def unfit_session(conn: Connection) -> list[Unfit]:
    """What is wrong with the database and the settings of this session."""
    setup = await fetch_one(conn, SETUP, None, Setup)
    assert setup is not None
    return judge(setup, pooled=conn.pooled)


def judge(setup: Setup, *, pooled: bool) -> list[Unfit]:
    """What of this setup keeps Jobsworth from working."""
    own = f"alter role {setup.role} in database {setup.database} set"
    found: list[Unfit] = []
    if setup.encoding != NEEDED_ENCODING:
        found.append(wrong_encoding(setup.database, setup.encoding))
    if setup.replication_role == "replica":
        text = "session_replication_role is replica, so no trigger of Jobsworth would run"
        found.append(
            Unfit(subject="settings", text=text, remedy=f"{own} session_replication_role = origin")
        )
    if pooled and setup.isolation != "read committed":
        text = f"default_transaction_isolation is {setup.isolation}, which no pooler lets us change"
        remedy = f"{own} default_transaction_isolation = 'read committed'; restart the pooler"
        found.append(Unfit(subject="settings", text=text, remedy=remedy))
    if pooled and 0 < setup.statement_milliseconds < STATEMENT_MILLISECONDS_MIN:
        limit = setup.statement_milliseconds
        text = f"statement_timeout is {limit} ms, which no pooler lets us change"
        remedy = f"{own} statement_timeout = '30s'; restart the pooler"
        found.append(Unfit(subject="settings", text=text, remedy=remedy))
    return found


def wrong_encoding(database: str, encoding: str) -> Unfit:
    """A database that cannot hold every text."""
    return Unfit(
        subject="encoding",
        text=f"database {database} has the encoding {encoding}, which cannot hold every text",
        remedy="use another database: create database … encoding 'UTF8' template template0",
    )


# The same rights on each table: which role writes what is guarded by the schema's own triggers.
# Setting a sequence back needs the right to update it.
MISSING_RIGHTS: LiteralString = """
with here as (
  select n.oid, n.nspname::text as name
  from pg_catalog.pg_namespace n
  where n.nspname = %(schema)s
), wanted as (
  select h.name as object, 'schema' as kind, 'usage' as privilege,
    has_schema_privilege(h.oid, 'usage') as held
  from here h
  union all
  select c.relname, case c.relkind when 'S' then 'sequence' else 'table' end, p.privilege,
    case c.relkind when 'S' then has_sequence_privilege(c.oid, p.privilege)
      else has_table_privilege(c.oid, p.privilege) end
  from here h
  join pg_catalog.pg_class c on c.relnamespace = h.oid and c.relkind in ('r', 'p', 'v', 'S')
  join (values ('r', 'select'), ('r', 'insert'), ('r', 'update'), ('r', 'delete'), ('v', 'select'),
      ('S', 'usage'), ('S', 'update')) as p (relkind, privilege)
    on p.relkind = case c.relkind when 'p' then 'r' else c.relkind::text end
  where c.relname <> 'alembic_version' or p.privilege = 'select'
  union all
  select c.relname, 'table', 'every row', not row_security_active(c.oid) or exists (
    select 1 from pg_catalog.pg_policy p
    cross join unnest(p.polroles) as r (role)
    where p.polrelid = c.oid and p.polpermissive and r.role <> 0
      and pg_has_role(r.role, 'usage'))
  from here h
  join pg_catalog.pg_class c on c.relnamespace = h.oid and c.relrowsecurity
  union all
  select f.proname, 'function', 'execute', has_function_privilege(f.oid, 'execute')
  from here h
  join pg_catalog.pg_proc f on f.pronamespace = h.oid
)
select w.kind, w.object, string_agg(w.privilege, ', ' order by w.privilege) as privileges
from wanted w
where not w.held
group by w.kind, w.object
order by w.kind, w.object
"""


async def missing_rights(conn: Connection) -> list[Unfit]:
    """The rights that this role lacks in the schema of the connection; one entry for all."""
    rows = await fetch_all(conn, MISSING_RIGHTS, {"schema": conn.schema})
    if not rows:
        return []
    named = [f"{row['privileges']} on {row['kind']} {row['object']}" for row in rows]
    more = len(named) - RIGHTS_NAMED_MAX
    shown = "; ".join([*named[:RIGHTS_NAMED_MAX], *([f"and {more} more"] if more > 0 else [])])
    role = conn.info.user
    return [
        Unfit(
            subject="rights",
            text=f"role {role} lacks {shown}",
            remedy=f"as the owner of the schema, run: jobsworth worker grant {role}",
        )
    ]


OWNER: LiteralString = """
select pg_catalog.pg_get_userbyid(n.nspowner)::text as owner, current_database()::text as database,
  exists (select 1 from pg_catalog.pg_roles r where r.rolname = %(role)s) as known
from pg_catalog.pg_namespace n
where n.nspname = %(schema)s
"""


async def _schema(conn: Connection, role: str) -> dict[str, Any] | None:
    return await fetch_one(conn, OWNER, {"role": role, "schema": conn.schema})


async def grant(conn: Connection, role: str) -> None:
    """Give a role what a worker needs, in what is there and what later versions add.

    Raises `InvalidInput` for a role that does not exist, and `Refused` if this role may not.
    """
    found = await _schema(conn, role)
    if found is None or not found["known"]:
        raise InvalidInput(f"there is no role {role!r}", "create it first: create role … login")
    names = {
        "role": sql.Identifier(role),
        "schema": sql.Identifier(conn.schema),
        "owner": sql.Identifier(found["owner"]),
        "database": sql.Identifier(found["database"]),
    }
    with translated():
        async with transaction(conn):
            for rights, objects in (
                (sql.SQL("select, insert, update, delete"), sql.SQL("tables")),
                (sql.SQL("usage, select, update"), sql.SQL("sequences")),
                (sql.SQL("execute"), sql.SQL("functions")),
            ):
                now = sql.SQL("grant {rights} on all {objects} in schema {schema} to {role}")
                later = sql.SQL(
                    "alter default privileges for role {owner} in schema {schema} "
                    "grant {rights} on {objects} to {role}"
                )
                words = {"rights": rights, "objects": objects}
                for statement in (now, later):
                    await conn.execute(statement.format(**words, **names))
            for statement in (
                sql.SQL("grant connect on database {database} to {role}"),
                sql.SQL("grant usage on schema {schema} to {role}"),
            ):
                await conn.execute(statement.format(**names))
            see_all = sql.SQL("select {schema}.see_all_rows({word})")
            await conn.execute(see_all.format(word=sql.Literal(role), **names))


async def let_owner_see_all(conn: Connection) -> None:
    """Give the owner of the schema the policy by which it sees every row where they are forced."""
    found = await _schema(conn, "")
    assert found is not None
    see_all = sql.SQL("select {schema}.see_all_rows({owner})")
    names = {"schema": sql.Identifier(conn.schema), "owner": sql.Literal(found["owner"])}
    with translated():
        await conn.execute(see_all.format(**names))
