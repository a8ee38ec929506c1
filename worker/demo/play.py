"""`jobsworth demo`: all of Jobsworth, on one conversation.

In: an inbox. Out: a summary and an exit code, 0 only if everything is as the inbox expects. Before
the first message, the first commit of a new git repository is deployed to two environments. Two
daemons serve the conversation; one is killed half-way and replaced. While the second half comes in,
somebody starts a run within a budget, forks it, and decides on an order that changes, and an agent
remembers a guest until she is erased. Read in this order: inbox → stage → site → provider → daemons
→ feed → kill → survey → order → guests → watch → summary.
"""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import anyio

from db.conversations import messages
from db.deployments import deployments
from db.diagnosis import paperwork, violations
from db.memory import memories, outbox, spaces
from db.memory.memories import Hit
from db.money import books, budgets, ledger
from db.money import calls as call_records
from db.money.calls import Call, CallStatus
from db.pool import Connection, Database
from db.queue import jobs, workers
from db.queue.jobs import Job, JobStatus
from worker.demo.daemons import Daemons, daemons_of
from worker.demo.face import dashboard_of, is_watched, until_interrupted
from worker.demo.feed import PLATFORM, FedMessage, Feeder
from worker.demo.guests import Guests, GuestsResult
from worker.demo.inbox import SHIPPED, InboxMessage, filled, load_inbox, shuffled
from worker.demo.kill import Kill, cost_of, kill_at_work
from worker.demo.order import MODE as ORDER
from worker.demo.order import Order, OrderResult
from worker.demo.provider.model import PRICED, ServedModel, check_model, serve
from worker.demo.show import Show
from worker.demo.site import Site, SiteError, make_site
from worker.demo.stage import Stage, open_stage
from worker.demo.summary.checks import Facts, problems_in
from worker.demo.summary.report import print_report
from worker.demo.survey import BUDGET, Survey, SurveyResult
from worker.demo.watch import STALL_SECONDS, Watch
from worker.memory.choice import offline_embedder
from worker.settings import Settings

OK = 0
NOT_AS_EXPECTED = 1
INTERRUPTED = 130

DAEMONS = 2
# What happens beside the second half of the conversation.
Story = tuple[SurveyResult, OrderResult, GuestsResult]
ROWS_MAX = 10_000
SEARCH_LIMIT = 5


async def run(
    settings: Settings, inbox: Path | None, shuffle: int | None, keep: bool, model: str = PRICED
) -> int:
    """Play `inbox`, or the shipped one, on `model`; return the exit code.

    `shuffle` is a seed for the order of the threads. Raises `InboxError`, `Stalled`, `DaemonEnded`
    and errors of the database, each with its remedy.
    """
    check_model(model)
    script = load_inbox(inbox or SHIPPED)
    if shuffle is not None:
        script = shuffled(script, shuffle)
    return await interruptible(lambda: _on_stage(settings, script, keep, model))


async def interruptible(work: Callable[[], Awaitable[int]]) -> int:
    """Return what `work` returns, or `INTERRUPTED` after a signal has cancelled it.

    Later signals are ignored until `work` has ended: a second Ctrl-C must not leave daemons and a
    database behind.
    """
    code, failure = INTERRUPTED, None
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on, signals, tasks.cancel_scope)
            try:
                code = await work()
            except Exception as error:
                failure = error  # the task group would wrap it in an ExceptionGroup
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return code


async def _cancel_on(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _on_stage(
    settings: Settings, script: Sequence[InboxMessage], keep: bool, model: str
) -> int:
    with Show() as show:
        answerer = "the demo's own provider" if model == PRICED else "offline rules"
        show.say(
            f"{len(script)} messages, answered by {answerer}: nothing leaves this machine, nothing "
            "is paid"
        )
        show.say("making a database, with its tables, for this demo")
        async with open_stage(settings, keep) as stage:
            with (
                make_site(stage.folder, stage.releases_dir) as site,
                serve(model, stage.folder) as served,
                daemons_of(settings, stage, site.deploy_file, served) as daemons,
            ):
                if keep:
                    show.say(f"keeping {stage.folder}; look at it with {stage.how_to_look}")
                async with (
                    Database(stage.url, schema=stage.schema) as database,
                    dashboard_of(stage, database) as address,
                ):
                    if address:
                        show.say(f"look at it while it plays: {address}")
                    play = Play(settings, stage, site, served, daemons, database, show)
                    facts = await play.run(script)
                    show.stop()
                    problems = problems_in(facts)
                    print_report(show.console, facts, problems)
                    if keep and address and is_watched():
                        show.say(f"the dashboard stays open at {address}; Ctrl-C ends it")
                        await until_interrupted()
    return NOT_AS_EXPECTED if problems else OK


class Play:
    """Plays the conversation on an open stage, from the first daemon to the facts."""

    def __init__(
        self,
        settings: Settings,
        stage: Stage,
        site: Site,
        model: ServedModel,
        daemons: Daemons,
        database: Database,
        show: Show,
    ) -> None:
        self._settings = settings
        self._stage = stage
        self._site = site
        self._model = model
        self._daemons = daemons
        self._database = database
        self._show = show
        # The jobs of a dead worker stand still until their rescue, which is not a stall.
        self._watch = Watch(database, daemons, show, STALL_SECONDS + settings.rescue_seconds)

    async def run(self, script: Sequence[InboxMessage]) -> Facts:
        """Play everything in order; return what the database holds then."""
        messages_to_play = [filled(message, self._site.commits) for message in script]
        feeder = Feeder(self._database, self._watch, self._show, messages_to_play, others=(ORDER,))
        await self._start_daemons(DAEMONS)
        await self._open_site()
        await feeder.feed(most=max(1, len(script) // 2))
        kill = await self._kill_one()
        story = await self._second_half(feeder)
        self._show.say("every message is in; waiting until everything is finished")
        await self._watch.until("waiting until everything is finished", feeder.finished)
        await self._watch.until("waiting until everything is remembered", self._remembered)
        stop_problems = await self._daemons.stop()
        self._show.say("everything is finished, the daemons have stopped")
        return await self._facts(feeder.fed, kill, story, stop_problems)

    async def _start_daemons(self, number: int) -> None:
        self._show.say("starting a daemon" if number == 1 else f"starting {number} daemons")
        started = [self._daemons.start() for _ in range(number)]

        async def registered() -> bool:
            async with self._database.connection() as connection:
                pids = {worker.pid for worker in await workers.list_workers(connection)}
            return {daemon.pid for daemon in started} <= pids

        await self._watch.until("waiting for the daemons to register", registered)
        self._show.say(f"{' and '.join(map(str, started))} at work")

    async def _open_site(self) -> None:
        """Deploy the first commit everywhere: a later deployment can be rolled back to it."""
        sha = self._site.commits["first_sha"]
        async with self._database.connection() as connection:
            for environment in self._site.urls:
                payload = {"environment": environment, "sha": sha}
                await jobs.enqueue(connection, "deploy", payload)

        async def shipped() -> bool:
            return not self._watch.unfinished()

        await self._watch.until("shipping the first commit", shipped)
        for job in self._watch.jobs:
            if job.status is not JobStatus.DONE:
                raise SiteError(
                    f"the first commit could not be deployed: {job.error}",
                    "run it with --keep and look at its logs",
                )
        self._show.say(f"commit {sha[:12]} is live in {' and '.join(self._site.urls)}")

    async def _kill_one(self) -> Kill:
        kill = await kill_at_work(self._database, self._daemons, self._watch)
        held = ", ".join(sorted(held.job.mode for held in kill.held)) or "nothing"
        self._show.say(
            f"killed {kill.daemon} with SIGKILL while it was running: {held}; these are rescued "
            f"when it has been silent for {self._settings.rescue_seconds:g} s"
        )
        await self._start_daemons(1)
        return kill

    async def _second_half(self, feeder: Feeder) -> Story:
        """Play the rest of the conversation, and meanwhile a run, its fork, an order, a guest."""
        survey = Survey(
            self._database, self._watch, self._show, self._stage, priced=self._model.priced
        )
        order = Order(self._database, self._watch, self._show, self._stage)
        guests = Guests(self._database, self._watch, self._show)
        story: list[Story] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(feeder.feed)
                story.append((await survey.play(), await order.play(), await guests.play()))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return story[0]

    async def _remembered(self) -> bool:
        async with self._database.connection() as connection:
            return (await outbox.counts(connection)).pending == 0

    async def _facts(
        self,
        fed: Sequence[FedMessage],
        kill: Kill,
        story: Story,
        stop_problems: Sequence[str],
    ) -> Facts:
        await self._watch.look()
        surveyed, ordered, guests = story
        query = _query(fed)
        async with self._database.connection() as connection:
            calls = await _calls(connection, self._watch.jobs)
            said, called = await _tokens_said_and_called(connection, fed, calls)
            shipped = await deployments.get_recent(connection, limit=deployments.LIMIT_MAX)
            return Facts(
                fed=fed,
                jobs=self._watch.jobs,
                waits={reason: len(seen) for reason, seen in self._watch.waits.items()},
                approvals=(await paperwork.latest_approvals(connection, ROWS_MAX))[::-1],
                deployments=shipped[::-1],
                by_mode=await ledger.usage_by(connection, "mode"),
                by_model=await ledger.usage_by(connection, "model"),
                query=query,
                hits=await _search(connection, self._settings, query),
                texts_pending=(await outbox.counts(connection)).pending,
                surveyed=surveyed,
                budget=await budgets.get(connection, BUDGET),
                ordered=ordered,
                guests=guests,
                calls=calls,
                bill=self._model.bill(),
                priced=self._model.priced,
                kill=await cost_of(connection, kill, self._stage.reading_log),
                said_tokens=said,
                called_tokens=called,
                violations=await violations.list_violations(connection),
                imbalances=await books.check(connection),
                stop_problems=stop_problems,
            )


def _query(fed: Sequence[FedMessage]) -> str:
    """The first question that is not the first message of its thread, or else the first text."""
    begun: set[str] = set()
    for message in (one.message for one in fed):
        if message.thread in begun and message.text.rstrip().endswith("?"):
            return message.text
        begun.add(message.thread)
    return next((one.message.text for one in fed if one.message.text.strip()), PLATFORM)


async def _search(connection: Connection, settings: Settings, query: str) -> list[Hit]:
    embedder = offline_embedder(settings)
    try:
        [vector] = await embedder.embed([query])
    finally:
        await embedder.close()
    space = await spaces.get_or_create(connection, embedder.space)
    return await memories.search(connection, space, vector, query=query, limit=SEARCH_LIMIT)


async def _calls(connection: Connection, of: Sequence[Job]) -> list[Call]:
    """The calls of these jobs."""
    return [call for job in of for call in await call_records.list_calls(connection, job.id)]


async def _tokens_said_and_called(
    connection: Connection, fed: Sequence[FedMessage], calls: Sequence[Call]
) -> tuple[int, int]:
    """The tokens that the messages report, and those of the calls of the jobs that said them."""
    said = called = 0
    for thread_id in {one.received.message.thread_id for one in fed}:
        for message in await messages.fetch_recent(connection, thread_id, messages.LIMIT_MAX):
            if message.job_id is None or message.model is None:
                continue
            said += (message.input_tokens or 0) + (message.output_tokens or 0)
            called += sum(
                (call.input_tokens or 0) + (call.output_tokens or 0)
                for call in calls
                if call.job_id == message.job_id and call.status is CallStatus.OK
            )
    return said, called
