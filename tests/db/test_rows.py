"""What holds for every table: indexed references, instants with a zone, a team, documents."""

from typing import LiteralString

import pytest

from db.pool import Connection, fetch_all

pytestmark = pytest.mark.both

WITHOUT_TEAM = {
    "job_edges",  # two ids; the jobs have it
    "environments",  # a place has one owner, whoever ships to it
    "queues",
    "retention",  # of the installation, by status, mode and queue
    "fair_keys",  # of a queue
    "fair_weights",
    "workers",
    "job_limits",  # of all teams, as queues
    "job_limit_slots",  # ids; the jobs have it
    "job_limit_rates",
    "embedding_spaces",
    "teams",  # its id is the team
    "users",  # may be in several
    "unproven_erasures",  # of persons, until the proof is seen; no role of a team reads it
    "alembic_version",
}


async def names(conn: Connection, query: LiteralString) -> set[str]:
    return {row["name"] for row in await fetch_all(conn, query)}


async def test_every_foreign_key_has_an_index_that_begins_with_it(conn: Connection) -> None:
    """Or each delete of what it points to would read the whole table."""
    unserved = await names(
        conn,
        """
        select f.conname as name
        from pg_constraint f
        where f.contype = 'f' and f.connamespace = 'jobsworth'::regnamespace
          and not exists (
            select 1 from pg_index i
            where i.indrelid = f.conrelid and i.indpred is null
              and (i.indkey::int2[])[0:cardinality(f.conkey) - 1] = f.conkey)
        """,
    )
    assert unserved == set()


async def test_every_instant_has_a_time_zone(conn: Connection) -> None:
    query = """
    select a.attrelid::regclass || '.' || a.attname as name
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'jobsworth'::regnamespace and c.relkind = 'r' and a.attnum > 0
      and (select coalesce(nullif(t.typbasetype, 0), t.oid) from pg_type t where t.oid = a.atttypid)
        in ('timestamp'::regtype, 'date'::regtype, 'json'::regtype)
    """
    # Days of the ledger are days in UTC.
    days = {
        *("jobsworth.ledger_days.day", "jobsworth.ledger_closing.closed_through"),
        *("jobsworth.call_texts.day", "jobsworth.call_records.day"),
    }
    assert await names(conn, query) == days


async def test_every_table_that_holds_somebodys_data_has_its_team(conn: Connection) -> None:
    query = """
    select c.relname as name from pg_class c
    where c.relnamespace = 'jobsworth'::regnamespace and c.relkind = 'r'
      and not exists (
        select 1 from pg_attribute a
        where a.attrelid = c.oid and a.attname = 'team_id' and a.atttypid = 'uuid'::regtype)
    """
    assert await names(conn, query) == WITHOUT_TEAM


async def test_the_job_table_refers_to_no_other(conn: Connection) -> None:
    """A foreign key would lock rows that jobs share."""
    query = """
    select f.conname as name from pg_constraint f
    where f.contype = 'f' and f.conrelid = 'jobsworth.reactive_jobs'::regclass
    """
    assert await names(conn, query) == set()


async def test_what_a_job_made_goes_with_it(conn: Connection) -> None:
    query = """
    select f.conrelid::regclass::text as name from pg_constraint f
    where f.contype = 'f' and f.confrelid = 'jobsworth.reactive_jobs'::regclass
      and f.confdeltype = 'c'
    """
    assert await names(conn, query) == {
        "jobsworth.job_edges",
        "jobsworth.job_limit_slots",
        "jobsworth.signals",
        "jobsworth.steps",
        "jobsworth.artifacts",
        "jobsworth.run_metrics",
        "jobsworth.branch_reads",
        "jobsworth.attempt_history",
        "jobsworth.replacements",
    }
