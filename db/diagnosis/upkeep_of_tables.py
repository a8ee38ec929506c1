"""How PostgreSQL keeps up with our tables, and its standbys with it.

In: what the server's statistics say. Out: the largest tables, with what vacuum has left and how
they are read; the standbys, with how far they are behind.
"""

from typing import LiteralString

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import Connection, fetch_all

LARGEST = 8


class TableUpkeep(BaseModel):
    """A table, or a partitioned one with all its parts.

    `live_rows` and `dead_rows` are the server's estimates. `index_share`: which part of its scans
    used an index (0 to 1), None if it was never scanned. `vacuumed_at` is the oldest of its parts'.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int
    live_rows: int
    dead_rows: int
    index_share: float | None
    vacuumed_at: AwareDatetime | None

    @property
    def dead_share(self) -> float:
        """Which part of its rows is dead (0 to 1)."""
        return self.dead_rows / max(self.live_rows + self.dead_rows, 1)


class Standby(BaseModel):
    """A standby of this server. `seconds` behind: None while it is not behind, or if this role may
    not see it; `bytes`: of the log that it has not yet replayed.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    state: str | None
    bytes: int | None
    seconds: float | None


LARGEST_TABLES: LiteralString = """
select coalesce(r.relname, t.relname)::text as name,
  sum(pg_catalog.pg_total_relation_size(t.relid))::bigint as bytes,
  sum(t.n_live_tup)::bigint as live_rows, sum(t.n_dead_tup)::bigint as dead_rows,
  (sum(t.idx_scan) / nullif(sum(t.idx_scan) + sum(t.seq_scan), 0))::float8 as index_share,
  min(greatest(t.last_vacuum, t.last_autovacuum)) as vacuumed_at
from pg_catalog.pg_stat_user_tables t
left join pg_catalog.pg_class r on r.oid = pg_catalog.pg_partition_root(t.relid)
where t.schemaname = (
  select n.nspname from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.oid = 'jobsworth.reactive_jobs'::regclass)
group by 1
order by bytes desc, name
limit %(most)s
"""


async def largest_tables(conn: Connection, most: int = LARGEST) -> list[TableUpkeep]:
    """The largest tables of the schema, the largest first, indexes and long values included."""
    return await fetch_all(conn, LARGEST_TABLES, {"most": most}, TableUpkeep)


STANDBYS: LiteralString = """
select coalesce(nullif(r.application_name, ''), host(r.client_addr), 'a standby') as name, r.state,
  case when pg_catalog.pg_is_in_recovery() then null
    else pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.replay_lsn)::bigint end
    as bytes,
  extract(epoch from r.replay_lag)::float8 as seconds
from pg_catalog.pg_stat_replication r
order by name
limit 100
"""


async def standbys(conn: Connection) -> list[Standby]:
    """The standbys that receive the log of this server now."""
    return await fetch_all(conn, STANDBYS, None, Standby)
