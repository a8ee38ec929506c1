"""The daemon's parts, made from the settings: each is given the parts that it uses.

In: settings, the database's URL, handlers and an embedder. Out: parts that have not started. They
are made in the order of their use, so none is handed a callback to a part that is made later: what
points back is an event (`Wakes`) or a collection (`EndedAttempts`, the `Promoter`).
"""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import anyio

from db.errors import Refused
from db.pool import Database
from worker import events
from worker.approvals import upkeep as approvals_upkeep
from worker.attempt_state import PriceSource, Tools
from worker.daemon import stalled
from worker.daemon.heartbeat import Heartbeat, Identity
from worker.daemon.judge import Judge
from worker.daemon.open_files import connections_max
from worker.daemon.processes import own_process
from worker.daemon.signals import Signals, Stop
from worker.daemon.upkeep import Part, look_for_due_parts
from worker.daemon.vitals import Vitals
from worker.daemon.watch import Watch
from worker.deployments import upkeep as deployments_upkeep
from worker.deployments.deployer import Deployer
from worker.extensions.batches import Batches
from worker.extensions.middleware import declared as middlewares
from worker.extensions.resources import Resources
from worker.extensions.resources import declared as lifespans
from worker.handlers import Handler
from worker.limits import fair_upkeep
from worker.limits import upkeep as limits_upkeep
from worker.limits.fair_queues import FairQueues
from worker.llm.choice import CONNECTIONS_MIN, ModelChoice
from worker.log import get_logger
from worker.memory.embedders import Embedder
from worker.money import upkeep as money_upkeep
from worker.money.pricing import Pricing
from worker.money.recording import Recorder
from worker.money.spool import Spool
from worker.money.spool_folder import SpoolFolder, folder_of
from worker.queue import upkeep as queue_upkeep
from worker.queue.attempt_log import AttemptLog
from worker.queue.claim import Claimer
from worker.queue.ended import EndedAttempts
from worker.queue.finish import Finisher
from worker.queue.promote import Promoter
from worker.queue.running import Running
from worker.queue.upkeep import Attempts, RescueBounds, Rescuer
from worker.queue.wake import Wakes
from worker.retention import upkeep as retention_upkeep
from worker.schedules import upkeep as schedules_upkeep
from worker.settings import Settings
from worker.web.metrics import Metrics
from worker.web.sampler import Samples

log = get_logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that one worker consists of."""

    database: Database
    handlers_database: Database
    direct_url: str
    identity: Identity
    embedder: Embedder
    tools: Tools
    stop: Stop
    signals: Signals
    wakes: Wakes
    vitals: Vitals
    metrics: Metrics
    samples: Samples
    heartbeat: Heartbeat
    running: Running
    promoter: Promoter
    finisher: Finisher
    claimer: Claimer
    upkeep: list[Part]
    watch: Watch


def make_parts(
    settings: Settings,
    url: str,
    registry: Mapping[str, Handler],
    embedder: Embedder,
    pricing: PriceSource | None = None,
    tracing: Any = None,
) -> Parts:
    """The parts of a worker with these settings; `url` leads to its database.

    Without `pricing`, own prices come first and those of genai-prices second. `tracing` is an
    `Otel` of `worker.tracing`, or None.
    """
    echo = _tell_sql if settings.sql_echo else None
    database = Database(
        url,
        schema=settings.schema_name,
        pool_min=settings.pool_min,
        pool_max=settings.pool_max,
        statement_seconds=settings.statement_seconds,
        acquire_seconds=settings.pool_wait_seconds,
        lifetime_seconds=settings.pool_lifetime_seconds,
        idle_seconds=settings.pool_idle_seconds,
        application_name="jobsworth worker",
        echo=echo,
    )
    # Handlers that hold connections must not keep the worker from claiming and finishing. A late
    # statement of theirs is a failure: a worker that lost PostgreSQL stops them by its heartbeat.
    handlers_database = Database(
        url,
        schema=settings.schema_name,
        pool_min=0,
        pool_max=settings.handler_pool_max,
        statement_seconds=settings.statement_seconds,
        acquire_seconds=settings.pool_wait_seconds,
        lifetime_seconds=settings.pool_lifetime_seconds,
        idle_seconds=settings.pool_idle_seconds,
        application_name="jobsworth handlers",
        late=Refused,
        echo=echo,
    )
    # Through a pooler in transaction mode neither LISTEN nor the heartbeat's timeout works.
    direct_url = settings.listen_url or url
    identity = _identity(settings, registry)
    stop, wakes, vitals = Stop(), Wakes(), Vitals(uuid4(), settings.slots)
    signals, metrics = Signals(stop), Metrics()
    tools = _tools(
        settings,
        database,
        handlers_database,
        embedder,
        pricing or Pricing(),
        spooled=metrics.spooled,
        called=metrics.called,
        tracing=tracing,
    )
    if tracing is not None:
        tracing.count(metrics)
    heartbeat = Heartbeat(
        direct_url,
        settings.schema_name,
        identity,
        beat_seconds=settings.heartbeat_seconds,
        stop_seconds=settings.lease_stop_seconds,
        judge=Judge(settings.rescue_seconds, settings.heartbeat_seconds, identity.process),
        vitals=vitals,
    )
    fair = FairQueues(identity.queues)
    ended = EndedAttempts()
    attempt_log = AttemptLog(metrics, settings.log_attempts_per_second)
    running = Running(
        registry,
        tools,
        attempt_log,
        ended,
        wakes.work,
        heartbeat,
        slots=settings.slots,
        modules=settings.handlers,
        failures_max=settings.failures_max,
        retry_base_seconds=settings.retry_base_seconds,
        retry_max_seconds=settings.retry_max_seconds,
    )
    promoter = Promoter(database, wakes.work, vitals, running)
    return Parts(
        database=database,
        handlers_database=handlers_database,
        direct_url=direct_url,
        identity=identity,
        embedder=embedder,
        tools=tools,
        stop=stop,
        signals=signals,
        wakes=wakes,
        vitals=vitals,
        metrics=metrics,
        samples=Samples(),
        heartbeat=heartbeat,
        running=running,
        promoter=promoter,
        finisher=Finisher(database, ended, running, promoter, wakes, retried=metrics.batch_retried),
        claimer=Claimer(
            database,
            heartbeat,
            running,
            promoter,
            vitals,
            wakes,
            queues=identity.queues,
            modes=identity.modes,
            poll_seconds=settings.poll_seconds,
            crashes_max=settings.crashes_max,
            fair=fair,
        ),
        upkeep=upkeep_parts(
            database,
            heartbeat,
            vitals,
            running,
            promoter,
            tools.spool,
            tools.recorder,
            wakes,
            RescueBounds(
                after_seconds=settings.rescue_seconds,
                crashes_max=settings.crashes_max,
                retry_base_seconds=settings.retry_base_seconds,
                retry_max_seconds=settings.retry_max_seconds,
            ),
            poll_seconds=settings.poll_seconds,
            windows_days=settings.budget_windows_days,
            rescued=metrics.rescued,
            registry=registry,
            fair=fair,
        ),
        watch=Watch(
            heartbeat,
            running,
            attempt_log,
            vitals,
            stop,
            signals,
            wakes,
            (database, handlers_database),
            slots=settings.slots,
            threads=settings.threads,
        ),
    )


def upkeep_parts(
    database: Database,
    heartbeat: Heartbeat,
    vitals: Vitals,
    attempts: Attempts,
    promoter: Promoter,
    spool: Spool,
    recorder: Recorder,
    wakes: Wakes,
    rescue: RescueBounds,
    *,
    poll_seconds: float,
    windows_days: int,
    rescued: Callable[[int], None],
    registry: Mapping[str, Handler],
    fair: FairQueues,
) -> list[Part]:
    """What the chapters bring to upkeep. A new part is one more line here."""
    rescuer = Rescuer(database, heartbeat, promoter, rescue, rescued)
    scheduling, scheduling_due = schedules_upkeep.parts(database, registry, wakes)
    limiting, limiting_due = limits_upkeep.parts(database, heartbeat, wakes)
    due_parts = [
        *queue_upkeep.due_parts(database, heartbeat, rescuer, wakes),
        *approvals_upkeep.due_parts(database, wakes),
        *deployments_upkeep.due_parts(database, wakes),
        *retention_upkeep.due_parts(database),
        *scheduling_due,
        *limiting_due,
        *fair_upkeep.due_parts(fair, wakes),
        *stalled.due_parts(database),
    ]
    return [
        *queue_upkeep.parts(
            database, heartbeat, vitals, attempts, rescuer, wakes, poll_seconds=poll_seconds
        ),
        look_for_due_parts(database, due_parts, heartbeat.is_first),
        *money_upkeep.parts(database, spool, recorder, windows_days=windows_days),
        *deployments_upkeep.parts(database, wakes),
        *retention_upkeep.parts(database, heartbeat),
        *scheduling,
        *limiting,
        *fair_upkeep.parts(database, fair, wakes),
    ]


def model_choice(settings: Settings) -> ModelChoice:
    """The model of the shipped modes, with a connection for each slot and as many again."""
    return ModelChoice(
        settings.model,
        settings.model_url,
        settings.model_key.get_secret_value() if settings.model_key else None,
        settings.model_seconds,
        connections_max=connections_max(max(CONNECTIONS_MIN, 2 * settings.slots)),
    )


def _tools(
    settings: Settings,
    database: Database,
    handlers_database: Database,
    embedder: Embedder,
    pricing: PriceSource,
    *,
    spooled: Callable[[], None],
    called: Callable[[str, str, int, int, float | None], None],
    tracing: Any,
) -> Tools:
    folder = folder_of(
        settings.spool_dir, settings.database_url, settings.data_dir, settings.schema_name
    )
    return Tools(
        database=database,
        embedder=embedder,
        threads=anyio.CapacityLimiter(settings.threads),
        payload_bytes_max=settings.payload_bytes_max,
        deployer=Deployer(
            database, settings.deploy_file, settings.releases_dir, settings.output_bytes_max
        ),
        spool=Spool(database, SpoolFolder(folder, settings.spool_bytes_max), spooled),
        pricing=pricing,
        unknown_price=settings.unknown_price,
        output_tokens_max=settings.max_output_tokens,
        refusals_max=settings.refusals_max,
        refused_seconds_max=settings.refused_seconds_max,
        model=model_choice(settings),
        history_tokens=settings.history_tokens,
        step_input_bytes=settings.step_input_bytes,
        instructions=settings.instructions,
        handlers_database=handlers_database,
        called=called,
        middlewares=(*([] if tracing is None else [tracing.around]), *middlewares),
        tracing=tracing,
        batches=Batches(settings.slots),
        resources=Resources(tuple(lifespans.values())),
        record_days=settings.record_calls,
    )


def _tell_sql(statement: str, seconds: float) -> None:
    log.info(events.SQL_RAN, statement=statement, seconds=round(seconds, 6))


def _identity(settings: Settings, registry: Mapping[str, Handler]) -> Identity:
    return Identity(
        host=socket.gethostname(),
        pid=os.getpid(),
        version=version("jobsworth"),
        modes=tuple(sorted(registry)),
        queues=_queues(settings, registry),
        slots=settings.slots,
        process=own_process(),
    )


def _queues(settings: Settings, registry: Mapping[str, Handler]) -> tuple[str, ...]:
    if settings.queues is not None:
        return settings.queues
    return tuple(dict.fromkeys(("default", *(h.queue for h in registry.values()))))
