"""Fair queues in daemons: shares across processes, a kill, and a backlog from before."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import pytest

from tests.support import Workers, connect, run_cli, until_sync
from worker.limits.fair_queues import FairQueues

HANDLERS = {
    "JOBSWORTH_HANDLERS": "tests.worker.limits.handlers",
    "JOBSWORTH_HTTP_PORT": "off",
    "JOBSWORTH_SLOTS": "8",
    "JOBSWORTH_HEARTBEAT_SECONDS": "0.5",
    "JOBSWORTH_LEASE_STOP_SECONDS": "2",
    "JOBSWORTH_RESCUE_SECONDS": "4",
}
THREE, ONE = UUID(int=3), UUID(int=1)
JOBS_EACH = 600
LOAD: LiteralString = """
insert into jobsworth.reactive_jobs (mode, team_id)
select 'fair.work', case when n %% 2 = 0 then %(one)s else %(three)s end::uuid
from generate_series(1, 2 * %(most)s::int) n
"""
STARTED: LiteralString = """
select count(*) as jobs from jobsworth.reactive_jobs where attempt > 0
"""
SHARE: LiteralString = """
select avg((team_id = %(three)s)::int)::float8 as share
from (
  select team_id from jobsworth.reactive_jobs where attempt > 0 order by lease_no limit %(most)s) j
"""
OPEN: LiteralString = """
select count(*) as jobs from jobsworth.reactive_jobs where finished_at is null
"""


def test_daemons_share_a_queue_by_weight_and_a_kill_loses_no_key(
    database_url: str, workers: Workers
) -> None:
    """The queue becomes fair while it has a backlog. One daemon is killed in the middle."""
    with connect(database_url) as conn:
        values = {"most": JOBS_EACH, "one": ONE, "three": THREE}
        conn.execute(LOAD, values)
        assert run_cli("queue", "fair", "default", url=database_url).returncode == 0
        weight = ("queue", "weight", "default", str(THREE), "3")
        assert run_cli(*weight, url=database_url).returncode == 0

        def value(query: LiteralString) -> int:
            row = conn.execute(query).fetchone()
            assert row is not None
            return row["jobs"]

        first, _ = [workers.start(database_url, HANDLERS) for _ in range(2)]
        until_sync(lambda: value(STARTED) > JOBS_EACH // 2)
        first.kill()
        until_sync(lambda: value(STARTED) > JOBS_EACH)
        row = conn.execute(SHARE, {"three": THREE, "most": JOBS_EACH}).fetchone()
        assert row is not None
        print(f"share {row['share']:.4f}")
        assert row["share"] == pytest.approx(0.75, rel=0.05)
        until_sync(lambda: value(OPEN) == 0)
        assert conn.execute("select * from jobsworth.violations").fetchall() == []


def test_each_fair_queue_and_the_plain_ones_are_first_in_turn() -> None:
    fair = FairQueues(["a", "b", "c"])
    assert fair.turns() == fair.turns() == [None]
    assert fair.found(["c", "a", "elsewhere"])
    assert [fair.turns()[0] for _ in range(4)] == ["a", "c", None, "a"]
    assert not fair.found(["a", "c"])
    assert fair.found(["a", "b", "c"])
    assert sorted(map(str, fair.turns())) == ["a", "b", "c"]
    assert fair.found([])
    assert fair.turns() == [None]
