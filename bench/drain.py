"""Drain 20,000 no-op jobs with one worker, beside pgbench doing as many claims and finishes.

Both run on the same server, in turns. pgbench's table is minimal (no lanes, no lease, no effects)
and its script claims 100 and finishes 100, each in one commit: the raw limit. The worker keeps the
row, records the result and fences the finish, with its default guarantees on. Rates are taken on
the server's clock, from the first claim to the last finish.

    python -m bench.drain [--jobs 20000] [--runs 5] [--slots 500]
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from db.embedded import Embedded, start
from db.enqueue_many import enqueue_many
from db.migrate import migrate
from db.new_job import NewJob

CLAIM_AND_FINISH = 100
DRAIN_SECONDS_MAX = 120

PGBENCH_TABLE = """
drop table if exists raw_jobs;
create table raw_jobs (
  id bigint primary key, status text not null default 'queued', lease_no bigint,
  result text, finished_at timestamptz);
create index raw_jobs_ready on raw_jobs (id) where status = 'queued';
create sequence if not exists raw_lease;
"""

PGBENCH_SCRIPT = """
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


@dataclass(frozen=True, slots=True)
class Drain:
    """One drain: jobs per second, and the worker's CPU seconds per 1,000 jobs."""

    rate: float
    cpu_seconds: float


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slots", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jobsworth-bench-") as folder:
        Path(folder).chmod(0o755)
        server = start(
            Path(folder),
            config={"shared_buffers": "512MB", "max_wal_size": "4GB"},
        )
        try:
            migrate(server.url, "jobsworth")
            pairs = [
                (drain_worker(server, options.jobs, options.slots), drain_raw(server, options.jobs))
                for _ in range(options.runs)
            ]
        finally:
            server.close()
    report(pairs, options.jobs)


def drain_worker(server: Embedded, jobs: int, slots: int) -> Drain:
    """Enqueue `jobs` no-ops and let one worker process drain them."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("truncate jobsworth.reactive_jobs cascade")
        asyncio.run(_enqueue(server.url, jobs))
        connection.execute("vacuum analyze jobsworth.reactive_jobs")
        worker = _start_worker(server.url, slots)
        try:
            _wait_until_done(connection, jobs)
            cpu = _cpu_seconds(worker.pid)
        finally:
            worker.terminate()
            worker.wait()
        row = connection.execute(
            "select extract(epoch from max(finished_at) - min(started_at))::float8"
            " from jobsworth.reactive_jobs"
        ).fetchone()
    return Drain(jobs / row[0] if row else 0.0, cpu / jobs * 1000)


def drain_raw(server: Embedded, jobs: int) -> float:
    """The same number of jobs claimed and finished by pgbench; jobs per second."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(PGBENCH_TABLE)
        connection.execute(
            "insert into raw_jobs (id) select g from generate_series(1, %s) g", (jobs,)
        )
        connection.execute("vacuum analyze raw_jobs")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(PGBENCH_SCRIPT)
        script.flush()
        result = subprocess.run(
            [
                str(server.bin("pgbench")),
                "--no-vacuum",
                "--protocol=prepared",
                "--client=1",
                f"--transactions={jobs // CLAIM_AND_FINISH}",
                f"--file={script.name}",
                server.url,
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    [line] = [line for line in result.stdout.splitlines() if line.startswith("tps = ")]
    return float(line.split()[2]) * CLAIM_AND_FINISH


def report(pairs: list[tuple[Drain, float]], jobs: int) -> None:
    """Print medians with their ranges, and the ratio of each pair."""
    table = Table(title=f"{jobs:,} no-op jobs, one worker process, {len(pairs)} pairs")
    for column in ("", "median", "min", "max"):
        table.add_column(column, justify="left" if not column else "right")
    rates = [drain.rate for drain, _ in pairs]
    raws = [raw for _, raw in pairs]
    ratios = [drain.rate / raw for drain, raw in pairs]
    cpus = [drain.cpu_seconds for drain, _ in pairs]
    for name, values, form in (
        ("worker, jobs/s", rates, "{:,.0f}"),
        ("pgbench, jobs/s", raws, "{:,.0f}"),
        ("worker / pgbench", ratios, "{:.2f}"),
        ("worker CPU s / 1,000 jobs", cpus, "{:.3f}"),
    ):
        numbers = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(form.format(number) for number in numbers))
    Console().print(table)


async def _enqueue(url: str, jobs: int) -> None:
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    async with connection:
        await enqueue_many(connection, (NewJob("noop") for _ in range(jobs)))


def _start_worker(url: str, slots: int) -> subprocess.Popen[bytes]:
    ours = {
        "JOBSWORTH_DATABASE_URL": url,
        "JOBSWORTH_HANDLERS": "bench.handlers",
        "JOBSWORTH_SLOTS": str(slots),
        "JOBSWORTH_HTTP_PORT": "off",
        "JOBSWORTH_LOG_LEVEL": "warning",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JOBSWORTH_")}
    return subprocess.Popen([sys.executable, "-m", "worker.cli", "worker"], env=inherited | ours)


def _wait_until_done(connection: psycopg.Connection[tuple[object, ...]], jobs: int) -> None:
    connection.execute("set statement_timeout = '120s'")
    connection.execute(
        """
        do $$
        begin
          for _ in 1 .. 1200 loop
            exit when not exists (
              select 1 from jobsworth.reactive_jobs where status in ('queued', 'running'));
            perform pg_sleep(0.1);
            commit;
          end loop;
        end $$
        """
    )
    row = connection.execute(
        "select count(*) from jobsworth.reactive_jobs where status = 'done'"
    ).fetchone()
    if row != (jobs,):
        raise SystemExit(f"only {row} of {jobs} jobs were done within {DRAIN_SECONDS_MAX} s")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
