"""The state of one attempt: what steps, calls, questions, deployments and agents share.

In: the claimed job, its lease and the worker's tools. Out: what the attempt has read, begun and
wants to commit. `worker.job.Job` hands on to functions that take this state; none of them imports
`Job`, and handlers never see the state.

Invariant: `effects` holds exactly what commits with the attempt's ending; `recorded` holds only
what is committed.
"""

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

import anyio
import anyio.lowlevel
import anyio.to_thread

from db.deployments.deployments import Deployment
from db.documents import to_text
from db.errors import InvalidInput
from db.fence import Lease, LeaseLost
from db.money.calls import Usage
from db.pool import Database
from db.queue.claim import Claimed
from db.queue.effects import Effect
from db.steps.failed import FailedStep
from worker.extensions.resources import Resources
from worker.llm.choice import ModelChoice
from worker.llm.turns import Turns
from worker.masking import mask
from worker.memory.embedders import Embedder
from worker.money.calls_open import CallsOpen
from worker.money.group_commit import GroupCommit, WriteKind
from worker.money.pricing import STANDARD, Priced, Terms
from worker.money.recording import Recorder
from worker.money.spool import Spool
from worker.outcomes import Outcome, Parked, ParkSignal
from worker.queue import forked
from worker.steps.beside import Beside
from worker.steps.declaration import check_name
from worker.steps.input_hash import Input, input_hash
from worker.tracing.spans import Tracing

R = TypeVar("R")
T = TypeVar("T")

INSTEAD = "or use only say, send, save, remember, metric and enqueue"
# How often to look whether a thread has ended whose end its task was kept from hearing of.
LOOK_SECONDS = 0.02
# Hexadecimal digits by which an effect without a name is told from the others of its job.
KEY_DIGITS = 12


class RecordedStep(NamedTuple):
    """A recorded step: its output, and what tells whether a step met again is the same.

    `source`: the job of another run that a branch reads it from.
    """

    output: Any
    kind: str = "step"
    input_hash: str | None = None
    source: UUID | None = None

    @property
    def inherited(self) -> bool:
        """Whether it was recorded before a fork."""
        return self.source is not None


class Met(NamedTuple):
    """With which arguments an attempt has met a step, and which values the step's function held."""

    given: Input
    held: object


class PriceSource(Protocol):
    """Tells prices. Both methods return None for a model whose price is unknown."""

    async def ready(self, database: Database, provider: str) -> None:
        """Load what the two others need for this provider."""
        ...

    def price_of(
        self, provider: str, model: str, usage: Usage, *, team_id: UUID | None = None
    ) -> Priced | None: ...

    def upper_cost(
        self,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        team_id: UUID | None = None,
        terms: Terms = STANDARD,
    ) -> Decimal | None: ...


class Deploys(Protocol):
    """Deploys for the jobs of this worker: see `worker.deployments.deployer.Deployer`."""

    async def deploy(
        self, state: "AttemptState", environment_name: str, sha: str, key: str
    ) -> Deployment: ...

    async def roll_back(
        self, state: "AttemptState", environment_name: str, to: str, key: str
    ) -> Deployment: ...


class Batching(Protocol):
    """Handles jobs in batches: see `worker.extensions.batches.Batches`."""

    async def handle(
        self, state: "AttemptState", handler: Any, arguments: dict[str, Any]
    ) -> Any: ...


def uncounted(_model: str, _status: str, _input: int, _output: int, _cost: float | None) -> None:
    """Counts no call: there are no metrics outside a daemon."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the worker lends to every attempt."""

    database: Database
    embedder: Embedder
    threads: anyio.CapacityLimiter
    payload_bytes_max: int
    deployer: Deploys
    spool: Spool
    pricing: PriceSource | None = None
    unknown_price: str = "refuse_if_budgeted"
    output_tokens_max: int = 4096
    refusals_max: int = 30
    refused_seconds_max: float = 86_400.0
    model: ModelChoice = field(default_factory=ModelChoice)
    history_tokens: int = 8_000
    instructions: str | None = None
    handlers_database: Database | None = None
    """Connections that handlers may hold; None for those of `database`."""
    step_input_bytes: int = 2_000
    """How much of a step's arguments is kept with it."""
    called: Callable[[str, str, int, int, float | None], None] = uncounted
    """Counts a settled call: its model, status, input and output tokens, and cost."""
    turns: Turns = field(default_factory=Turns)
    middlewares: Sequence[Callable[..., Awaitable[Any]]] = ()
    """What runs around each attempt, the outermost first."""
    resources: Resources = field(default_factory=Resources)
    batches: Batching | None = None
    tracing: Tracing | None = None
    record_days: int = 0
    """For how many days what models are asked can be read."""
    books: GroupCommit = field(init=False)
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "recorder", Recorder(self.database, self.record_days))
        object.__setattr__(self, "books", GroupCommit(self.database))


# Not a dataclass: an input hash would read the fields of one that is passed to a step.
class AttemptState:
    """One attempt at a job; shared by everything that works for it."""

    def __init__(
        self,
        job: Claimed,
        lease: Lease,
        tools: Tools,
        *,
        plain: bool,
        in_batch: bool = False,
        beside: Beside | None = None,
    ) -> None:
        """`plain`: the handler cannot wait within its job: it is a plain function, in a thread or a
        process, or has several jobs (`in_batch`).
        """
        self.job = job
        self.lease = lease
        self.tools = tools
        self.plain = plain
        self.in_batch = in_batch
        self.told_to_stop = False
        """Whether it was told so as a member of a batch."""
        self.beside = beside or Beside()
        self.effects: list[Effect] = []
        self.threads_running = 0
        self.stopped_by: Outcome | None = None
        """Why the attempt is told to end; None while it is not, and after its deadline."""
        self.calls_open = CallsOpen()
        # Recorded steps by name; None until they are read. A first attempt has none, unless its job
        # is of a run: that may be a branch, and read what a job of another run has recorded.
        first = job.attempt == 1 and job.run_id is None
        self.recorded: dict[str, RecordedStep] | None = {} if first else None
        # Names that steps, calls and waits were met under.
        self.seen: set[str] = set()
        # By name: the steps whose results the handler has got (`worker.steps.changed`).
        self.met: dict[str, Met] = {}
        # Sleeps that branches of the handler have met.
        self.sleeps: set[str] = set()
        # Checkpoints that this attempt has saved or read.
        self.checkpoints: set[str] = set()
        # Names of steps and calls that run at this moment.
        self.under_way: set[str] = set()
        # Names of steps that this attempt has marked as begun.
        self.begun: set[str] = set()
        # By name: the steps that failed and were not recorded since, and when (monotonic).
        self.failed_steps: dict[str, tuple[float, FailedStep]] = {}
        # By the name of a step: the approval that the step consumes when it begins.
        self.approvals: dict[str, UUID] = {}
        # Calls that a person has allowed to go beyond a budget: (name of the call, budget).
        self.budgets_exceeded: set[tuple[str, UUID]] = set()
        self._key_counts: dict[str, int] = {}
        # The keys of effects, waits and questions that have a name.
        self.named: set[str] = set()

    @property
    def own_sql(self) -> Database:
        """The database for the handler's own statements."""
        return self.tools.handlers_database or self.tools.database

    def key(self, kind: str, name: str | None, *what: object) -> str:
        """The key of an effect, a wait or a question: by its name, else by `what` it is.

        Equal ones without a name are numbered: which of them is which makes no difference. Without
        `what` they are numbered in the order in which they come. Raises `InvalidInput` for a name
        that cannot be kept, or that this attempt has used.
        """
        if name is None:
            which = f"{kind}#{input_hash(what, {})[:KEY_DIGITS]}" if what else kind
            self._key_counts[which] = n = self._key_counts.get(which, 0) + 1
            if not what:
                return f"{kind}#{n}"
            return which if n == 1 else f"{which}.{n}"
        check_name(kind, name)
        key = f"{kind}:{name}"
        if key in self.named:
            raise InvalidInput(
                f"the {kind} {name!r} of job {self.job.id} is made twice",
                "a name stands for one thing in all attempts: give this one another",
            )
        self.named.add(key)
        return key

    def park(
        self, reason: str, *, detail: str | None = None, after_seconds: float | None = None
    ) -> ParkSignal:
        """The signal to raise so that the job waits; the effects so far commit with the wait."""
        shown = None if detail is None else to_text(mask(detail))
        return ParkSignal(Parked(reason, shown, after_seconds, tuple(self.effects)))

    def require_loop(self, method: str, instead: str) -> None:
        """Raise `InvalidInput` for a method of `Job` that this handler cannot have."""
        if self.in_batch:
            raise InvalidInput(
                f"job.{method} cannot be used in a batch: {self.job.mode!r} has several jobs, and"
                " none of them can wait or be replayed without the others",
                f"enqueue a job of another mode for that (job.enqueue), {INSTEAD}",
            )
        if self.plain:
            raise InvalidInput(
                f"job.{method} needs an async handler; {self.job.mode!r} is a plain function",
                instead,
            )

    def check_not_over(self) -> None:
        """Raise `LeaseLost` in what a handler left running, unless it finishes what it began."""
        if self.beside.over and not self.beside.is_inside_work():
            raise LeaseLost(self.lease)

    def parked(self, signal: ParkSignal | None = None) -> Parked:
        """What the job waits for, with the effects of the attempt; `signal` is what ended it."""
        return replace(self.beside.merged(signal), effects=tuple(self.effects))

    async def write(self, kind: WriteKind[T, R], item: T) -> R:
        """Write an item into the books, in one commit with what other attempts write meanwhile.

        Committed on return. A cancellation lands before the write or after it.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        return await self.tools.books.write(kind, item)

    async def run_in_thread(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what `fn` returns in a thread, or raise what it raises.

        A thread cannot be interrupted: until `fn` returns, slot and job stay taken. So this ends
        after `fn`, whatever cancels it; what has not begun then never does.
        """
        begins, ended = [True], list[bool]()  # the thread and a cancellation both pop the first

        # An exception is carried out of the thread as a value: asyncio would throw it into the
        # task, where a GeneratorExit closes every coroutine up to the daemon's own.
        def safely() -> tuple[Any, BaseException | None]:
            if not _popped(begins):
                return None, None
            try:
                value, error = fn(*args, **kwargs), None
            except BaseException as raised:
                value, error = None, raised
            forked.leave_if_child(error)
            ended.append(True)
            return value, error

        self.threads_running += 1
        try:
            value, error = await anyio.to_thread.run_sync(safely, limiter=self.tools.threads)
        except BaseException:
            # `Task.cancel` ignores the shield in there, and so do `asyncio.timeout` and `wait_for`.
            if not _popped(begins):
                await _until(ended)
            raise
        finally:
            self.threads_running -= 1
        if error is not None:
            raise error
        return value


def _popped(one: list[bool]) -> bool:
    """Whether there was one to pop; of two threads, one gets it."""
    try:
        return one.pop()
    except IndexError:
        return False


async def _until(ended: list[bool]) -> None:
    with anyio.CancelScope(shield=True):
        while not ended:
            with suppress(CancelledError):
                await anyio.sleep(LOOK_SECONDS)
