"""pgbench as a contender: the server's rate for a minimal queue.

Its table is minimal (no lanes, no effects, no waiting, no fence), and its one client
claims 100 and finishes 100, each in one commit.
"""

import subprocess
import tempfile
from pathlib import Path

import psycopg

from bench.contender import Contender, ContenderError, clean_environment
from bench.lab import PGBENCH
from bench.server import Server

CLAIM_AND_FINISH = 100

TABLE = """
create table raw_jobs (
  id bigint primary key, status text not null default 'queued', lease_no bigint,
  result text, finished_at timestamptz);
create index raw_jobs_ready on raw_jobs (id) where status = 'queued';
create sequence raw_lease;
"""

FILL = "insert into raw_jobs (id) select g from generate_series(1, %s) g"

SCRIPT = """
with next as (
  select id from raw_jobs where status = 'queued' order by id limit 100 for update skip locked
), claimed as (
  update raw_jobs j set status = 'running', lease_no = nextval('raw_lease')
  from next where j.id = next.id
  returning j.id
)
select array_agg(id) as ids from claimed \\gset
update raw_jobs j set status = 'done', finished_at = now(), result = 'null'
where j.id = any (:ids::bigint[]) and j.status = 'running';
"""


def contender(server: Server) -> Contender:
    """pgbench without an adapter: scenarios that support it call this module."""
    return Contender(
        name=PGBENCH,
        version=server.version,
        command=(),
        settings={"protocol": "prepared", "clients": 1, "jobs per commit": CLAIM_AND_FINISH},
        left_sql="select exists (select 1 from raw_jobs where status <> 'done')",
        note="a minimal table, no worker process: the raw limit",
    )


def drain(server: Server, url: str, jobs: int) -> float:
    """Fill the minimal table and drain it with one client; return jobs per second."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute(FILL, (jobs,))
        connection.execute("vacuum analyze raw_jobs")
    batches = pgbench(
        server, url, SCRIPT, "--client=1", f"--transactions={jobs // CLAIM_AND_FINISH}"
    )
    return batches * CLAIM_AND_FINISH


def pgbench(server: Server, url: str, script: str, *options: str) -> float:
    """Run a script with prepared statements; return transactions per second without connecting."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        command = [str(server.bin("pgbench")), "--no-vacuum", "--protocol=prepared", *options]
        done = subprocess.run(
            [*command, f"--file={Path(file.name)}", url],
            capture_output=True,
            text=True,
            env=clean_environment(),
            check=False,
        )
    rates = [line for line in done.stdout.splitlines() if line.startswith("tps = ")]
    if done.returncode != 0 or len(rates) != 1:
        raise ContenderError(f"pgbench failed: {done.stderr.strip()}")
    return float(rates[0].split()[2])
