"""The metrics page, in the format of Prometheus.

In: the worker's counters and vitals, the last samples of the database, the pool's own statistics.
Out: the page, in the format that the scraper accepts. Invariant: a scrape reads values in memory
and waits neither for the database nor for the claim loop. Values sampled from the database are the
same at every worker: aggregate them by maximum, not by sum.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from db.limits.job_limits import LimitUse
from worker.daemon.vitals import Vitals
from worker.web.metrics import SECONDS_BOUNDS, Histogram, Metrics
from worker.web.sampler import Samples

PoolStats: TypeAlias = Callable[[], Mapping[str, int]]
Families: TypeAlias = Iterator[Metric]


def create_registry(
    metrics: Metrics, vitals: Vitals, samples: Samples, pool_stats: PoolStats, version: str
) -> CollectorRegistry:
    """A registry for one worker, so that two workers in one process do not share metrics."""
    registry = CollectorRegistry()
    registry.register(WorkerCollector(metrics, vitals, samples, pool_stats, version))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The page and its content type, for the value of an `Accept` header."""
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


class WorkerCollector(Collector):
    def __init__(
        self,
        metrics: Metrics,
        vitals: Vitals,
        samples: Samples,
        pool_stats: PoolStats,
        version: str,
    ) -> None:
        self._metrics = metrics
        self._vitals = vitals
        self._samples = samples
        self._pool_stats = pool_stats
        self._version = version

    def collect(self) -> Families:
        yield from _counters(self._metrics)
        yield from _histograms(self._metrics)
        yield from _worker(self._vitals, self._version)
        yield from _pool(self._pool_stats())
        yield from _sampled(self._samples)


def _counters(metrics: Metrics) -> Families:
    yield _labeled("jobsworth_claims", "Jobs claimed", ["queue", "mode"], metrics.claims)
    yield _labeled(
        "jobsworth_finishes",
        "Attempts that ended, by outcome",
        ["queue", "mode", "outcome"],
        metrics.finishes,
    )
    yield _labeled(
        "jobsworth_failures", "Jobs that failed for good", ["queue", "mode"], metrics.failures
    )
    yield _labeled(
        "jobsworth_calls",
        "Model calls that this worker has settled",
        ["model", "status"],
        metrics.calls,
    )
    yield _labeled(
        "jobsworth_call_tokens", "Tokens of these calls", ["model", "kind"], metrics.tokens
    )
    costs = {(model,): cost for model, cost in metrics.costs.items()}
    yield _labeled(
        "jobsworth_call_cost_usd", "Known costs of these calls, in USD", ["model"], costs
    )
    yield CounterMetricFamily(
        "jobsworth_lease_losses",
        "Attempts that wrote nothing because another worker held their job",
        metrics.lease_losses,
    )
    yield CounterMetricFamily(
        "jobsworth_rescues", "Jobs this worker took from dead workers", metrics.rescues
    )
    yield CounterMetricFamily(
        "jobsworth_batch_retries", "Batches of finishes that were retried", metrics.batch_retries
    )
    blocks = CounterMetricFamily(
        "jobsworth_loop_blocks",
        "Times that a handler blocked the event loop for more than a second",
        labels=["mode"],
    )
    for mode, times in list(metrics.loop_blocks.items()):
        blocks.add_metric([mode], times)
    yield blocks
    yield CounterMetricFamily(
        "jobsworth_spooled_answers",
        "Results of paid calls kept on disk while the database did not accept them",
        metrics.spooled_answers,
    )
    yield CounterMetricFamily("jobsworth_embeddings", "Texts embedded", metrics.embeddings)


def _labeled(
    name: str, text: str, labels: list[str], values: Mapping[tuple[str, ...], float]
) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for of_labels, value in list(values.items()):
        family.add_metric(of_labels, value)
    return family


def _histograms(metrics: Metrics) -> Families:
    wait = HistogramMetricFamily(
        "jobsworth_job_wait_seconds", "Time of a job from ready to started", labels=[]
    )
    _add_histogram(wait, [], metrics.job_wait)
    yield wait
    run = HistogramMetricFamily(
        "jobsworth_job_run_seconds", "Time of an attempt from start to end", labels=["mode"]
    )
    for mode, histogram in metrics.job_run.items():
        _add_histogram(run, [mode], histogram)
    yield run


def _add_histogram(family: HistogramMetricFamily, labels: list[str], values: Histogram) -> None:
    buckets = list(zip(_BUCKETS, accumulate(values.counts), strict=True))
    family.add_metric(labels, buckets, values.sum)


_BUCKETS = [*(str(bound) for bound in SECONDS_BOUNDS), "+Inf"]


def _worker(vitals: Vitals, version: str) -> Families:
    info = GaugeMetricFamily(
        "jobsworth_worker_info", "This worker; always 1", labels=["worker_id", "version"]
    )
    info.add_metric([str(vitals.worker_id), version], 1)
    yield info
    yield _gauge("jobsworth_slots", "Jobs this worker may run at once", vitals.slots)
    yield _gauge("jobsworth_slots_running", "Slots that hold a job", vitals.running)
    yield _gauge(
        "jobsworth_slots_stuck", "Slots held by attempts that do not end when told to", vitals.stuck
    )
    yield _gauge("jobsworth_draining", "1 while this worker stops", vitals.draining)
    yield _gauge(
        "jobsworth_database_up",
        "1 while this worker's statements work",
        vitals.database_state == "ok",
    )
    yield _gauge(
        "jobsworth_heartbeat_age_seconds",
        "Time since this worker's last successful heartbeat",
        vitals.heartbeat_age_seconds,
    )
    yield _gauge(
        "jobsworth_claim_loop_age_seconds",
        "Time since this worker's claim loop began an iteration",
        vitals.claim_loop_age_seconds,
    )


def _pool(stats: Mapping[str, int]) -> Families:
    yield _gauge("jobsworth_pool_max", "Maximum of database connections", stats["pool_max"])
    yield _gauge("jobsworth_pool_size", "Database connections now", stats["pool_size"])
    yield _gauge(
        "jobsworth_pool_available", "Database connections not in use", stats["pool_available"]
    )
    yield _gauge(
        "jobsworth_pool_waiting",
        "Requests waiting for a database connection",
        stats["requests_waiting"],
    )


def _sampled(samples: Samples) -> Families:
    yield from _jobs(samples)
    yield from _job_limits(samples.job_limits.value or ())
    outbox, snapshots, violations = (
        samples.outbox.value,
        samples.snapshots.value,
        samples.violations.value,
    )
    yield _gauge("jobsworth_outbox_texts", "Texts to embed", outbox and outbox.texts)
    yield _gauge(
        "jobsworth_outbox_oldest_seconds",
        "Age of the oldest text to embed",
        outbox and outbox.oldest_seconds,
    )
    yield _gauge(
        "jobsworth_oldest_snapshot_seconds",
        "Age of the oldest transaction in the database that holds back vacuum",
        snapshots and snapshots.oldest_seconds,
    )
    yield _gauge(
        "jobsworth_oldest_snapshot_transactions",
        "Age in transactions of the oldest snapshot, replication slots and standbys included",
        snapshots and snapshots.oldest_transactions,
    )
    yield _gauge(
        "jobsworth_violations",
        "Breaches of an invariant; always 0. The books of the last hour only: see jobsworth doctor",
        None if violations is None else sum(violations.values()),
    )
    recall = GaugeMetricFamily(
        "jobsworth_memory_index_recall",
        "Share of the 10 nearest memories that the index of a space finds; none without an index",
        labels=["space"],
    )
    for one in samples.index_recall.value or ():
        recall.add_metric([str(one.space_id)], one.recall)
    yield recall
    stale = GaugeMetricFamily(
        "jobsworth_sample_stale_seconds",
        "Time since this part of the samples could be read",
        labels=["part"],
    )
    for part in ("jobs", "job_limits", "outbox", "snapshots", "violations"):
        stale.add_metric([part], getattr(samples, part).age_seconds)
    yield stale


def _jobs(samples: Samples) -> Families:
    jobs = samples.jobs.value
    yield _gauge(
        "jobsworth_jobs_queued", "Jobs ready to run; above 10,000 an estimate", jobs and jobs.queued
    )
    yield _gauge("jobsworth_jobs_running", "Jobs running, on any worker", jobs and jobs.running)
    waiting = GaugeMetricFamily(
        "jobsworth_jobs_waiting",
        "Jobs not yet ready, by what they wait for; above 10,000 an estimate",
        labels=["reason"],
    )
    for reason, count in (jobs.waiting if jobs else {}).items():
        waiting.add_metric([reason], count)
    yield waiting
    yield _gauge(
        "jobsworth_oldest_queued_seconds",
        "Age of the job that has been ready longest, since its insert or its last attempt",
        jobs and jobs.oldest_queued_seconds,
    )


def _job_limits(limits: Iterable[LimitUse]) -> Families:
    slots = GaugeMetricFamily(
        "jobsworth_job_limit_slots", "Slots of a limit of jobs, for each key", labels=["limit"]
    )
    taken = GaugeMetricFamily(
        "jobsworth_job_limit_slots_taken", "Slots taken, of all keys together", labels=["limit"]
    )
    waiting = GaugeMetricFamily(
        "jobsworth_job_limit_jobs_waiting", "Jobs that wait for a limit of jobs", labels=["limit"]
    )
    for limit in limits:
        if limit.slots is not None:
            slots.add_metric([limit.name], limit.slots)
            taken.add_metric([limit.name], limit.taken)
        waiting.add_metric([limit.name], limit.waiting)
    yield from (slots, taken, waiting)


# A gauge without a value has no sample on the page, because unknown is not zero.
def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], float(value))
    return family
