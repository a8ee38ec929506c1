"""Random graphs, ended by several workers at once: jobs and run end as a small model says."""

from __future__ import annotations

import random
from uuid import UUID

import anyio
import pytest

from db.pool import Connection, Database
from db.queue import promote
from db.runs import runs
from db.runs.runs import After, Node
from tests.db.protocol import MODES, breaches, claim, done, failed, finish_all, lease_of, register

pytestmark = pytest.mark.both

NODES, WORKERS = 25, 4
AGAIN_TIMES = 200


def graph_of(chance: random.Random) -> list[Node]:
    """Each node comes after up to three earlier ones."""
    nodes: list[Node] = []
    for n in range(NODES):
        parents = chance.sample(range(n), min(n, chance.randint(0, 3)))
        after = [After(f"n{p}", chance.choice(["fail", "skip", "run", "run"])) for p in parents]
        nodes.append(Node(f"n{n}", "answer", after=after))
    return nodes


def expected(nodes: list[Node], breaks: set[str]) -> tuple[dict[str, str], str]:
    """How each job ends, and the run; the nodes stand in an order in which they can be run."""
    ends: dict[str, str] = {}
    for node in nodes:
        needs = [need for need in node.after if isinstance(need, After)]
        bad = {need.on_failure for need in needs if ends[need.node] != "done"}
        if "fail" in bad:
            ends[node.node] = "failed"
        elif "skip" in bad:
            ends[node.node] = "canceled"
        else:
            ends[node.node] = "failed" if node.node in breaks else "done"
    minded = {node.node for node in nodes if ends[node.node] == "failed"}
    for name in list(minded):
        meant = [
            need.on_failure
            for node in nodes
            for need in node.after
            if isinstance(need, After) and need.node == name
        ]
        if meant and "fail" not in meant:
            minded.remove(name)
    return ends, "failed" if minded else "done"


async def work(conn: Connection, run_id: UUID, breaks: set[str], chance: random.Random) -> None:
    """Claim, end and look, like a daemon, until the run is over."""
    worker_id = await register(conn, MODES)
    while (await runs.get(conn, run_id)).finished_at is None:
        got = await claim(conn, worker_id, chance.randint(1, 3))
        leases = {job.node or "": lease_of(job, worker_id) for job in got.jobs}
        ended = await finish_all(
            conn,
            *(
                failed(lease) if node in breaks else done(lease, f'"{node}"')
                for node, lease in leases.items()
            ),
        )
        again = [one.id for one in ended]
        for _ in range(AGAIN_TIMES):
            again = await promote.unblock(conn, again)
            if not again:
                break
        assert not again


@pytest.mark.parametrize("seed", range(6))
async def test_a_random_graph_ends_as_the_model_says_whoever_ends_its_jobs(
    database: Database, conn: Connection, seed: int
) -> None:
    chance = random.Random(seed)
    nodes = graph_of(chance)
    breaks = {node.node for node in nodes if chance.random() < 0.2}
    run_id = (await runs.start(conn, nodes)).run_id

    async def one(number: int) -> None:
        async with database.connection() as own:
            await work(own, run_id, breaks, random.Random(seed * 100 + number))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(WORKERS):
                tasks.start_soon(one, number)
    ends, status = expected(nodes, breaks)
    jobs = {job.node: str(job.status) for job in await runs.get_jobs(conn, run_id)}
    assert jobs == ends
    assert (await runs.get(conn, run_id)).status == status
    assert await breaches(conn) == []
