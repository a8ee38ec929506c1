"""The counters, the samples, and both as Prometheus reads them."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, LiteralString

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families as plain_metrics
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier
from structlog.testing import capture_logs

from db.pool import Database
from tests.support import connect, until
from tests.worker.web.site import Site, site
from worker.daemon import daemon
from worker.daemon.daemon import Daemon
from worker.daemon.parts import make_parts
from worker.memory.embedders import HashingEmbedder
from worker.settings import load_settings
from worker.web import sampler
from worker.web.metrics import MODELS_MAX, SECONDS_BOUNDS, Histogram
from worker.web.sampler import Samples, keep_sampling

pytestmark = pytest.mark.anyio

Labels = frozenset[tuple[str, str]]
Page = dict[str, dict[Labels, float]]

OFTEN = {"every_seconds": 0.1, "violations_every_seconds": 0.1}

# Every metric of ours, as a dashboard names it.
NAMES = {
    "jobsworth_claims_total",
    "jobsworth_finishes_total",
    "jobsworth_failures_total",
    "jobsworth_calls_total",
    "jobsworth_call_tokens_total",
    "jobsworth_call_cost_usd_total",
    "jobsworth_job_wait_seconds_bucket",
    "jobsworth_job_wait_seconds_count",
    "jobsworth_job_wait_seconds_sum",
    "jobsworth_job_run_seconds_bucket",
    "jobsworth_job_run_seconds_count",
    "jobsworth_job_run_seconds_sum",
    "jobsworth_lease_losses_total",
    "jobsworth_rescues_total",
    "jobsworth_batch_retries_total",
    "jobsworth_embeddings_total",
    "jobsworth_spooled_answers_total",
    "jobsworth_worker_info",
    "jobsworth_slots",
    "jobsworth_slots_running",
    "jobsworth_slots_stuck",
    "jobsworth_draining",
    "jobsworth_database_up",
    "jobsworth_heartbeat_age_seconds",
    "jobsworth_claim_loop_age_seconds",
    "jobsworth_pool_max",
    "jobsworth_pool_size",
    "jobsworth_pool_available",
    "jobsworth_pool_waiting",
    "jobsworth_jobs_queued",
    "jobsworth_jobs_running",
    "jobsworth_jobs_waiting",
    "jobsworth_oldest_queued_seconds",
    "jobsworth_outbox_texts",
    "jobsworth_outbox_oldest_seconds",
    "jobsworth_oldest_snapshot_seconds",
    "jobsworth_oldest_snapshot_transactions",
    "jobsworth_violations",
    "jobsworth_sample_stale_seconds",
}


async def test_every_metric_is_on_the_page(database_url: str) -> None:
    async with site(database_url) as here:
        here.metrics.claimed("default", "answer")
        here.metrics.finished("default", "answer", "done", 0.2, 1.5, for_good=True)
        here.metrics.called("scripted:m-1", "ok", 70, 30, 0.25)
        page = await _sampled(here)
    assert {name for name in page if name.startswith("jobsworth_")} == NAMES
    assert "process_resident_memory_bytes" in page
    assert "python_gc_collections_total" in page


async def test_counters_show_what_was_counted(database_url: str) -> None:
    async with site(database_url) as here:
        here.metrics.claimed("default", "answer", 3)
        here.metrics.claimed("slow", "plan")
        here.metrics.finished("default", "answer", "done", 0.2, 1.5)
        here.metrics.finished("default", "answer", "failed", None, 0.01, for_good=True)
        here.metrics.called("scripted:m-1", "ok", 70, 30, 0.25)
        here.metrics.called("scripted:m-1", "error", 0, 0, None)
        for n in range(2 * MODELS_MAX):
            here.metrics.called(f"made up {n}", "ok", 1, 1, None)
        here.metrics.lease_lost(2)
        here.metrics.rescued(4)
        here.metrics.batch_retried()
        here.metrics.spooled()
        here.metrics.embedded(64)
        page = await _page(here)
    assert page["jobsworth_claims_total"] == {
        _labels(queue="default", mode="answer"): 3,
        _labels(queue="slow", mode="plan"): 1,
    }
    assert page["jobsworth_finishes_total"] == {
        _labels(queue="default", mode="answer", outcome="done"): 1,
        _labels(queue="default", mode="answer", outcome="failed"): 1,
    }
    assert page["jobsworth_failures_total"] == {_labels(queue="default", mode="answer"): 1}
    calls = page["jobsworth_calls_total"]
    assert calls[_labels(model="scripted:m-1", status="ok")] == 1
    assert calls[_labels(model="scripted:m-1", status="error")] == 1
    assert calls[_labels(model="other", status="ok")] == MODELS_MAX + 1
    assert len(calls) <= MODELS_MAX + 2
    tokens = page["jobsworth_call_tokens_total"]
    assert tokens[_labels(model="scripted:m-1", kind="input")] == 70
    assert page["jobsworth_call_cost_usd_total"] == {_labels(model="scripted:m-1"): 0.25}
    assert page["jobsworth_lease_losses_total"] == {_labels(): 2}
    assert page["jobsworth_rescues_total"] == {_labels(): 4}
    assert page["jobsworth_batch_retries_total"] == {_labels(): 1}
    assert page["jobsworth_embeddings_total"] == {_labels(): 64}
    assert page["jobsworth_spooled_answers_total"] == {_labels(): 1}
    assert page["jobsworth_job_wait_seconds_count"] == {_labels(): 1}
    runs = page["jobsworth_job_run_seconds_bucket"]
    assert runs[_labels(mode="answer", le="0.01")] == 1
    assert runs[_labels(mode="answer", le="1.0")] == 1
    assert runs[_labels(mode="answer", le="2.5")] == 2
    assert runs[_labels(mode="answer", le="+Inf")] == 2
    assert page["jobsworth_job_run_seconds_sum"][_labels(mode="answer")] == pytest.approx(1.51)


async def test_gauges_show_the_worker_and_its_pool(database_url: str) -> None:
    async with site(database_url, pool_max=1) as here, here.database.connection():
        here.vitals.running = 2
        here.vitals.draining = True
        here.clock.now += 1.5
        page = await _page(here)
        worker_id = str(here.vitals.worker_id)
    assert page["jobsworth_slots"] == {_labels(): 5}
    assert page["jobsworth_slots_running"] == {_labels(): 2}
    assert page["jobsworth_draining"] == {_labels(): 1}
    assert page["jobsworth_database_up"] == {_labels(): 1}
    assert page["jobsworth_claim_loop_age_seconds"] == {_labels(): 1.5}
    assert page["jobsworth_heartbeat_age_seconds"] == {_labels(): 1.5}
    assert page["jobsworth_pool_max"] == {_labels(): 1}
    assert page["jobsworth_pool_size"] == {_labels(): 1}
    assert page["jobsworth_pool_available"] == {_labels(): 0}
    assert page["jobsworth_worker_info"] == {_labels(worker_id=worker_id, version="1.2.3"): 1}


async def test_gauges_show_the_sampled_database(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute(
            "insert into jobsworth.reactive_jobs (mode, created_at)"
            " select 'answer', now() - interval '90 seconds' from generate_series(1, 3)"
        )
        conn.execute("select jobsworth.enqueue('answer', delay => '1 hour')")
        conn.execute("select jobsworth.set_job_limit('held', slots => 3)")
        conn.execute("select jobsworth.set_job_limit('paced', rate => 5)")
    async with site(database_url) as here:
        page = await _sampled(here)
    assert page["jobsworth_jobs_queued"] == {_labels(): 3}
    assert page["jobsworth_jobs_running"] == {_labels(): 0}
    waiting = page["jobsworth_jobs_waiting"]
    assert waiting[_labels(reason="timer")] == 1
    assert waiting[_labels(reason="approval")] == 0
    assert len(waiting) == 10
    assert page["jobsworth_oldest_queued_seconds"][_labels()] == pytest.approx(90, abs=30)
    assert page["jobsworth_violations"] == {_labels(): 0}
    assert page["jobsworth_job_limit_slots"] == {_labels(limit="held"): 3}
    assert page["jobsworth_job_limit_slots_taken"] == {_labels(limit="held"): 0}
    assert set(page["jobsworth_job_limit_jobs_waiting"]) == {
        _labels(limit="held"),
        _labels(limit="paced"),
    }


async def test_what_was_never_read_has_no_value_but_an_age(database_url: str) -> None:
    async with site(database_url) as here:
        page = await _page(here)
    assert "jobsworth_jobs_queued" not in page
    assert "jobsworth_violations" not in page
    stale = page["jobsworth_sample_stale_seconds"]
    assert {dict(labels)["part"] for labels in stale} == {
        "jobs",
        "job_limits",
        "outbox",
        "snapshots",
        "violations",
    }


async def test_a_part_that_cannot_be_read_keeps_its_last_value_and_ages(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "PAUSE_FACTOR", 0)
    samples = Samples()
    async with Database(database_url, pool_min=1) as database:
        keep = partial(keep_sampling, database, samples, every_seconds=0.02)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep)
            await until(_async(lambda: samples.jobs.value is not None))
            await anyio.to_thread.run_sync(_rename, database_url, "reactive_jobs", "hidden")
            kept = samples.jobs.value
            await until(_async(lambda: samples.jobs.age_seconds > 1))
            assert samples.jobs.value is kept
            await anyio.to_thread.run_sync(_rename, database_url, "hidden", "reactive_jobs")
            await until(_async(lambda: samples.jobs.value is not kept), 30)
            tasks.cancel_scope.cancel()


# In a thread: it waits for the sampler's transaction, which needs the event loop to end.
def _rename(url: str, table: str, name: str) -> None:
    statement = SQL("alter table jobsworth.{} rename to {}").format
    with connect(url) as conn:
        conn.execute(statement(Identifier(table), Identifier(name)))


async def test_nothing_is_read_at_the_start_and_not_all_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many workers may start at once, when they have jobs to claim."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await really_sleep(3600)

    really_sleep = anyio.sleep
    samples = Samples()
    async with Database(database_url) as database, anyio.create_task_group() as tasks:
        monkeypatch.setattr(anyio, "sleep", sleep)
        tasks.start_soon(keep_sampling, database, samples)
        while len(pauses) < 6:
            await anyio.lowlevel.checkpoint()
        monkeypatch.undo()
        tasks.cancel_scope.cancel()
    *often, seldom, rare = sorted(pauses)
    assert all(0.7 < pause < 4 for pause in often)
    assert len(set(often)) == 4
    assert 3 <= seldom <= 15
    assert 30 <= rare <= 150
    assert samples.jobs.value is None


@pytest.mark.parametrize(("port", "sampling"), [(None, 0), (0, 1)], ids=["off", "on"])
async def test_a_daemon_samples_only_for_an_endpoint(
    database_url: str, monkeypatch: pytest.MonkeyPatch, port: int | None, sampling: int
) -> None:
    began: list[Samples] = []

    async def sample(_: Database, samples: Samples) -> None:
        began.append(samples)

    monkeypatch.setattr(daemon, "keep_sampling", sample)
    settings = load_settings().model_copy(update={"http_port": port})
    embedder = HashingEmbedder()
    with connect(database_url) as conn:
        async with anyio.create_task_group() as tasks:
            parts = make_parts(settings, database_url, {}, embedder)
            tasks.start_soon(Daemon(settings, parts).run)
            workers = "select count(*) from jobsworth.workers where idle"
            await until(_async(lambda: _only(conn, workers) == 1))
            os.kill(os.getpid(), signal.SIGTERM)
    assert len(began) == sampling


async def test_violations_found_by_the_sampler_are_logged(database_url: str) -> None:
    samples = Samples()
    with connect(database_url) as conn:
        conn.execute(
            "insert into jobsworth.llm_calls (provider, model, status, request_id, settled_at)"
            " values ('offline', 'rules', 'ok', 'r1', now())"
        )
    with capture_logs() as lines:
        async with Database(database_url) as database, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(keep_sampling, database, samples, **OFTEN))
            await until(_async(lambda: samples.violations.value is not None))
            tasks.cancel_scope.cancel()
    found = {"settled call without its ledger entry": 1}
    assert samples.violations.value == found
    assert {"event": "violations.found", "log_level": "error", "violations": found} in lines


async def test_openmetrics_is_served_on_request(database_url: str) -> None:
    async with site(database_url) as here:
        here.metrics.finished("default", "answer", "done", 0.2, 1.5)
        answer = await here.client.get(
            "/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"}
        )
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    labels = 'mode="answer",outcome="done",queue="default"'
    assert f"jobsworth_finishes_total{{{labels}}} 1.0" in answer.text


async def test_a_scrape_asks_the_database_nothing(database_url: str) -> None:
    async with site(database_url, pool_max=1) as here, here.database.connection():
        before = here.database.pool.get_stats()["requests_num"]
        assert (await here.client.get("/metrics")).status_code == 200
        assert here.database.pool.get_stats()["requests_num"] == before


def test_a_value_on_a_bound_counts_below_it() -> None:
    histogram = Histogram()
    for bound in SECONDS_BOUNDS:
        histogram.observe(bound)
    histogram.observe(math.nextafter(SECONDS_BOUNDS[-1], math.inf))
    assert histogram.counts == [1] * (len(SECONDS_BOUNDS) + 1)


async def _sampled(here: Site) -> Page:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(keep_sampling, here.database, here.samples, **OFTEN))
        samples = here.samples
        parts = (samples.jobs, samples.outbox, samples.snapshots, samples.job_limits)
        await until(_async(lambda: all(part.value is not None for part in parts)))
        await until(_async(lambda: here.samples.violations.value is not None))
        tasks.cancel_scope.cancel()
    return await _page(here)


async def _page(here: Site) -> Page:
    answer = await here.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    page: Page = {}
    for family in plain_metrics(answer.text):
        for found in family.samples:
            page.setdefault(found.name, {})[frozenset(found.labels.items())] = found.value
    return page


def _only(conn: psycopg.Connection[DictRow], query: LiteralString) -> Any:
    row = conn.execute(query).fetchone()
    return None if row is None else next(iter(row.values()))


def _async(check: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        return check()

    return answer


def _labels(**labels: str) -> Labels:
    return frozenset(labels.items())
