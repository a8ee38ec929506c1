"""The daemon: settings, parts, run; and the order in which the parts start and end.

A job goes through `claim` → `running`/`attempt` → `decide` → `finish` → `promote`; beside that run
`heartbeat` (a thread), `upkeep`, `wake` (LISTEN), `embed`, `webhooks` and the health endpoint. The
daemon starts while the database is down and waits for it. Soft stop: no more claims, running jobs
may finish within the drain; then those that still run are given back, and no try is counted. A
second signal gives them back at once.
"""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from time import monotonic
from uuid import uuid4

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from db.diagnosis.fitness import missing_rights, unfit_session
from db.errors import DatabaseError, JobsworthError, Refused, SchemaMismatch
from db.migrate import check
from db.pool import Connection, Database, bounded
from db.server.embedded import Embedded
from worker import events, handler_modules, handlers
from worker.approvals import webhooks
from worker.daemon import collector, core, systemd
from worker.daemon.embedded import database_of, keep_up
from worker.daemon.loop_watch import LoopWatch, turn
from worker.daemon.open_files import raise_limit
from worker.daemon.parts import Parts, make_parts, model_choice
from worker.log import get_logger
from worker.masking import keep_secrets
from worker.memory.choice import embedder_of
from worker.outages import REMEDY
from worker.queue.wake import listen
from worker.repeats import Repeats
from worker.settings import Settings
from worker.tracing.start import start as start_tracing
from worker.web.sampler import keep_sampling

REFUSED = 2
SCHEMA_REFUSED = 6
DATABASE_AWAY = 5

DATABASE_WAIT_SECONDS_MAX = 5.0
# Of the HTTP API: connections, and how long a request waits for one.
FACE_CONNECTIONS_MAX = 4
FACE_WAIT_SECONDS = 5.0
SPOOL_SECONDS = 10.0

log = get_logger()


async def run(settings: Settings) -> int:
    """Run a worker until it is told to stop; returns the process's exit code."""
    raise_limit(settings.slots)
    keep_secrets()
    try:
        registry = _load_handlers(settings)
        keep_secrets()  # modules of handlers read files of variables
        embedder = embedder_of(settings)
        tracing = start_tracing(settings.traces, uuid4())
    except JobsworthError as error:
        log.error(events.DAEMON_FAILED, error=error.message, remedy=error.remedy)
        return REFUSED
    try:
        async with database_of(settings) as (url, embedded):
            parts = make_parts(settings, url, registry, embedder, tracing=tracing)
            return await Daemon(settings, parts, embedded).run()
    finally:
        await embedder.close()
        if tracing is not None:
            await anyio.to_thread.run_sync(tracing.end)


class Daemon:
    """One worker process."""

    def __init__(self, settings: Settings, parts: Parts, embedded: Embedded | None = None) -> None:
        """`embedded`: the database, if it is that of this machine and lives by its users."""
        self._settings = settings
        self._embedded = embedded
        self._repeats = Repeats()
        self.parts = parts

    async def run(self) -> int:
        """Work until stopped; every connection is closed on return."""
        parts = self.parts
        log.info(
            events.DAEMON_STARTED,
            pid=parts.identity.pid,
            version=parts.identity.version,
            queues=parts.identity.queues,
            modes=parts.identity.modes,
            slots=parts.identity.slots,
        )
        # Both hold the loop, for a second if many workers start together; nobody waits for it yet.
        if self._settings.http_port is not None:
            import_module("worker.web.app")
        collector.clean_up()
        loop_watch = LoopWatch(
            parts.vitals,
            self._let_go,
            parts.metrics.loop_blocked,
            block_seconds_max=self._settings.loop_block_seconds,
        )
        loop_watch.start()
        try:
            with parts.signals.listening():
                await self._live()
        finally:
            loop_watch.stop()
        log.info(events.DAEMON_STOPPED, exit_code=parts.stop.exit_code)
        return parts.stop.exit_code

    async def _live(self) -> None:
        parts = self.parts
        async with parts.database, self._face() as face, anyio.create_task_group() as tasks:
            tasks.start_soon(turn, parts.vitals)
            if self._embedded is not None:
                tasks.start_soon(keep_up, self._embedded, parts.stop.asked)
            try:
                if face is not None:
                    await self._serve_http(tasks, face)
                systemd.ready()
                if await self._wait_for_database():
                    await self.work(tasks)
                    self._end_despite_threads()
            except SchemaMismatch as error:
                log.error(events.SCHEMA_REFUSED, error=error.message, remedy=error.remedy)
                systemd.status(f"refused: {error}")
                parts.stop.fail(SCHEMA_REFUSED)
            except JobsworthError as error:
                log.error(events.DAEMON_FAILED, error=error.message, remedy=error.remedy)
                systemd.status(f"refused: {error}")
                away = isinstance(error, DatabaseError)
                parts.stop.fail(DATABASE_AWAY if away else REFUSED)
            systemd.stopping()
            tasks.cancel_scope.cancel()

    async def work(self, tasks: TaskGroup) -> None:
        """Start the parts in `tasks`, claim and run jobs until told to stop, then drain."""
        parts = self.parts
        collector.begin()
        async with core.at_work(parts, self._settings, tasks) as working:
            if not working:
                return
            tasks.start_soon(
                listen, parts.direct_url, parts.database.schema, parts.wakes, parts.vitals
            )
            tasks.start_soon(self._tell_webhooks)
            tasks.start_soon(parts.watch.run)
            tasks.start_soon(collector.run, parts.running)
            if self._settings.http_port is not None:
                tasks.start_soon(keep_sampling, parts.database, parts.samples)
            await self._drain_spool()
            async with anyio.create_task_group() as claiming:
                claiming.start_soon(parts.claimer.run)
                await parts.stop.asked.wait()
                claiming.cancel_scope.cancel()
            await self._drain()

    @asynccontextmanager
    async def _face(self) -> AsyncGenerator[Database | None]:
        """Connections of the API's own: requests must not keep the worker from claiming."""
        if self._settings.http_port is None:
            yield None
            return
        async with Database(
            self.parts.database.url,
            schema=self.parts.database.schema,
            pool_min=0,
            pool_max=FACE_CONNECTIONS_MAX,
            statement_seconds=self._settings.statement_seconds,
            acquire_seconds=FACE_WAIT_SECONDS,
            application_name="jobsworth api",
        ) as face:
            yield face

    async def _serve_http(self, tasks: TaskGroup, face: Database) -> None:
        assert self._settings.http_port is not None
        # Only where there is an endpoint: FastAPI and uvicorn take memory.
        from worker.web.app import create_app
        from worker.web.health import Limits
        from worker.web.late import Late
        from worker.web.server import listen as open_port
        from worker.web.server import serve

        listener = await open_port(self._settings.http_host, self._settings.http_port)
        app = create_app(
            self.parts.database,
            self.parts.vitals,
            self.parts.metrics,
            self.parts.samples,
            version=self.parts.identity.version,
            limits=Limits(heartbeat_ready_seconds=self._settings.lease_stop_seconds),
        )
        app.mount("/", Late(lambda: import_module("worker.web.face").app_for(face)))
        tasks.start_soon(serve, listener, app)

    async def _wait_for_database(self) -> bool:
        """Wait until the database answers; False if the daemon was stopped before.

        Raises `SchemaMismatch` if its schema is not this program's: a person has to decide; and
        what the last try raised after `database_wait_seconds`.
        """
        database, vitals, stop = self.parts.database, self.parts.vitals, self.parts.stop
        pause = 0.1
        give_up = monotonic() + self._settings.database_wait_seconds
        while not stop.asked.is_set():
            try:
                async with bounded(DATABASE_WAIT_SECONDS_MAX), database.connection() as connection:
                    state = await check(connection, database.schema)
                    if state.state == "ok":
                        await _refuse_unfit(connection)
            except JobsworthError as error:
                why = database.tries.failure() or error
                if monotonic() > give_up:
                    raise why from error
                self._say_trouble(why)
                vitals.database_state = "lost"
            else:
                if state.state != "ok":
                    raise SchemaMismatch(state.message)
                vitals.database_state, vitals.database_trouble = "ok", None
                log.info(events.DAEMON_READY, schema=database.schema)
                return True
            with anyio.move_on_after(pause):
                await stop.asked.wait()
            pause = min(DATABASE_WAIT_SECONDS_MAX, pause * 2)
        return False

    def _say_trouble(self, why: JobsworthError) -> None:
        """Log why the database cannot be used: at once, and then once a minute."""
        if self._repeats.due(str(why)):
            log.warning(events.DATABASE_LOST, error=why.message, remedy=why.remedy or REMEDY)
        self.parts.vitals.database_trouble = str(why)
        systemd.status(f"waits for its database: {why}")

    async def _drain_spool(self) -> None:
        """Settle spooled answers before the first claim, so that a job which goes on finds them."""
        spool = self.parts.tools.spool
        spool.warn_if_unusable()
        try:
            with anyio.move_on_after(SPOOL_SECONDS):
                await spool.drain()
        except JobsworthError as error:
            log.warning(events.UPKEEP_FAILED, part="spool", error=error)

    async def _tell_webhooks(self) -> None:
        secret, hosts = self._settings.webhook_secret, self._settings.webhook_hosts
        if secret is not None and hosts:
            await webhooks.run(self.parts.database, secret=secret.get_secret_value(), hosts=hosts)

    async def _drain(self) -> None:
        """Let running jobs finish, give back the rest, and remove the worker's row."""
        parts = self.parts
        parts.vitals.draining = True
        log.info(events.DAEMON_DRAINING, running=len(parts.running))
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._until_hurried, waiting.cancel_scope)
            with anyio.move_on_after(self._settings.drain_seconds):
                await parts.running.wait_empty()
            waiting.cancel_scope.cancel()
        released = await core.give_back(parts)
        if released:
            log.info(events.JOBS_RELEASED, jobs=released, kept=len(parts.running))

    async def _until_hurried(self, scope: anyio.CancelScope) -> None:
        await self.parts.stop.hurried.wait()
        scope.cancel()

    def _end_despite_threads(self) -> None:
        """End the process here if an attempt is left: its thread may never return.

        A thread cannot be interrupted, and the interpreter waits for each. The job is rescued.
        """
        kept, exit_code = len(self.parts.running), self.parts.stop.exit_code
        if not kept:
            return
        systemd.stopping()
        log.info(events.DAEMON_STOPPED, exit_code=exit_code, kept=kept)
        self._let_go()
        os._exit(exit_code)

    def _let_go(self) -> None:
        """Release the embedded database: the process is about to be ended."""
        if self._embedded is not None:
            self._embedded.close()


async def _refuse_unfit(connection: Connection) -> None:
    """Raise `Refused` with everything that keeps a worker from working in this database."""
    found = [*await unfit_session(connection), *await missing_rights(connection)]
    if found:
        reasons = "; ".join(each.text for each in found)
        raise Refused(reasons, "; ".join(dict.fromkeys(each.remedy for each in found)))


def _load_handlers(settings: Settings) -> Mapping[str, handlers.Handler]:
    registry = handler_modules.load(settings.handlers)
    for path in handlers.shadowing_files(Path.cwd()):
        log.warning(
            events.HANDLER_REFUSED,
            file=str(path),
            reason="it has the name of a package of Jobsworth and cannot be imported here",
            remedy="rename it",
        )
    model_choice(settings).check()
    return registry
