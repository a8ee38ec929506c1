"""The peers: other job queues on PostgreSQL, each with its best documented settings.

`adapters/` has one small program per peer, in the peer's own language; `install` gets the peers.
Settings without a source in the peer's documentation were found by trial.
"""

from collections.abc import Collection
from dataclasses import dataclass

from bench.contender import JOBS_MAX, Contender
from bench.peers.environments import (
    ADAPTERS,
    NODE,
    NotInstalledError,
    install_node,
    install_python,
    python_of,
)

__all__ = ["contenders", "install"]


@dataclass(frozen=True, slots=True)
class _Peer:
    name: str
    version: str
    settings: dict[str, object]
    left_sql: str
    note: str = ""
    jobs_max: int = JOBS_MAX
    node: bool = False
    python: tuple[int, int] = (3, 11)

    def contender(self) -> Contender:
        file = self.name.replace("-", "_") + "_adapter"
        if self.node:
            command = (str(NODE), str(ADAPTERS / f"{file}.mjs"))
        else:
            command = (str(python_of(self.name)), str(ADAPTERS / f"{file}.py"))
        return Contender(
            self.name,
            self.version,
            command,
            self.settings,
            self.left_sql,
            self.note,
            self.jobs_max,
        )

    def install(self) -> None:
        if self.node:
            install_node()
        else:
            install_python(self.name, self.python)


def contenders() -> tuple[Contender, ...]:
    """All peers, installed or not."""
    return tuple(peer.contender() for peer in PEERS)


def install(names: Collection[str] | None = None) -> dict[str, str]:
    """Install these peers, or all; return the reasons of those that could not be, by name."""
    reasons = {name: why for name, why in ABSENT.items() if names is None or name in names}
    for peer in PEERS:
        if names is None or peer.name in names:
            try:
                peer.install()
            except NotInstalledError as error:
                reasons[peer.name] = str(error)
    return reasons


ABSENT = {
    "pgque": "no package index has its SQL (pgque-py is the client only), so it has no adapter",
}
"""Peers that cannot be installed anywhere by what is here, and why."""

PEERS = (
    _Peer(
        "graphile-worker",
        "0.18.0",
        {
            "concurrentJobs": 100,
            "localQueue.size": 1000,
            "completeJobBatchDelay": 0,
            "failJobBatchDelay": 0,
            "maxPoolSize": 10,
            "bulk": "addJobs, 1,000 per call",
            "--small": "concurrentJobs 1, no local queue, no batched endings",
        },
        "select exists (select from graphile_worker._private_jobs)",
        "deletes finished jobs (its only mode); endings are buffered",
        node=True,
    ),
    _Peer(
        "pgqueuer",
        "1.6.0",
        {
            "driver": "asyncpg pool",
            "batch_size": 500,
            "max_concurrent_tasks": "none",
            "durability": "durable (default)",
            "loop": "uvloop",
            "bulk": "Queries.enqueue with lists, 1,000 per call",
            "--small": "batch_size 1, max_concurrent_tasks 2 (the least it allows)",
        },
        "select exists (select from pgqueuer)",
        "deletes finished jobs and writes a log row of each; endings are buffered",
    ),
    _Peer(
        "pg-boss",
        "12.35.0",
        {
            "batchSize": 1000,
            "burstWhenBatchFull": True,
            "localConcurrency": 2,
            "pollingIntervalSeconds": 0.5,
            "useListenNotify": True,
            "queue": "standard policy, notify",
            "max": 10,
            "bulk": "insert, 1,000 per call",
            "--small": "fetch and complete, one job each (its worker polls between batches of 1)",
        },
        "select exists (select from pgboss.job where state < 'active' and not blocked)"
        " or exists (select from pgboss.job where state = 'active')",
        "the handler is given an array of up to 1,000 jobs, which is completed as one",
        node=True,
    ),
    _Peer(
        "procrastinate",
        "3.10.0",
        {
            "concurrency": 20,
            "listen_notify": True,
            "pool max_size": 20,
            "delete_jobs": "never (default)",
            "loop": "uvloop",
            "bulk": "Task.batch_defer_async, 1,000 per call",
            "--small": "concurrency 1",
        },
        "select exists (select from procrastinate_jobs where status = 'todo')"
        " or exists (select from procrastinate_jobs where status = 'doing')",
        jobs_max=4_000,
    ),
    _Peer(
        "chancy",
        "0.26.0",
        {
            "executor": "Async",
            "queue concurrency": 100,
            "eager_polling": True,
            "polling_interval": 1,
            "send_outgoing_interval": 0.1,
            "plugins": "defaults",
            "loop": "uvloop",
            "bulk": "Chancy.push_many, batch_size 1,000 (default)",
            "--small": "queue concurrency 1",
        },
        "select exists (select from chancy_jobs"
        " where queue = 'default' and state in ('pending', 'running', 'retrying'))",
        "endings are buffered",
        jobs_max=10_000,
    ),
    _Peer(
        "oban",
        "0.7.0",
        {
            "queue limit": 1000,
            "pool": "default (max 10)",
            "edition": "open source (no Pro bulk acknowledgement)",
            "loop": "uvloop",
            "bulk": "Oban.enqueue_many, 1,000 per call",
            "--small": "queue limit 1",
        },
        "select exists (select from oban_jobs"
        " where state in ('available', 'executing', 'scheduled', 'retryable'))",
        "needs Python 3.12",
        jobs_max=10_000,
        python=(3, 12),
    ),
    _Peer(
        "awa",
        "0.6.9",
        {
            "storage": "queue_storage (its default on a fresh database)",
            "max_workers": 1024,
            "claim_batch_size": 512,
            "deadline_duration_ms": 300_000,
            "partitions, shards, stripes, claimers": "1 each (default)",
            "AWA_COMPLETION_SHARDS": 1,
            "max_connections": "10 (default)",
            "loop": "uvloop",
            "bulk": "AsyncClient.enqueue_many_copy, 1,000 per call",
            "--small": "max_workers 1, claim_batch_size 1",
        },
        # All jobs ever enqueued minus those that ended: it keeps no row for each state.
        "select coalesce((select sum(awa.sequence_next_value(seq_name) - 1)"
        " from awa.queue_enqueue_heads), 0)"
        " > coalesce((select sum(completed_count) from awa.receipt_completion_batches), 0)"
        " + (select count(*) from awa.done_entries)"
        " + coalesce((select sum(pruned_completed_count + pruned_failed_count)"
        " from awa.queue_terminal_rollups), 0)",
        "endings are batched by its runtime",
    ),
    _Peer(
        "absurd",
        "0.5.1",
        {
            "client": "AsyncAbsurd (one connection)",
            "concurrency": 500,
            "batch_size": 500,
            "poll_interval": 0.05,
            "schema": "bundled in absurdctl 0.5.1",
            "loop": "uvloop",
            "bulk": "no bulk API: spawn, 1,000 per caller-owned transaction",
            "--small": "concurrency 1, batch_size 1",
        },
        "select exists (select from absurd.r_bench"
        " where state in ('pending', 'running', 'sleeping'))",
        "durable execution: more than a queue",
        jobs_max=5_000,
    ),
    _Peer(
        "saq",
        "0.26.4",
        {
            "queue": "PostgreSQL (beta, its documentation says)",
            "concurrency": 100,
            "pool": "4 to 20 (default)",
            "listen/notify": True,
            "loop": "uvloop",
            "bulk": "no bulk API: enqueue, 20 at a time over its pool",
            "--small": "concurrency 1",
        },
        "select exists (select from saq_jobs where status in ('new', 'queued', 'active'))",
        jobs_max=4_000,
    ),
    _Peer(
        "fronta",
        "0.6.0",
        {
            "concurrency": 512,
            "pool_size": "4 (default)",
            "loop": "uvloop",
            "bulk": "no bulk API: enqueue, 1,000 per caller-owned transaction",
            "--small": "concurrency 1",
        },
        "select exists (select from fronta.tasks where state in ('queued', 'running'))",
        "needs Python 3.12; completions are buffered",
        jobs_max=10_000,
        python=(3, 12),
    ),
    _Peer(
        "dbos",
        "3.4.0",
        {
            "polling_interval_sec": 0.05,
            "worker_concurrency": 500,
            "workflow": "async, no steps",
            "sys_db_pool_size": "20 (default)",
            "bulk": "no bulk API: DBOSClient.enqueue_in_transaction, 1,000 per transaction",
            "--small": "worker_concurrency 1",
        },
        "select exists (select from dbos.workflow_status"
        " where queue_name = 'bench' and status in ('ENQUEUED', 'PENDING'))",
        "durable execution: more than a queue",
        jobs_max=5_000,
    ),
)
