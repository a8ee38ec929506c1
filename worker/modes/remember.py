"""remember: extract from a thread what people stated, and remember it.

In: a thread, or what a finished run dealt with of it. Out: memories with a type, their evidence and
a confidence. Invariant: one version of the extractor reads a message once, however many jobs it has
and whenever they die, and pays for it twice at most if a model makes nothing of it; a later
statement supersedes an earlier one of the same person about the same subject, and nothing is
deleted.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import accumulate, takewhile
from typing import Any, TypeVar
from uuid import UUID

from db.conversations import threads
from db.errors import NotFound
from db.memory import extracted
from db.memory.extracted import Origin, Said, Statement
from db.pool import Connection
from db.runs import runs
from worker.handlers import handler
from worker.job import Job
from worker.modes import conversation, model
from worker.modes.extraction import Extracted, grounded, quote_messages
from worker.modes.requests import Request, Unusable
from worker.outcomes import Fail
from worker.plain_job import state_of

# Another one reads every message again: change it if what is extracted shall be another.
EXTRACTOR = "remember-1"
# In one request to the model.
MESSAGES_MAX = 50
# What is left is for a job after this one: a job has a deadline.
BATCHES_MAX = 20
# Of a message at least this much is read, though `history_tokens` is less.
TOKENS_MIN = 1_000
DROPPED_MAX = 100

Row = TypeVar("Row")


@handler("remember", shipped=True)
async def remember(job: Job, run: UUID | None = None) -> dict[str, Any]:
    """Have the model extract statements from the job's thread, and remember those it can show.

    Reads all messages of users that were not read yet, some of them in a job after this one if they
    are many. `run`: only the messages that this run dealt with; it must have finished.
    """
    if job.thread_id is None:
        raise Fail("a remember job needs a thread: enqueue it with thread_id")
    await _check_team(job, job.thread_id)
    if run is not None:
        await job.step("check", partial(_check_finished, job, run), effect="pure")
    origin = Origin(job.id, job.thread_id, job.team_id, job.agent_id, EXTRACTOR)
    batches = _Batches(job, origin, run)
    for no in range(1, BATCHES_MAX + 1):
        if not await batches.next(no):
            return batches.result(more=False)
    payload = {} if run is None else {"run": str(run)}
    job.enqueue("remember", payload, name="the messages after these")
    return batches.result(more=True)


class _Batches:
    """The batches of messages of one job; each is read, paid for and kept by itself."""

    def __init__(self, job: Job, origin: Origin, run: UUID | None) -> None:
        self.job = job
        self.origin = origin
        self.run = run
        self.counts: Counter[str] = Counter(
            messages=0, remembered=0, superseded=0, known=0, outdated=0
        )
        self.dropped: list[str] = []
        self.unusable: list[str] = []
        self.last: UUID | None = None

    async def next(self, no: int) -> bool:
        """Deal with the next batch; False if every message is read."""
        read = await self.job.transaction(f"read {no}", self._take)
        said = [Said.model_validate(one) for one in read]
        if not said:
            return False
        ids = [one.id for one in said]
        stated: list[Statement] = []
        if texts := [one for one in said if one.text.strip()]:
            quotation = quote_messages([one.text for one in texts])
            request = Request("remember", (("user", quotation),), name=f"remember {no}")
            try:
                made = await model.ask(self.job, request, Extracted)
            except Unusable as unusable:
                await self._spoil(no, said, unusable)
                return True
            stated, dropped = grounded(made.output, texts)
            self.dropped += dropped

        async def keep(connection: Connection) -> dict[str, int]:
            return dict(await extracted.keep(connection, self.origin, ids, stated))

        self.counts.update(await self.job.transaction(f"keep {no}", keep))
        self.counts["messages"] += len(texts)
        self.last = ids[-1]
        return True

    async def _spoil(self, no: int, said: Sequence[Said], unusable: Unusable) -> None:
        """Count an output that is of no use. What was read alone is left then, and told of."""
        ids = [one.id for one in said]

        async def count(connection: Connection) -> int:
            return await extracted.spoil(connection, self.origin, ids)

        await self.job.transaction(f"spoil {no}", count)
        if not said[0].unusable:
            raise Unusable(
                f"{unusable.reason}; the next remember job of this thread reads the {len(ids)} "
                f"messages from {ids[0]} to {ids[-1]} one by one, and leaves those that it cannot "
                f"read (extractor {EXTRACTOR})"
            ) from unusable
        self.unusable += [str(each) for each in ids]
        self.last = ids[-1]

    def result(self, *, more: bool) -> dict[str, Any]:
        """What became of all messages of the job; `more` are left for the next one."""
        return {
            **self.counts,
            "dropped": self.dropped[:DROPPED_MAX],
            "unusable": self.unusable,
            "more": more,
        }

    async def _take(self, connection: Connection) -> list[dict[str, Any]]:
        tokens_max = max(TOKENS_MIN, state_of(self.job).tools.history_tokens)
        taken = await extracted.take(
            connection,
            self.origin,
            run_id=self.run,
            after=self.last,
            limit=MESSAGES_MAX,
            fitting=partial(_fitting, tokens_max),
        )
        return [
            one.model_copy(update={"text": _clipped(one, tokens_max)}).model_dump(mode="json")
            for one in taken
        ]


def _fitting(tokens_max: int, found: Sequence[Said]) -> Sequence[Said]:
    """The first of these messages, as many as fit into one request; at least one.

    One on which an output was of no use is read alone: it does not spoil its neighbours again.
    """
    found = found[:1] if found[0].unusable else [*takewhile(lambda one: not one.unusable, found)]
    texts = [_clipped(one, tokens_max) for one in found]
    taken = accumulate(conversation.tokens_of(text) for text in texts)
    return found[: max(1, sum(tokens <= tokens_max for tokens in taken))]


def _clipped(one: Said, tokens_max: int) -> str:
    # No character takes more than a token.
    return conversation.clip(one.text, tokens_max)


async def _check_team(job: Job, thread_id: UUID) -> None:
    thread = await _found(job, threads.get_by_id, thread_id)
    if thread.team_id != job.team_id:
        raise Fail(f"thread {thread_id} is of another team: enqueue the job with its team_id")


async def _check_finished(job: Job, run_id: UUID) -> None:
    run = await _found(job, runs.get, run_id)
    if run.team_id != job.team_id:
        raise Fail(f"run {run_id} is not of the job's team")
    if run.finished_at is None:
        raise Fail(f"run {run_id} is {run.status}: enqueue this job once the run has finished")


async def _found(job: Job, get: Callable[[Connection, UUID], Awaitable[Row]], id: UUID) -> Row:
    try:
        async with job.database.connection() as connection:
            return await get(connection, id)
    except NotFound as error:
        raise Fail(str(error)) from error
