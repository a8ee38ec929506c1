"""Every command that lists or shows goes on over rows that hold extremes, and so does a daemon."""

from __future__ import annotations

from typing import LiteralString, cast

import psycopg

from tests.chaos.scene import Scene
from tests.db.test_extremes import EXTREMES, TURNS
from tests.support import run_cli, until_sync

# What a client may write into a new job, and the type of each.
OF_A_JOB = {
    "payload": "jsonb",
    "run_at": "timestamptz",
    "timeout_seconds": "float4",
    "priority": "int2",
    "attempt": "int4",
    "failures": "int4",
    "crashes": "int4",
    "failures_max": "int4",
    "crashes_max": "int4",
    "queue": "text",
    "lane": "text",
    "unique_key": "text",
    "trace_parent": "text",
    "waiting_detail": "text",
    "error": "text",
    "node": "text",
    "team_id": "uuid",
    "thread_id": "uuid",
    "agent_id": "uuid",
    "created_at": "timestamptz",
}
STUCK: LiteralString = """
select count(*) from jobsworth.reactive_jobs
where queue = 'default' and (status = 'running' or status = 'queued')
"""
COMMANDS = (
    *(("jobs",), ("jobs", "--json"), ("status",), ("doctor",), ("queue",), ("worker", "list")),
    *(("run",), ("approval",), ("ledger",), ("budget",), ("books",), ("deployment",)),
)


def test_no_job_that_sql_can_write_stops_a_daemon_or_a_list(scene: Scene) -> None:
    written: list[str] = []
    for turn in range(TURNS):
        for column, kind in OF_A_JOB.items():
            values = EXTREMES[kind]
            if turn < len(values) and insert(scene, column, kind, values[turn]):
                written.append(f"{column}={values[turn]:.30}")
    last = scene.enqueue("end.return", {"n": 1}, priority=4)
    daemon = scene.start({"JOBSWORTH_HANDLERS": "tests.chaos.handlers,tests.worker.endings"})
    until_sync(lambda: scene.value(STUCK) == 0, 120)
    assert daemon.running
    assert (
        scene.value(
            "select status::text from jobsworth.reactive_jobs where id = %(id)s", {"id": last}
        )
        == "done"
    )
    assert len(written) > 20
    for command in COMMANDS:
        ended = run_cli(*command, url=scene.url)
        assert ended.returncode in (0, 1), (command, ended.stderr)
        assert "mistake in Jobsworth" not in ended.stderr
    assert daemon.running


def insert(scene: Scene, column: str, kind: str, value: str) -> bool:
    """A new job with this value, unless the schema refuses it."""
    values = {"mode": "end.return", "payload": '{"n": 1}'} | {column: value}
    casts = {"mode": "text", "payload": "jsonb"} | {column: kind}
    query = f"insert into jobsworth.reactive_jobs ({', '.join(values)}) values (" + (
        ", ".join(f"%({name})s::text::{casts[name]}" for name in values) + ")"
    )
    try:
        scene.conn.execute(cast(LiteralString, query), values)
    except psycopg.Error:
        return False
    return True
