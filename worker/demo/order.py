"""An approval that is superseded: what it is about changes before the job goes on.

In: two daemons at work. Out: both approvals, and what was ordered. A job asks to order twenty
crates; when that is approved, thirty are wanted. An approval covers exactly what was shown, so the
job asks again, shows the difference, and orders only what the second approval covers.
"""

from dataclasses import dataclass
from uuid import UUID

from db.approvals import approvals
from db.approvals.approvals import Approval
from db.pool import Database
from db.queue import jobs
from worker.demo.show import Show
from worker.demo.stage import Stage
from worker.demo.survey import diary_of
from worker.demo.watch import Watch

WHO = "Eli"
MODE = "order"
GOODS = "sencha"
FIRST, THEN = 20, 30


@dataclass(frozen=True, slots=True)
class OrderResult:
    """Both approvals, and the lines of the jobs' diary about the order."""

    first: Approval
    second: Approval
    diary: tuple[str, ...]


class Order:
    """Plays the person who is asked twice."""

    def __init__(self, database: Database, watch: Watch, show: Show, stage: Stage) -> None:
        self._database = database
        self._watch = watch
        self._show = show
        self._stage = stage

    async def play(self) -> OrderResult:
        """Play everything from the first question to the order."""
        self._want(FIRST)
        async with self._database.connection() as connection:
            job_id = (await jobs.enqueue(connection, MODE, {"goods": GOODS})).job_id
        first = await self._asked(job_id)
        self._show.say(f"{WHO} is asked for {FIRST} crates of {GOODS}, and approves that")
        self._want(THEN)
        await self._approve(first)
        second = await self._asked(job_id, besides=first.id)
        self._show.say(f"but {THEN} are wanted by now, so the job asks again, with the difference")
        await self._approve(second)
        await self._watch.until("waiting for the order", lambda: self._ended(job_id))
        async with self._database.connection() as connection:
            return OrderResult(
                await approvals.get_by_id(connection, first.id),
                await approvals.get_by_id(connection, second.id),
                tuple(line for line in diary_of(self._stage.diary) if GOODS in line),
            )

    def _want(self, crates: int) -> None:
        self._stage.wanted.write_text(f"{crates}\n")

    async def _asked(self, job_id: UUID, besides: UUID | None = None) -> Approval:
        found: list[Approval] = []

        async def asked() -> bool:
            async with self._database.connection() as connection:
                pending = await approvals.get_pending(connection)
            found.extend(one for one in pending if one.job_id == job_id and one.id != besides)
            return bool(found)

        await self._watch.until("waiting for the question about the order", asked)
        return found[0]

    async def _approve(self, approval: Approval) -> None:
        async with self._database.connection() as connection:
            await approvals.resolve(connection, approval.id, "approve", WHO, "demo")

    async def _ended(self, job_id: UUID) -> bool:
        return all(job.finished_at for job in self._watch.jobs if job.id == job_id)
