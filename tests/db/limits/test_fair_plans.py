"""A claim from a fair queue reads a bounded number of blocks, whatever lies behind or beside it."""

from __future__ import annotations

from typing import LiteralString

import pytest

from db.limits import fairness
from db.pool import Connection, execute
from db.queue.enqueue import enqueue
from tests.db.protocol import fair_claim, register
from tests.db.queue.plans.scene import Meter
from tests.support import connect

pytestmark = pytest.mark.both

LOAD: LiteralString = """
insert into jobsworth.reactive_jobs (mode, fair_key)
select 'answer', 'key ' || case when n <= %(deep)s then 0 else n %% %(keys)s end
from generate_series(1, %(deep)s + 3 * %(keys)s) n
"""
LOAD_KEYS: LiteralString = """
insert into jobsworth.fair_keys (queue, priority, fair_key)
select 'default', 3, 'key ' || n from generate_series(0, %(keys)s - 1) n
"""
# What a transaction leaves that does not see the key's row.
ANNOUNCE: LiteralString = """
insert into jobsworth.fair_keys (queue, priority, fair_key) values ('default', 3, 'key 0')
"""
CLAIMS = 20
# Blocks for each job.
LIMITS = {
    "claim 1": 150,
    "claim 100": 60,
    "enqueue": 60,
    "enqueue to a new key": 60,
    # Which first places a key that was announced.
    "claim, known key": 200,
    "claim, new key": 200,
}


@pytest.mark.parametrize("keys", [1, 1500])
@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_fair_claim_reads_a_bounded_number_of_blocks(
    conn: Connection, database_url: str, keys: int, analyzed: bool
) -> None:
    """While somebody holds a snapshot, so that every dead entry stays."""
    meter = Meter(conn, database_url)
    await fairness.set_fair(conn, "default")
    worker_id = await register(conn)
    async with conn.transaction():
        await execute(conn, "set local session_replication_role = replica")
        await execute(conn, LOAD, {"deep": 6000, "keys": keys})
        await execute(conn, LOAD_KEYS, {"keys": keys})
    for _ in range(2):
        await fair_claim(conn, worker_id, 1, rescan=True)
    touched: dict[str, float] = {}
    with connect(database_url) as other:
        other.execute("begin isolation level repeatable read")
        other.execute("select count(*) from jobsworth.fair_keys")
        for _ in range(CLAIMS):
            assert len((await fair_claim(conn, worker_id, 150)).jobs) == 150
        if analyzed:
            await execute(conn, "analyze")
        await fair_claim(conn, worker_id, 1)  # which plans anew
        touched["claim 1"] = await meter.touched(lambda: fair_claim(conn, worker_id, 1))
        hundred = await meter.touched(lambda: fair_claim(conn, worker_id, 100))
        touched["claim 100"] = hundred / 100
        touched["enqueue"] = await meter.touched(lambda: enqueue(conn, "answer", fair_key="key 0"))
        touched["enqueue to a new key"] = await meter.touched(
            lambda: enqueue(conn, "answer", fair_key="new")
        )
        await fair_claim(conn, worker_id, 1)  # which plans how keys are placed
        await execute(conn, ANNOUNCE)
        touched["claim, known key"] = await meter.touched(lambda: fair_claim(conn, worker_id, 1))
        await enqueue(conn, "answer", fair_key="newer")
        touched["claim, new key"] = await meter.touched(lambda: fair_claim(conn, worker_id, 1))
        other.execute("rollback")
    print(touched)
    assert [name for name, blocks in touched.items() if blocks > LIMITS[name]] == []
