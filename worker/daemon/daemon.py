"""The daemon: its parts, its start and its end.

A job goes through `claim` → `running`/`attempt` → `decide` → `finish` → `promote`; beside that run
`heartbeat` (a thread), `upkeep`, `wake` (LISTEN), `embed` and the health endpoint. The daemon
starts while the database is down and waits for it. Soft stop: no more claims, running jobs may
finish within the drain; then what still runs is given back, no try burnt. A second signal gives
back at once.
"""

import gc
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from uuid import UUID, uuid4

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from db.errors import JobsworthError, SchemaMismatch
from db.migrate import check, migrate
from db.pool import Database, bounded
from db.queue import workers
from db.queue.finish import Finished
from db.server.embedded import Embedded
from db.server.embedded import start as start_embedded
from worker import events, handler_modules, handlers
from worker.approvals import webhooks
from worker.attempt_state import Tools
from worker.daemon import systemd
from worker.daemon.heartbeat import Heartbeat, Identity
from worker.daemon.vitals import Vitals
from worker.deployments.deployer import Deployer
from worker.llm.choice import ModelChoice
from worker.log import get_logger
from worker.memory import embed
from worker.memory.embedders import Embedder
from worker.memory.embedders import from_settings as embedder_from_settings
from worker.money.pricing import Pricing
from worker.money.spool import Spool
from worker.money.spool_folder import SpoolFolder, folder_of
from worker.outcomes import Canceled, Lost, Released
from worker.queue.attempt_log import AttemptLog
from worker.queue.claim import Claimer
from worker.queue.finish import Ending, Finisher
from worker.queue.promote import Promoter
from worker.queue.running import Running
from worker.queue.upkeep import Rescue, Upkeep
from worker.queue.wake import listen
from worker.settings import Settings
from worker.web.metrics import Metrics
from worker.web.sampler import Samples, keep_sampling

OK = 0
REFUSED = 2
SCHEMA_REFUSED = 6
STUCK = 70

WATCH_SECONDS = 0.25
STUCK_SECONDS = 10.0
FLUSH_SECONDS = 5.0
CLAIM_LOOP_LIMIT_SECONDS = 90.0
DATABASE_WAIT_SECONDS_MAX = 5.0
SPOOL_SECONDS = 10.0

log = get_logger()


async def run(settings: Settings) -> int:
    """Run a worker until it is told to stop; returns the process's exit code."""
    try:
        registry = handler_modules.load(settings.handlers)
        _warn_of_shadows()
        _model(settings).check()
        embedder = embedder_from_settings(
            url=settings.embedder_url,
            model=settings.embedder_model,
            key=settings.embedder_key.get_secret_value() if settings.embedder_key else None,
            dimensions=settings.embedder_dimensions,
            batch_max=settings.embed_batch_max,
        )
    except JobsworthError as error:
        log.error(events.DAEMON_FAILED, error=error.message, remedy=error.remedy)
        return REFUSED
    try:
        async with _database(settings) as (url, let_go):
            return await Daemon(settings, url, registry, embedder, let_go).run()
    finally:
        await embedder.close()


class Daemon:
    """One worker process."""

    def __init__(
        self,
        settings: Settings,
        url: str,
        registry: Mapping[str, handlers.Handler],
        embedder: Embedder,
        let_go: Callable[[], None],
    ) -> None:
        self._let_go = let_go
        self._settings = settings
        self._registry = registry
        self._embedder = embedder
        self._database = Database(
            url,
            schema=settings.schema_name,
            pool_min=settings.pool_min,
            pool_max=settings.pool_max,
            statement_seconds=settings.statement_seconds,
            application_name="jobsworth worker",
        )
        self._direct_url = settings.listen_url or url
        deployer = Deployer(
            self._database, settings.deploy_file, settings.releases_dir, settings.output_bytes_max
        )
        self._metrics = Metrics()
        self._tools = Tools(
            database=self._database,
            embedder=embedder,
            threads=anyio.CapacityLimiter(settings.threads),
            payload_bytes_max=settings.payload_bytes_max,
            deployer=deployer,
            spool=Spool(self._database, _spool_folder(settings), self._metrics.spooled),
            pricing=Pricing(),
            unknown_price=settings.unknown_price,
            output_tokens_max=settings.max_output_tokens,
            model=_model(settings),
            history_tokens=settings.history_tokens,
            instructions=settings.instructions,
        )
        self._identity = Identity(
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("jobsworth"),
            modes=tuple(sorted(registry)),
            queues=_queues(settings, registry),
            slots=settings.slots,
        )
        self._samples = Samples()
        self._vitals = Vitals(uuid4(), settings.slots)
        self._draining = False
        self._exit_code = OK
        self._stopping = anyio.Event()
        self._hurry = anyio.Event()
        self._embed_wake = embed.Wake()
        self._stuck_since: float | None = None

    async def run(self) -> int:
        """Until stopped; every connection is closed on return."""
        log.info(
            events.DAEMON_STARTED,
            pid=self._identity.pid,
            version=self._identity.version,
            queues=self._identity.queues,
            modes=self._identity.modes,
            slots=self._identity.slots,
        )
        async with self._database, anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_signals)
            tasks.start_soon(self._watchdog)
            try:
                await self._serve_health(tasks)
                systemd.ready()
                if await self._wait_for_database():
                    await self._work(tasks)
                    self._end_despite_threads()
            except SchemaMismatch as error:
                log.error(events.SCHEMA_REFUSED, error=error.message)
                self._exit_code = SCHEMA_REFUSED
            except JobsworthError as error:
                log.error(events.DAEMON_FAILED, error=error.message, remedy=error.remedy)
                self._exit_code = REFUSED
            systemd.stopping()
            tasks.cancel_scope.cancel()
        log.info(events.DAEMON_STOPPED, exit_code=self._exit_code)
        return self._exit_code

    async def _work(self, tasks: TaskGroup) -> None:
        """Claim and run jobs until told to stop, then drain."""
        self._assemble(tasks)
        # What lives as long as the process need not be looked through by every collection of
        # garbage: 22 us of CPU a job became 18.
        gc.collect()
        gc.freeze()
        self._heartbeat.start()
        try:
            tasks.start_soon(self._finisher.run)
            tasks.start_soon(self._promoter.run)
            tasks.start_soon(self._tools.spool.run)
            tasks.start_soon(self._upkeep.run)
            tasks.start_soon(self._listen)
            tasks.start_soon(self._embed)
            tasks.start_soon(self._tell_webhooks)
            tasks.start_soon(self._watch)
            if self._settings.http_port is not None:
                tasks.start_soon(keep_sampling, self._database, self._samples)
            await self._drain_spool()
            async with anyio.create_task_group() as claiming:
                claiming.start_soon(self._claimer.run)
                await self._stopping.wait()
                claiming.cancel_scope.cancel()
            await self._drain()
        finally:
            self._heartbeat.stop()

    def _assemble(self, tasks: TaskGroup) -> None:
        settings = self._settings
        self._heartbeat = Heartbeat(
            self._direct_url,
            settings.schema_name,
            self._identity,
            beat_seconds=settings.heartbeat_seconds,
            stop_seconds=settings.lease_stop_seconds,
            running=lambda: len(self._running),
            draining=lambda: self._draining,
            vitals=self._vitals,
        )
        self._promoter = Promoter(self._database, moved=self._wake_claimer)
        self._finisher = Finisher(
            self._database,
            finished=self._finished,
            committed=self._committed,
            retried=self._metrics.batch_retried,
        )
        self._attempt_log = AttemptLog(self._metrics, settings.log_attempts_per_second)
        self._running = Running(
            tasks,
            self._registry,
            self._tools,
            self._attempt_log,
            slots=settings.slots,
            modules=settings.handlers,
            failures_max=settings.failures_max,
            retry_base_seconds=settings.retry_base_seconds,
            retry_max_seconds=settings.retry_max_seconds,
            ended=self._finisher.put,
            freed=self._wake_claimer,
        )
        self._claimer = Claimer(
            self._database,
            queues=self._identity.queues,
            modes=self._identity.modes,
            poll_seconds=settings.poll_seconds,
            worker_id=self._claiming_as,
            free_slots=self._running.free_slots,
            start=self._running.start,
            deferred=self._promoter.deferred,
            progressed=self._vitals.claim_loop_progress,
            unanswered=self._claim_unanswered,
        )
        self._upkeep = Upkeep(
            self._database,
            self._heartbeat,
            Rescue(
                after_seconds=settings.rescue_seconds,
                crashes_max=settings.crashes_max,
                retry_base_seconds=settings.retry_base_seconds,
                retry_max_seconds=settings.retry_max_seconds,
            ),
            poll_seconds=settings.poll_seconds,
            windows_days=settings.budget_windows_days,
            known=self._running.job_ids,
            drain_spool=self._tools.spool.drain,
            turn_seconds=lambda: self._vitals.claim_loop_age_seconds,
            ended=self._promoter.ended,
            moved=self._claimer.wake,
            rescued=self._metrics.rescued,
            cancel=lambda job_id, lease_no, reason: self._running.stop(
                job_id, lease_no, Canceled(reason)
            ),
        )

    # The parts refer to each other in a circle; these three close it.
    def _wake_claimer(self) -> None:
        self._claimer.wake()

    def _claim_unanswered(self) -> None:
        self._upkeep.claim_unanswered()

    def _finished(self, ending: Ending, status: str | None) -> None:
        self._running.finished(ending, status)

    def _claiming_as(self) -> UUID | None:
        return self._heartbeat.pulse.worker_id if self._heartbeat.alive() else None

    def _committed(self, finished: list[Finished], remembered: bool) -> None:
        self._promoter.ended([one.id for one in finished if one.unblocks])
        if any(one.status == "waiting" for one in finished):
            self._upkeep.timer_set()
        if remembered:
            self._embed_wake.set()

    async def _drain_spool(self) -> None:
        """Before the first claim: a job that goes on here shall find what was paid for it."""
        self._tools.spool.warn_if_unusable()
        try:
            with anyio.move_on_after(SPOOL_SECONDS):
                await self._tools.spool.drain()
        except JobsworthError as error:
            log.warning(events.UPKEEP_FAILED, part="spool", error=str(error))

    async def _listen(self) -> None:
        await listen(
            self._direct_url,
            self._settings.schema_name,
            work=self._claimer.wake,
            timer=self._upkeep.timer_set,
            cancel=self._upkeep.cancel_asked,
        )

    async def _embed(self) -> None:
        await embed.run(
            self._database,
            self._embedder,
            wake=self._embed_wake,
            batch_max=self._settings.embed_batch_max,
            embedded=self._metrics.embedded,
            busy=lambda: len(self._running) > 0,
        )

    async def _tell_webhooks(self) -> None:
        secret, hosts = self._settings.webhook_secret, self._settings.webhook_hosts
        if secret is not None and hosts:
            await webhooks.run(self._database, secret=secret.get_secret_value(), hosts=hosts)

    async def _drain(self) -> None:
        """Let running jobs finish, then give back the rest, then say goodbye."""
        self._draining = self._vitals.draining = True
        log.info(events.DAEMON_DRAINING, running=len(self._running))
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._until_hurried, waiting.cancel_scope)
            with anyio.move_on_after(self._settings.drain_seconds):
                await self._running.wait_empty()
            waiting.cancel_scope.cancel()
        released = self._running.stop_all(Released())
        with anyio.move_on_after(FLUSH_SECONDS):
            await self._running.wait_empty()
            await self._promoter.wait_idle()
        self._heartbeat.stop()
        await anyio.to_thread.run_sync(self._heartbeat.join, FLUSH_SECONDS)
        await self._leave()
        if released:
            log.info(events.JOBS_RELEASED, jobs=released, kept=len(self._running))

    def _end_despite_threads(self) -> None:
        """End the process here if an attempt is left: its thread would keep it for ever.

        Nothing can interrupt a thread, and the interpreter waits for each. The job is rescued.
        """
        if not len(self._running):
            return
        systemd.stopping()
        log.info(events.DAEMON_STOPPED, exit_code=self._exit_code, kept=len(self._running))
        self._let_go()
        os._exit(self._exit_code)

    async def _until_hurried(self, scope: anyio.CancelScope) -> None:
        await self._hurry.wait()
        scope.cancel()

    async def _leave(self) -> None:
        worker_id = self._heartbeat.pulse.worker_id
        if worker_id is None:
            return
        try:
            async with bounded(FLUSH_SECONDS), self._database.connection() as connection:
                await workers.leave(connection, worker_id)
        except JobsworthError as error:
            log.warning(events.UPKEEP_FAILED, part="leave", error=str(error))

    async def _serve_health(self, tasks: TaskGroup) -> None:
        if self._settings.http_port is None:
            return
        # FastAPI and uvicorn take memory that a worker without the endpoint need not pay.
        from worker.web.app import create_app
        from worker.web.health import Limits
        from worker.web.server import listen as open_port
        from worker.web.server import serve

        listener = await open_port(self._settings.http_host, self._settings.http_port)
        app = create_app(
            self._database,
            self._vitals,
            self._metrics,
            self._samples,
            version=self._identity.version,
            limits=Limits(heartbeat_ready_seconds=self._settings.lease_stop_seconds),
        )
        tasks.start_soon(serve, listener, app)

    async def _wait_for_database(self) -> bool:
        """Until the database answers with the schema we know; False if we were stopped before.

        Raises `SchemaMismatch`: a schema we do not know is for a person to decide.
        """
        pause, lost = 0.1, False
        while not self._stopping.is_set():
            try:
                async with bounded(DATABASE_WAIT_SECONDS_MAX), self._database.connection() as conn:
                    state = await check(conn, self._settings.schema_name)
            except JobsworthError as error:
                if not lost:
                    log.warning(events.DATABASE_LOST, error=str(error))
                lost = True
                self._vitals.database_state = "lost"
            else:
                if state.state != "ok":
                    raise SchemaMismatch(state.message)
                self._vitals.database_state = "ok"
                log.info(events.DAEMON_READY, schema=self._settings.schema_name)
                return True
            with anyio.move_on_after(pause):
                await self._stopping.wait()
            pause = min(DATABASE_WAIT_SECONDS_MAX, pause * 2)
        return False

    async def _watch(self) -> None:
        """Stop attempts that can no longer prove their lease; give up when nothing can move."""
        lost = False
        while True:
            await anyio.sleep(WATCH_SECONDS)
            self._vitals.running = len(self._running)
            self._vitals.stuck = self._running.stuck()
            self._attempt_log.flush()
            alive = self._heartbeat.alive()
            if not alive and not lost and self._heartbeat.pulse.worker_id is not None:
                lost_touch = Lost("no heartbeat succeeded in time")
                stopped = self._running.stop_all(lost_touch, spare_calls=True)
                log.warning(events.ATTEMPTS_STOPPED, jobs=stopped, reason="no heartbeat")
            elif alive:
                strangers = self._running.stop_those_of_others(self._heartbeat.pulse.worker_id)
                if strangers:
                    log.warning(events.ATTEMPTS_STOPPED, jobs=strangers, reason="declared dead")
            if alive != (not lost):
                self._tell_database(lost_now=not alive)
            lost = not alive
            self._give_up_if_stuck()

    def _tell_database(self, *, lost_now: bool) -> None:
        self._vitals.database_state = "lost" if lost_now else "ok"
        if lost_now:
            log.warning(events.DATABASE_LOST, age_seconds=round(self._heartbeat.age_seconds(), 1))
        else:
            log.info(events.DATABASE_RECOVERED)
            self._claimer.wake()

    def _give_up_if_stuck(self) -> None:
        threads_max = min(self._settings.slots, self._settings.threads)
        if self._vitals.stuck < threads_max:
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or monotonic()
        if monotonic() - self._stuck_since < STUCK_SECONDS or self._exit_code:
            return
        log.error(
            events.SLOTS_STUCK,
            slots=self._vitals.stuck,
            modes=sorted({a.job.mode for a in self._running if a.in_thread}),
        )
        self._exit_code = STUCK
        self._stopping.set()
        self._hurry.set()

    async def _watch_signals(self) -> None:
        stopping = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            stopping.append(signal.SIGHUP)  # its terminal was closed
        with anyio.open_signal_receiver(*stopping) as signals:
            async for _ in signals:
                if self._stopping.is_set():
                    self._hurry.set()
                self._stopping.set()

    async def _watchdog(self) -> None:
        interval = systemd.watchdog_interval_seconds()
        while interval is not None:
            if self._vitals.claim_loop_alive(CLAIM_LOOP_LIMIT_SECONDS):
                systemd.watchdog()
            await anyio.sleep(interval)


@asynccontextmanager
async def _database(settings: Settings) -> AsyncGenerator[tuple[str, Callable[[], None]]]:
    """The database's URL, and how to let go of it in a hurry."""
    if settings.database_url is not None:
        yield settings.database_url, lambda: None
        return
    embedded: Embedded = await anyio.to_thread.run_sync(start_embedded, settings.data_dir)
    try:
        await anyio.to_thread.run_sync(migrate, embedded.url, settings.schema_name)
        yield embedded.url, embedded.close
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(embedded.close)


def _spool_folder(settings: Settings) -> SpoolFolder:
    path = folder_of(
        settings.spool_dir, settings.database_url, settings.data_dir, settings.schema_name
    )
    return SpoolFolder(path, settings.spool_bytes_max)


def _model(settings: Settings) -> ModelChoice:
    return ModelChoice(
        settings.model,
        settings.model_url,
        settings.model_key.get_secret_value() if settings.model_key else None,
        settings.model_seconds,
    )


def _queues(settings: Settings, registry: Mapping[str, handlers.Handler]) -> tuple[str, ...]:
    if settings.queues is not None:
        return settings.queues
    return tuple(dict.fromkeys(("default", *(h.queue for h in registry.values()))))


def _warn_of_shadows() -> None:
    for path in handlers.shadowing_files(Path.cwd()):
        log.warning(
            events.HANDLER_REFUSED,
            file=str(path),
            reason="it carries the name of a package of Jobsworth and cannot be imported here",
            remedy="rename it",
        )
