"""A run within a budget, and a fork of it: four jobs read a letter each, and one compares them.

In: two daemons at work. Out: the run, the budget and the fork as they ended. The steps: set a
budget that is enough for one letter, and start the run; the jobs that do not fit wait; raise the
budget, and the run ends; ask with a dry run what a fork with another question reads and costs, and
fork.
Invariant: the budget is raised only when jobs wait for it and no open reservation could still make
room.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from db.errors import JobsworthError
from db.money import budgets
from db.money.budgets import Budget, Unit
from db.pool import Connection, Database
from db.queue import jobs
from db.queue.jobs import Why
from db.runs import branches, runs
from db.runs.branches import Fork
from db.runs.runs import Graph, Node, Run, RunStats, RunStatus
from worker.demo.show import Show
from worker.demo.stage import Stage
from worker.demo.watch import Watch

WHO = "Eli"
READER, REPORT = "survey", "compare"
BUDGET = "letters"
RAISE = "jobsworth budget raise"
# Enough to reserve for one letter, but not after three letters have been paid from it.
SCANT: dict[Unit, Decimal] = {"money": Decimal("0.00066"), "tokens": Decimal(1_560)}
AMPLE: dict[Unit, Decimal] = {"money": Decimal("0.05"), "tokens": Decimal(100_000)}
LOOKS_MIN = 3
FORKED_STEP = f"{REPORT}/request 1"

WANTED = "What does the letter say about the sencha, its price and its delivery?"
QUESTION = "Which sencha has the lowest price?"
OTHER_QUESTION = "Whose delivery of sencha comes every second week?"
LETTERS = {
    "aoyama": "We thank you for your visit. The price of our sencha is 48 a crate. "
    "The delivery of sencha comes every second week. Our genmaicha is roasted on Mondays.",
    "bergmann": "Your order of oolong has left us. The price of our sencha is 52 a crate. "
    "The delivery of sencha comes on the first of the month. We are closed at Easter.",
    "castellan": "We are a small house. The lowest price of our sencha is 39 a crate, for ten. "
    "The delivery of sencha takes three days by rail. We do not sell oolong.",
    "dorje": "Greetings from the hills. The price of our sencha is 61 a crate, picked by hand. "
    "The delivery of sencha has to be fetched at the harbour. Our momo tea is new.",
}


class SurveyFailed(JobsworthError):
    """The run did not end with `done`, so it cannot be forked."""


@dataclass(frozen=True, slots=True)
class BudgetHit:
    """A budget when jobs waited for it; `peak` is the most that was reserved and spent until then.

    `waited` counts the waiting jobs, `why` is what `why` says of the first.
    """

    scant: Budget
    peak: Decimal
    waited: int
    why: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run as it ended; `answer` is the result of its `compare` job."""

    run: Run
    stats: RunStats
    graph: Graph
    answer: str | None


@dataclass(frozen=True, slots=True)
class SurveyResult:
    """The outcome of the survey. `diary` is the jobs' own log of what they did."""

    budget: BudgetHit
    run: RunSummary
    dry: Fork
    branch: RunSummary
    diary: tuple[str, ...]


class Survey:
    """Plays the person who has the suppliers' letters compared."""

    def __init__(
        self, database: Database, watch: Watch, show: Show, stage: Stage, *, priced: bool
    ) -> None:
        self._database = database
        self._watch = watch
        self._show = show
        self._diary = stage.diary
        self._unit: Unit = "money" if priced else "tokens"

    async def play(self) -> SurveyResult:
        """Play everything from the budget to the end of the fork."""
        run_id = await self._start()
        budget = await self._hit_and_raised()
        await self._watch.until("waiting for the run", self._ended(run_id))
        run = await self._told(run_id)
        self._show.say(f"the run is {run.run.status}: {spent(run.stats)}")
        if run.run.status is not RunStatus.DONE:
            raise SurveyFailed(f"the run is {run.run.status}: {run.run.error}", "see its jobs")
        dry, branch_id = await self._fork(run_id)
        await self._watch.until("waiting for the fork", self._ended(branch_id))
        branch = await self._told(branch_id)
        self._show.say(f"the fork is {branch.run.status}: {spent(branch.stats)}")
        return SurveyResult(budget, run, dry, branch, diary_of(self._diary))

    async def _start(self) -> UUID:
        async with self._database.transaction() as connection:
            scant = await budgets.set_budget(
                connection, BUDGET, SCANT[self._unit], unit=self._unit, period="day", mode=READER
            )
            started = await runs.start(connection, nodes(), actor=WHO, request={"ask": QUESTION})
        self._show.say(
            f"{WHO} started a run: {len(LETTERS)} letters to read, one comparison; "
            f"budget {BUDGET}: {amount(scant.amount, self._unit)} a day"
        )
        return started.run_id

    async def _hit_and_raised(self) -> BudgetHit:
        seen: list[Budget] = []
        whys: list[list[Why]] = []

        async def stuck() -> bool:
            async with self._database.connection() as connection:
                seen.append(await budgets.get(connection, BUDGET))
                whys.append(await self._whys(connection))
            # Several looks: a job that has just ended may be making room for the next.
            still = [_is_hit(*look) for look in zip(seen, whys, strict=True)]
            return len(still) >= LOOKS_MIN and all(still[-LOOKS_MIN:])

        await self._watch.until("waiting until the budget is hit", stuck)
        why = whys[-1][0]
        self._show.say(f"{count(len(whys[-1]), 'letter')} must wait: {why.detail}")
        async with self._database.connection() as connection:
            raised = await budgets.raise_to(connection, BUDGET, AMPLE[self._unit])
        self._show.say(f"{WHO} raised the budget to {amount(raised.amount, self._unit)}")
        peak = max(budget.reserved + budget.spent for budget in seen)
        return BudgetHit(seen[-1], peak, len(whys[-1]), why.detail)

    async def _whys(self, connection: Connection) -> list[Why]:
        """Why each unread letter waits; empty while one of them is being read."""
        unread = [job for job in self._watch.unfinished() if job.mode == READER]
        if any(job.waiting_for != "budget" for job in unread):
            return []
        return [await jobs.why(connection, job.id) for job in unread]

    async def _fork(self, run_id: UUID) -> tuple[Fork, UUID]:
        """Fork after a dry run, which tells what the fork reads and what the rest cost before."""
        changes = {REPORT: {"question": OTHER_QUESTION}}
        async with self._database.connection() as connection:
            dry = await branches.fork(
                connection, run_id, node=REPORT, step=FORKED_STEP, changes=changes, dry_run=True
            )
            self._show.say(
                f"a fork with another question would read "
                f"{count(dry.reused.steps, 'step')} and {count(dry.reused.calls, 'call')}, "
                f"and make {count(dry.rerun.calls, 'call')} anew"
            )
            made = await branches.fork(
                connection,
                run_id,
                node=REPORT,
                step=FORKED_STEP,
                changes=changes,
                created_by=WHO,
            )
        assert made.run_id is not None
        return dry, made.run_id

    def _ended(self, run_id: UUID) -> Callable[[], Awaitable[bool]]:
        async def ended() -> bool:
            async with self._database.connection() as connection:
                return (await runs.get(connection, run_id)).finished_at is not None

        return ended

    async def _told(self, run_id: UUID) -> RunSummary:
        async with self._database.connection() as connection:
            return await summary(connection, run_id)


def nodes() -> list[Node]:
    """A node for each letter, and one comparison after all of them."""
    letters = [
        Node(name, READER, {"supplier": name, "letter": letter, "question": WANTED})
        for name, letter in LETTERS.items()
    ]
    return [*letters, Node(REPORT, REPORT, {"question": QUESTION}, after=list(LETTERS))]


async def summary(connection: Connection, run_id: UUID) -> RunSummary:
    """The run, its counts, its graph and its answer as they are now."""
    made = await runs.get_jobs(connection, run_id)
    return RunSummary(
        await runs.get(connection, run_id),
        await runs.stats(connection, run_id),
        await runs.get_graph(connection, run_id),
        next((job.result for job in made if job.node == REPORT), None),
    )


def diary_of(file: Path) -> tuple[str, ...]:
    """The lines of the jobs' diary, oldest first; empty where there is no file."""
    return tuple(file.read_text().splitlines()) if file.exists() else ()


def amount(value: Decimal, unit: Unit) -> str:
    """`0.05 USD` or `3,500 tokens`."""
    return f"{value.normalize():f} USD" if unit == "money" else f"{value:,.0f} tokens"


def spent(stats: RunStats) -> str:
    """What a run did and cost, on one line."""
    made = sum(stats.jobs.values())
    tokens = stats.input_tokens + stats.output_tokens
    cost = amount(stats.cost, "money")
    return f"{count(made, 'job')}, {count(stats.calls, 'call')}, {tokens:,} tokens, {cost}"


def count(number: int, noun: str) -> str:
    """`1 call`, `2,000 calls`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _is_hit(budget: Budget, whys: Sequence[Why]) -> bool:
    """Whether nothing is reserved and every waiting job is told to raise this budget."""
    remedy = f"{RAISE} {budget.name} "
    return bool(whys) and not budget.reserved and all(why.remedy.startswith(remedy) for why in whys)
