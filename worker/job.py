"""`Job`: what a handler can do.

In: the claimed job and the worker's tools. Out: effects, which commit with the attempt's ending,
and records that commit at once (steps, calls). The invariant is replay: a handler is run from its
start after every wait, retry and crash; whatever was recorded under a name is read back, not done
again.
"""

import mimetypes
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from math import isfinite, nan
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)
from uuid import UUID

import anyio
import anyio.lowlevel
import anyio.to_thread
import structlog

from db.documents import to_payload, to_text
from db.errors import InvalidInput
from db.fence import Lease
from db.memory import memories
from db.money.calls import Answer
from db.pool import Connection, Database
from db.queue.claim import Claimed
from db.queue.effects import (
    ARTIFACT_BYTES_MAX,
    ArtifactEffect,
    Effect,
    JobEffect,
    MemoryEffect,
    MessageEffect,
    MetricEffect,
)
from db.steps.checkpoints import Checkpoint
from worker.approvals import ask
from worker.approvals.ask import Decision
from worker.llm.choice import ModelChoice
from worker.money import calls
from worker.money.calls import CallsOpen, Pricing, Sending
from worker.money.group_commit import GroupCommit, Kind
from worker.money.open_call import OpenCall
from worker.money.spool import Spool
from worker.outcomes import Parked, ParkSignal
from worker.steps import checkpoints, parents, steps, waits
from worker.steps.parents import Parents
from worker.steps.waits import Child

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent, EventStreamHandler
    from pydantic_ai.messages import ModelMessage, UserContent
    from pydantic_ai.models import Model
    from pydantic_ai.output import OutputSpec
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.usage import UsageLimits

    from worker.deployments.deployer import Deployer
    from worker.memory.embedders import Embedder

P = ParamSpec("P")
D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")


class AgentOptions(TypedDict, total=False):
    """How `job.agent` runs an agent; what is not explained goes to the agent's own `run`."""

    deps: Any
    model: "Model | str | None"
    message_history: "Sequence[ModelMessage] | None"
    instructions: Any
    model_settings: "ModelSettings | None"
    usage_limits: "UsageLimits | None"
    toolsets: Sequence[Any] | None
    event_stream_handler: "EventStreamHandler[Any] | None"
    effects: "Mapping[str, steps.Effect | None] | None"
    """By tool: "pure", "idempotent" (the default), "unsafe", or None: run in every replay."""
    approval_seconds: float | None
    """How long an approval may take; then it is a no."""
    if_changed: Literal["fail", "reuse"]
    """What becomes of a recorded answer when the agent now asks something else."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the worker lends to every attempt."""

    database: Database
    embedder: "Embedder"
    threads: anyio.CapacityLimiter
    payload_bytes_max: int
    deployer: "Deployer"
    spool: Spool
    pricing: Pricing | None = None
    unknown_price: str = "refuse_if_budgeted"
    output_tokens_max: int = 4096
    model: ModelChoice = field(default_factory=ModelChoice)
    history_tokens: int = 8_000
    instructions: str | None = None
    books: GroupCommit = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "books", GroupCommit(self.database))


def _in_the_loop(
    method: Callable[Concatenate["Job", P], Awaitable[R]],
) -> Callable[Concatenate["Job", P], Awaitable[R]]:
    """Refuse, before a coroutine is even made, what a plain handler's thread cannot do."""

    @wraps(method)
    def checked(job: "Job", *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        _require_loop(job, method.__name__)
        return method(job, *args, **kwargs)

    return checked


def _require_loop(job: "Job", method: str) -> None:
    if job.plain:
        raise InvalidInput(
            f"job.{method} needs an async handler; {job.mode!r} is a plain function",
            "write `async def`, or keep to say, save, remember and enqueue",
        )


class Job:
    """One attempt's view of its job."""

    def __init__(self, claimed: Claimed, lease: Lease, tools: Tools, *, plain: bool) -> None:
        self.id = claimed.id
        self.mode = claimed.mode
        self.attempt = claimed.attempt
        self.payload = claimed.payload
        self.team_id = claimed.team_id
        self.thread_id = claimed.thread_id
        self.trigger_message_id = claimed.trigger_message_id
        self.trace_parent = claimed.trace_parent
        self._lane = claimed.lane
        self.run_id = claimed.run_id
        self.node = claimed.node
        self.agent_id = claimed.agent_id
        self.lease = lease
        self.tools = tools
        self.plain = plain
        self.effects: list[Effect] = []
        self._numbers: dict[str, int] = {}
        self._named: set[str] = set()
        # Calls that a person let go beyond a budget in this attempt: their names, and the budgets.
        self.exceeds: set[tuple[str, UUID]] = set()
        self.threads_running = 0
        self.calls_open = CallsOpen()
        # Outputs of recorded steps by name; None: not read yet.
        # (A job of a run may be of a branch, and read what another job has recorded.)
        first = claimed.attempt == 1 and claimed.run_id is None
        self.recorded: dict[str, Any] | None = {} if first else None
        self.known: dict[str, steps.Known] = {}
        # Unsafe steps that ran in this attempt, and all those that run now.
        self.begun: set[str] = set()
        self.under_way: set[str] = set()
        # By the names of steps: the approvals that they consume when they begin.
        self.allowed: dict[str, UUID] = {}

    @property
    def trace_id(self) -> str | None:
        """The trace id out of the W3C `traceparent` the job was enqueued with."""
        return trace_id(self.trace_parent)

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A logger that already carries the job's id, lease, mode and trace."""
        return structlog.get_logger("handler")

    # Effects: they commit with the attempt's ending.

    def say(
        self,
        text: str,
        *,
        role: str = "assistant",
        model: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        latency_ms: int | None = None,
        thread_id: UUID | None = None,
        name: str | None = None,
    ) -> None:
        """Write a message into the job's thread (or `thread_id`)."""
        if self.thread_id is None and thread_id is None:
            raise InvalidInput(
                f"job {self.id} has no thread to say something in",
                "enqueue it with thread_id, or pass thread_id to say",
            )
        self.effects.append(
            MessageEffect(
                key=self.key("message", name),
                text=to_text(text),
                role=role,
                thread_id=thread_id,
                model=model,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                latency_ms=latency_ms,
            )
        )

    def send(
        self,
        agent_id: UUID,
        text: str,
        *,
        mode: str = "answer",
        thread_id: UUID | None = None,
        name: str | None = None,
    ) -> None:
        """Write a message from the job's agent to another, whose job (of `mode`) comes with it.

        Both commit together; the message is what triggers that job. It goes into the job's thread,
        or into `thread_id`.
        """
        thread = thread_id or self.thread_id
        if thread is None:
            raise InvalidInput(
                f"job {self.id} has no thread to send a message in",
                "enqueue it with thread_id, or pass thread_id to send",
            )
        key = self.key("send", name)
        self.effects.append(
            MessageEffect(
                key=key,
                text=to_text(text),
                role="user",
                thread_id=thread,
                recipient_agent_id=agent_id,
            )
        )
        # As a follow-up it has this job's place in the thread's lane, if this job has one.
        follows = thread == self.thread_id and self._lane is not None
        self.effects.append(
            JobEffect(
                key=key,
                mode=mode,
                agent_id=agent_id,
                thread_id=thread,
                message_key=key,
                lane=None if follows else str(thread),
            )
        )

    def metric(self, name: str, value: float, *, key: str | None = None) -> None:
        """Write a number down under a name; many of one name are its course over time.

        Each is written once: a replay's repeat counts by its `key`, else by its place in order.
        """
        try:
            number = nan if isinstance(value, bool | str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = nan
        if not isfinite(number):
            shown = f"{value!r:.100}" if isinstance(value, str) else f"the {type(value).__name__}"
            raise InvalidInput(f"{shown} of the metric {name!r} is no number", "pass one")
        self.effects.append(MetricEffect(self.key("metric", key), to_text(name), number))

    def enqueue(
        self,
        mode: str,
        payload: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        **options: Any,
    ) -> None:
        """Enqueue a follow-up: same thread, same place in its lane.

        `options`: queue, priority, delay_seconds, lane, unique_key, failures_max, timeout_seconds.
        """
        self._new_job(self.key("job", name), mode, payload, is_child=False, options=options)

    def spawn(
        self,
        mode: str,
        payload: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        **options: Any,
    ) -> Child:
        """Start a child job, outside the lane; `gather` waits for it.

        Children that nobody gathered are canceled when their parent ends: use `enqueue` for those.
        Options as for `enqueue`, but for unique_key.
        """
        if self.plain:
            raise InvalidInput(
                f"job.spawn needs an async handler; {self.mode!r} is a plain function",
                "children end with their parent unless it gathers them: use enqueue instead",
            )
        if options.get("lane") is not None and options["lane"] == self._lane:
            raise InvalidInput(
                f"a child in the lane {self._lane!r} would wait for its parent for ever",
                "leave lane out: a child has no lane of its own",
            )
        if "unique_key" in options:
            raise InvalidInput(
                f"a child cannot have a unique_key: another job may hold {options['unique_key']!r},"
                " and then there would be no child to gather",
                "leave it out: a replay spawns each child once anyway",
            )
        key = self.key("child", name)
        self._new_job(key, mode, payload, is_child=True, options=options)
        return Child(key)

    def save(
        self,
        name: str,
        content: bytes | str | None = None,
        *,
        uri: str | None = None,
        media_type: str | None = None,
    ) -> None:
        """Keep a file of this job: its content (100 MiB at most), or the address where it lies."""
        if (content is None) == (uri is None):
            raise InvalidInput(f"artifact {name!r} needs either content or uri", "pass one of them")
        if not isinstance(cast(object, content), bytes | bytearray | memoryview | str | None):
            raise InvalidInput(
                f"the content of artifact {name!r} is a {type(content).__name__}",
                "pass bytes or text, like json.dumps(…)",
            )
        data = content.encode(errors="replace") if isinstance(content, str) else content
        if data is not None and len(data) > ARTIFACT_BYTES_MAX:
            raise InvalidInput(
                f"artifact {name!r} has {len(data):,} bytes;"
                f" at most {ARTIFACT_BYTES_MAX:,} are allowed",
                "keep it where such files are kept, and save its uri",
            )
        guessed = mimetypes.guess_type(name)[0]
        fallback = "text/plain" if isinstance(content, str) else "application/octet-stream"
        self.effects.append(
            ArtifactEffect(
                key=self.key("artifact", name),
                name=name,
                media_type=media_type or guessed or fallback,
                content=None if data is None else bytes(data),
                uri=uri,
            )
        )

    def remember(
        self,
        text: str,
        *,
        kind: str = "note",
        source_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        """Have a text embedded after the job has finished; `recall` finds it then."""
        self.effects.append(
            MemoryEffect(
                key=self.key("memory", name),
                text=to_text(text),
                source_kind=kind,
                source_id=source_id,
                metadata=dict(metadata or {}),
            )
        )

    # Durable at once.

    @_in_the_loop
    async def step(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        effect: steps.Effect = "idempotent",
        any_input: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run `fn(*args, **kwargs)` once and record what it returns (JSON); replays read it.

        A plain function runs in a thread. Committed on return. If it raises, nothing is recorded.
        Recorded with other arguments: `StepChanged`, unless `any_input`; `pure` is computed anew.
        `unsafe` to repeat: if it was begun and not recorded, the job waits for a person; only
        Retry, Fail, Cancel, Snooze or a wait out of `fn` say that it did not happen.
        """
        return await steps.run(self, name, fn, args, kwargs, effect=effect, any_input=any_input)

    @overload
    def call(
        self,
        name: str,
        send: Callable[[Sending], Awaitable[Answer]],
        *,
        provider: str,
        model: str,
        estimate: tuple[int, int] = (0, 0),
    ) -> Coroutine[Any, Any, Any]: ...

    @overload
    def call(
        self, name: str, *, provider: str, model: str, estimate: tuple[int, int] = (0, 0)
    ) -> OpenCall: ...

    def call(
        self,
        name: str,
        send: Callable[[Sending], Awaitable[Answer]] | None = None,
        *,
        provider: str,
        model: str,
        estimate: tuple[int, int] = (0, 0),
    ) -> Any:
        """Make one paid call, and record its answer as the step `name`; replays read it for free.

        The call is in the books, at its estimate (input, output tokens), before `send` begins; it
        is settled once with what `send` returns. `send` raising `CallRefused` settles it at
        nothing, `CallLimited` also pauses that model for everyone; any other exception leaves what
        it cost unknown, at the estimate. Over a budget or a rate limit the job parks first.

        Without `send`, `async with job.call(name, provider=…, model=…, estimate=…) as call` is the
        same for any SDK: see `OpenCall`.
        """
        _require_loop(self, "call")
        if send is None:
            return OpenCall(self, name, provider, model, estimate)
        return calls.make(self, name, send, provider=provider, model=model, estimate=estimate)

    @overload
    async def agent(
        self,
        name: str,
        agent: "AbstractAgent[D, R]",
        prompt: "str | Sequence[UserContent] | None" = None,
        *,
        output_type: None = None,
        **options: "Unpack[AgentOptions]",
    ) -> R: ...

    @overload
    async def agent(
        self,
        name: str,
        agent: "AbstractAgent[D, Any]",
        prompt: "str | Sequence[UserContent] | None" = None,
        *,
        output_type: "OutputSpec[T]",
        **options: "Unpack[AgentOptions]",
    ) -> T: ...

    @_in_the_loop
    async def agent(
        self,
        name: str,
        agent: Any,
        prompt: Any = None,
        *,
        output_type: Any = None,
        **options: Any,
    ) -> Any:
        """Run a pydantic-ai agent, and return its output.

        Each request to its model is a paid call and the step `"<name>/request 1"`, `2`, …; each
        tool call a step `"<name>/request 2/tool search 1"`; replays read them. Output functions and
        validators run in every replay. No provider's SDK retries by itself: a retry is the job's,
        and a call of its own; a model that cannot be kept from it is refused, as is an agent that
        a tool runs without this. A tool that requires approval parks the job until somebody
        decides. For the options see `AgentOptions`.
        """
        await self.tools.model.ready()
        from worker.llm import agents

        return await agents.run(self, name, agent, prompt, output_type=output_type, **options)

    @_in_the_loop
    async def transaction(self, name: str, fn: Callable[[Connection], Awaitable[Any]]) -> Any:
        """Run your own SQL once: `fn(connection)`, the fence and the step in one commit.

        Do not commit inside. What `fn` returns is recorded (JSON); replays read it.
        """
        return await steps.transaction(self, name, fn)

    @_in_the_loop
    async def checkpoint(self, name: str, state: Any) -> Any:
        """Save a state (JSON) under a name, committed on return; returns the one that stands.

        The first that was saved stands in all attempts. A run can be forked at it.
        """
        return await checkpoints.save(self, name, state)

    @_in_the_loop
    async def latest_checkpoint(self) -> Checkpoint | None:
        """The checkpoint that was saved last, in whichever attempt."""
        return await checkpoints.latest(self)

    @_in_the_loop
    async def checkpoint_at(self, name: str) -> Checkpoint | None:
        """The checkpoint of that name."""
        return await checkpoints.at(self, name)

    @_in_the_loop
    async def prune_checkpoints(self, keep: int = 3) -> int:
        """Drop the states of all but the newest `keep`; what a branch reads stays.

        Returns how many went.
        """
        return await checkpoints.prune(self, keep)

    @_in_the_loop
    async def deploy(self, environment: str, sha: str, *, name: str | None = None) -> Any:
        """Ship a commit to an environment of deploy.toml; returns the `Deployment` as it ended.

        Its phases are steps: a re-run goes on where the last one died. The job waits for as many
        persons as the environment asks for, then while another deployment of it is under way.
        """
        return await self.tools.deployer.deploy(self, environment, sha, self.key("deploy", name))

    @_in_the_loop
    async def rollback(
        self, environment: str, to: str = "previous", *, name: str | None = None
    ) -> Any:
        """Go back to what was healthy there before, or to `to`: a deployment's id or a sha.

        A deployment of its own, probed as any other; returns it as it ended.
        """
        key = self.key("rollback", name)
        return await self.tools.deployer.roll_back(self, environment, to, key)

    # Waiting: the job parks, at no cost, and is run again from its start when it may go on.

    @_in_the_loop
    async def ask(
        self,
        proposal: str,
        *,
        options: tuple[str, ...] = ("approve", "reject"),
        shows: object = None,
        deadline_seconds: float | None = None,
        on_timeout: str = "reject",
        name: str | None = None,
        votes: int = 1,
        asked_by: str | None = None,
        self_approval: bool = False,
        editable: bool = False,
        for_step: str | None = None,
    ) -> Decision:
        """Ask a person. Parks until somebody decides, or the deadline takes `on_timeout`.

        The yes is for exactly this; asked with something else under the same name, it is asked
        anew. `on_timeout` is an option, or "escalate": as much time again, once. `votes` people
        must say yes; `asked_by` (the actor of the job's run) is none of them unless
        `self_approval`. If `editable`, what is shown may be approved with changes:
        `Decision.shown`. Every option but "reject" is a yes.

        Reading the yes here consumes it: from then on, and before the next line runs, a no comes
        too late. To have a no count until the very step that was approved begins, use
        `approved_step`, or name the `step` in `for_step`.
        """
        return await ask.ask(
            self,
            proposal,
            options=options,
            shows=shows,
            deadline_seconds=deadline_seconds,
            on_timeout=on_timeout,
            name=name,
            votes=votes,
            asked_by=asked_by,
            self_approval=self_approval,
            editable=editable,
            for_step=for_step,
        )

    @_in_the_loop
    async def approved_step(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        proposal: str,
        effect: steps.Effect = "idempotent",
        deadline_seconds: float | None = None,
        on_timeout: str = "reject",
        votes: int = 1,
        asked_by: str | None = None,
        self_approval: bool = False,
        editable: bool = False,
        **kwargs: Any,
    ) -> Any:
        """`step`, run only with a yes to exactly these arguments; raises `NotApproved` on a no.

        The yes is consumed in the transaction that begins the step: until then a no counts. An
        `effect` of "unsafe" is not repeated if its worker dies: the job waits for a person then.

            await job.approved_step("pay", pay, invoice, proposal="Pay it?", effect="unsafe")
        """
        return await ask.approved_step(
            self,
            name,
            fn,
            args,
            kwargs,
            proposal=proposal,
            effect=effect,
            deadline_seconds=deadline_seconds,
            on_timeout=on_timeout,
            votes=votes,
            asked_by=asked_by,
            self_approval=self_approval,
            editable=editable,
        )

    @_in_the_loop
    async def sleep(self, seconds: float, *, name: str | None = None) -> None:
        """Wait that long since the first time this line was reached."""
        await waits.sleep(self, seconds, name)

    @_in_the_loop
    async def wait(
        self, signal: str, *, timeout_seconds: float | None = None, name: str | None = None
    ) -> Any:
        """The payload of the next `signal` sent to this job; None when the time is up first."""
        return await waits.wait(self, signal, timeout_seconds, name)

    @_in_the_loop
    async def gather(self, *children: Child) -> list[Any]:
        """The results of these children, in this order; parks until all have ended.

        Raises `ChildFailed` naming those that did not end well.
        """
        return await waits.gather(self, children)

    # Reading.

    @_in_the_loop
    async def recall(
        self, query: str, *, limit: int = 5, thread_only: bool = False, kind: str | None = None
    ) -> list[memories.Hit]:
        """What was remembered nearest to `query`, best first, within the job's team."""
        embedder = self.tools.embedder
        [vector] = await embedder.embed([query])
        async with self.tools.database.connection() as connection:
            space = await memories.get_or_create_space(
                connection, embedder.model, embedder.dimensions
            )
            return await memories.search(
                connection,
                space,
                vector,
                limit=limit,
                team_id=self.team_id,
                thread_id=self.thread_id if thread_only else None,
                source_kind=kind,
            )

    @_in_the_loop
    async def parents(self) -> Parents:
        """The results of the jobs that this one comes after, by node.

        One that did not end well (its edge says `run`) is None there, and named in `failed`.
        """
        return await parents.read(self)

    @property
    def database(self) -> Database:
        """The daemon's database, for reading. Write through `transaction`."""
        return self.tools.database

    # For the worker itself, and helpers in call order.

    async def run_in_thread(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `fn` returns in a thread; what it raises is raised here.

        A thread cannot be interrupted: until it returns, slot and job stay taken.
        """

        # Not left to asyncio, which throws a thread's exception into the task: a GeneratorExit
        # would close every coroutine up to the daemon's own.
        def safely() -> tuple[Any, BaseException | None]:
            try:
                return fn(*args, **kwargs), None
            except BaseException as error:
                return None, error

        self.threads_running += 1
        try:
            value, error = await anyio.to_thread.run_sync(safely, limiter=self.tools.threads)
        finally:
            self.threads_running -= 1
        if error is not None:
            raise error
        return value

    def key(self, kind: str, name: str | None) -> str:
        if name is None:
            self._numbers[kind] = self._numbers.get(kind, 0) + 1
            return f"{kind}#{self._numbers[kind]}"
        steps.check_name(kind, name)
        key = f"{kind}:{name}"
        if key in self._named:
            raise InvalidInput(
                f"the {kind} {name!r} of job {self.id} is made twice",
                "a name stands for one thing in all attempts: give this one another",
            )
        self._named.add(key)
        return key

    def _new_job(
        self,
        key: str,
        mode: str,
        payload: Mapping[str, Any] | None,
        *,
        is_child: bool,
        options: Mapping[str, Any],
    ) -> None:
        own = {"key", "mode", "payload", "is_child", "thread_id", "message_key"}
        known = JobEffect.__dataclass_fields__.keys() - own
        unknown = options.keys() - known
        if unknown:
            raise InvalidInput(
                f"{', '.join(sorted(unknown))} is not an option of a job",
                f"the options are {', '.join(sorted(known))}",
            )
        document = to_payload(
            dict(payload or {}), f"the payload of {mode!r}", self.tools.payload_bytes_max
        )
        self.effects.append(
            JobEffect(key=key, mode=mode, payload=document, is_child=is_child, **options)
        )

    def park(
        self, reason: str, *, detail: str | None = None, after_seconds: float | None = None
    ) -> ParkSignal:
        shown = None if detail is None else to_text(detail)
        return ParkSignal(Parked(reason, shown, after_seconds, tuple(self.effects)))

    async def write(self, kind: Kind[T, R], item: T) -> R:
        """Have something written into the books, together with what others write just now."""
        # A stop lands before a write, never in it.
        await anyio.lowlevel.checkpoint_if_cancelled()
        return await self.tools.books.write(kind, item)


def trace_id(trace_parent: str | None) -> str | None:
    """The trace id of a W3C `traceparent` header: version-traceid-parentid-flags."""
    parts = (trace_parent or "").split("-")
    return parts[1] if len(parts) == 4 else None
