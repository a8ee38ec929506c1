"""`Job`: what a handler can do.

In: the claimed job and the worker's tools. Out: effects, which commit with the attempt's ending,
and records that commit at once (steps, calls). The invariant is replay: a handler is run from its
start after every wait, retry and crash; whatever was recorded under a name is read back, not done
again.
"""

import inspect
import mimetypes
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import anyio.to_thread
import structlog

from db import approvals, memories, steps
from db.approvals import shown_hash
from db.documents import to_document, to_payload, to_text
from db.effects import Approval, Artifact, Effect, Memory, Message, NewJob
from db.errors import InvalidInput
from db.pool import Connection, Database
from db.queue import Claimed, Lease
from db.steps import PaidAnswer, Record
from db.tokens import Answer, CallStatus, Settlement, Starting, Usage, UsageSource
from worker import crash_points
from worker.group_commit import RECORD, SETTLE, START, GroupCommit, Kind, Paid
from worker.outcomes import Parked, ParkSignal

if TYPE_CHECKING:
    from worker.embedders import Embedder

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class ChildFailed(Exception):
    """A gathered child did not end well; `children` maps its key to (status, error)."""

    def __init__(self, children: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{key} {status}: {error}" for key, (status, error) in children.items())
        )
        self.children = children


class CallRefused(Exception):
    """Raise it in a call's `send` when the provider refused and billed nothing."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person (or the deadline) decided."""

    approved: bool
    option: str
    comment: str | None
    decided_by: str | None


@dataclass(frozen=True, slots=True)
class Child:
    """A spawned job, to be gathered."""

    key: str


@dataclass(frozen=True, slots=True)
class Sending:
    """What a call's `send` gets.

    The id to put into the request, and `sent()` to say it went out.
    """

    request_id: str

    def sent(self) -> None:
        """Say that the request is on its way."""
        crash_points.reach("call.sent")


@dataclass(frozen=True, slots=True)
class Tools:
    """What the worker lends to every attempt."""

    database: Database
    embedder: "Embedder"
    threads: anyio.CapacityLimiter
    payload_bytes_max: int
    deployer: "Callable[[Job, str, str, str], Awaitable[Any]]"
    books: GroupCommit = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "books", GroupCommit(self.database))


def _in_the_loop(
    method: Callable[Concatenate["Job", P], Awaitable[R]],
) -> Callable[Concatenate["Job", P], Awaitable[R]]:
    """Refuse, before a coroutine is even made, what a plain handler's thread cannot do."""

    @wraps(method)
    def checked(job: "Job", *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        if job.plain:
            raise InvalidInput(
                f"job.{method.__name__} needs an async handler; {job.mode!r} is a plain function",
                "write `async def`, or keep to say, save, remember and enqueue",
            )
        return method(job, *args, **kwargs)

    return checked


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
        self.lease = lease
        self.plain = plain
        self.effects: list[Effect] = []
        self._tools = tools
        self._numbers: dict[str, int] = {}
        self._named: set[str] = set()
        self.threads_running = 0
        self._recorded: dict[str, Any] | None = {} if claimed.attempt == 1 else None

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
            Message(
                key=self._key("message", name),
                text=to_text(text),
                role=role,
                thread_id=thread_id,
                model=model,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                latency_ms=latency_ms,
            )
        )

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
        self._new_job(self._key("job", name), mode, payload, is_child=False, options=options)

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
        key = self._key("child", name)
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
        """Keep a file of this job: its content, or the address where it lies."""
        if (content is None) == (uri is None):
            raise InvalidInput(f"artifact {name!r} needs either content or uri", "pass one of them")
        data = content.encode() if isinstance(content, str) else content
        guessed = mimetypes.guess_type(name)[0]
        fallback = "text/plain" if isinstance(content, str) else "application/octet-stream"
        self.effects.append(
            Artifact(
                key=self._key("artifact", name),
                name=name,
                media_type=media_type or guessed or fallback,
                content=data,
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
            Memory(
                key=self._key("memory", name),
                text=to_text(text),
                source_kind=kind,
                source_id=source_id,
                metadata=dict(metadata or {}),
            )
        )

    # Durable at once.

    @_in_the_loop
    async def step(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `fn(*args, **kwargs)` once and record what it returns (JSON); replays read it.

        A plain function runs in a thread. Committed on return. If it raises, nothing is recorded.
        """
        found, output = await self.read_step(name)
        if found:
            return output
        began = time.monotonic()
        value = await self._run(fn, *args, **kwargs)
        return await self.record_step(
            name, to_document(value, f"the result of step {name!r}"), time.monotonic() - began
        )

    @_in_the_loop
    async def call(
        self,
        name: str,
        send: Callable[[Sending], Awaitable[Answer]],
        *,
        provider: str,
        model: str,
        estimate: tuple[int, int] = (0, 0),
    ) -> Any:
        """Make one paid call, and record its answer as the step `name`; replays read it for free.

        The call is in the books, at its estimate (input, output tokens), before `send` begins; it
        is settled once with what `send` returns. `send` raising `CallRefused` settles it at
        nothing; any other exception leaves what it cost unknown, at the estimate.
        """
        found, output = await self.read_step(name, fresh=self.attempt > 1)
        if found:
            return output
        call_id, request_id = await self._start_call(name, provider, model, estimate)
        began = time.monotonic()
        answer = await self._send(call_id, send, Sending(request_id), estimate, began)
        crash_points.reach("call.answered")
        return await self._settle(call_id, name, answer, estimate, time.monotonic() - began)

    @_in_the_loop
    async def transaction(self, name: str, fn: Callable[[Connection], Awaitable[Any]]) -> Any:
        """Run your own SQL once: `fn(connection)`, the fence and the step in one commit.

        Do not commit inside. What `fn` returns is recorded (JSON); replays read it.
        """
        found, output = await self.read_step(name)
        if found:
            return output
        async with self._tools.database.transaction() as connection:
            await steps.hold(connection, self.lease)
            value = to_document(await fn(connection), f"the result of transaction {name!r}")
            _, output = await steps.record(
                connection, self.lease, name, value, attempt=self.attempt, kind="transaction"
            )
        return self._remember_step(name, output)

    @_in_the_loop
    async def deploy(self, environment: str, sha: str, *, name: str | None = None) -> Any:
        """Ship a commit to an environment of deploy.toml; returns the `Deployment` as it ended.

        Its phases are steps: a re-run goes on where the last one died. While another deployment of
        that environment is under way, the job waits.
        """
        return await self._tools.deployer(self, environment, sha, self._key("deploy", name))

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
    ) -> Decision:
        """Ask a person. Parks until somebody decides, or the deadline takes `on_timeout`."""
        key = self._key("approval", name)
        choices = tuple(options) if "reject" in options else (*options, "reject")
        if on_timeout not in choices:
            raise InvalidInput(
                f"on_timeout={on_timeout!r} is not one of the options {', '.join(choices)}",
                "name one of them",
            )
        async with self._tools.database.connection() as connection:
            asked = await approvals.get_by_effect(connection, self.id, key)
        if asked is None:
            shown = None if shows is None else to_document(shows, "what the approval shows")
            question = Approval(
                key=key,
                proposal_text=to_text(proposal),
                options=choices,
                shown=shown,
                shown_hash=shown_hash(proposal, choices, shows),
                deadline_seconds=deadline_seconds,
                on_timeout=on_timeout,
            )
            self.effects.append(question)
        elif asked.closed_at is not None:
            option = asked.chosen_option or "reject"
            return Decision(option != "reject", option, asked.comment, asked.decided_by)
        raise self._park("approval", detail=proposal[:200])

    @_in_the_loop
    async def sleep(self, seconds: float, *, name: str | None = None) -> None:
        """Wait that long since the first time this line was reached."""
        key = self._key("sleep", name)
        found, _ = await self.read_step(key)
        if found:
            return
        remaining = seconds - await self._waited(key, "sleep")
        if remaining > 0:
            raise self._park("timer", after_seconds=remaining)
        await self.record_step(key, "null", seconds, kind="sleep")

    @_in_the_loop
    async def wait(
        self, signal: str, *, timeout_seconds: float | None = None, name: str | None = None
    ) -> Any:
        """The payload of the next `signal` sent to this job; None when the time is up first."""
        key = self._key(f"wait:{signal}", name)
        found, output = await self.read_step(key)
        if found:
            return output
        remaining = None
        if timeout_seconds is not None:
            remaining = timeout_seconds - await self._waited(key, "wait")
        async with self._tools.database.transaction() as connection:
            found, payload = await steps.take_signal(connection, self.lease, signal)
            if found or (remaining is not None and remaining <= 0):
                _, payload = await steps.record(
                    connection,
                    self.lease,
                    key,
                    to_document(payload),
                    attempt=self.attempt,
                    kind="wait",
                )
                found = True
        if not found:
            raise self._park("signal", detail=signal, after_seconds=remaining)
        return self._remember_step(key, payload)

    @_in_the_loop
    async def gather(self, *children: Child) -> list[Any]:
        """The results of these children, in this order; parks until all have ended.

        Raises `ChildFailed` naming those that did not end well.
        """
        async with self._tools.database.connection() as connection:
            rows = await steps.children(connection, self.id)
        found = [rows.get(child.key) for child in children]
        if any(row is None or row["status"] in ("queued", "waiting", "running") for row in found):
            raise self._park("children", detail=f"{len(children)} children")
        ended = [row for row in found if row is not None]
        bad = [row for row in ended if row["status"] != "done"]
        if bad:
            raise ChildFailed({row["effect_key"]: (row["status"], row["error"]) for row in bad})
        return [row["result"] for row in ended]

    # Reading.

    @_in_the_loop
    async def recall(
        self, query: str, *, limit: int = 5, thread_only: bool = False, kind: str | None = None
    ) -> list[memories.Hit]:
        """What was remembered nearest to `query`, best first, within the job's team."""
        embedder = self._tools.embedder
        [vector] = await embedder.embed([query])
        async with self._tools.database.connection() as connection:
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

    @property
    def database(self) -> Database:
        """The daemon's database, for reading. Write through `transaction`."""
        return self._tools.database

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
            value, error = await anyio.to_thread.run_sync(safely, limiter=self._tools.threads)
        finally:
            self.threads_running -= 1
        if error is not None:
            raise error
        return value

    def _key(self, kind: str, name: str | None) -> str:
        if name is None:
            self._numbers[kind] = self._numbers.get(kind, 0) + 1
            return f"{kind}#{self._numbers[kind]}"
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
        known = NewJob.__dataclass_fields__.keys() - {"key", "mode", "payload", "is_child"}
        unknown = options.keys() - known
        if unknown:
            raise InvalidInput(
                f"{', '.join(sorted(unknown))} is not an option of a job",
                f"the options are {', '.join(sorted(known))}",
            )
        document = to_payload(
            dict(payload or {}), f"the payload of {mode!r}", self._tools.payload_bytes_max
        )
        self.effects.append(
            NewJob(key=key, mode=mode, payload=document, is_child=is_child, **options)
        )

    def _park(
        self, reason: str, *, detail: str | None = None, after_seconds: float | None = None
    ) -> ParkSignal:
        shown = None if detail is None else to_text(detail)
        return ParkSignal(Parked(reason, shown, after_seconds, tuple(self.effects)))

    async def read_step(self, name: str, *, fresh: bool = False) -> tuple[bool, Any]:
        """Is this step recorded, and with which output? `fresh` asks the database again."""
        if self._recorded is None or fresh:
            async with self._tools.database.connection() as connection:
                found = await steps.list_for_job(connection, self.id)
            self._recorded = {step.name: step.output for step in found if step.finished_at}
        return name in self._recorded, self._recorded.get(name)

    async def _run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if inspect.iscoroutinefunction(fn):
            return await fn(*args, **kwargs)

        value = await self.run_in_thread(fn, *args, **kwargs)
        return await value if inspect.isawaitable(value) else value

    async def record_step(
        self, name: str, output: str, took_seconds: float, *, kind: str = "step"
    ) -> Any:
        """Record a step's output (JSON text) under the fence; returns the output that stands."""
        ran = Record(self.lease, name, output, self.attempt, took_seconds, kind)
        stands = await self._write(RECORD, ran)
        crash_points.reach("step.committed")
        return self._remember_step(name, stands)

    def _remember_step(self, name: str, output: Any) -> Any:
        if self._recorded is not None:
            self._recorded[name] = output
        return output

    async def _waited(self, key: str, kind: str) -> float:
        async with self._tools.database.connection() as connection:
            return await steps.waited_seconds(
                connection, self.lease, key, attempt=self.attempt, kind=kind
            )

    async def _start_call(
        self, name: str, provider: str, model: str, estimate: tuple[int, int]
    ) -> tuple[UUID, str]:
        crash_points.reach("call.before_row")
        request_id = uuid4().hex
        call = Starting(
            self.lease,
            provider,
            model,
            request_id,
            Usage(*estimate, source=UsageSource.ESTIMATED),
            mode=self.mode,
            step_name=name,
            attempt=self.attempt,
            team_id=self.team_id,
            thread_id=self.thread_id,
        )
        call_id = await self._write(START, call)
        crash_points.reach("call.after_row")
        return call_id, request_id

    async def _write(self, kind: Kind[T, R], item: T) -> R:
        # A stop lands before a write, never in it.
        await anyio.lowlevel.checkpoint_if_cancelled()
        return await self._tools.books.write(kind, item)

    async def _send(
        self,
        call_id: UUID,
        send: Callable[[Sending], Awaitable[Answer]],
        sending: Sending,
        estimate: tuple[int, int],
        began: float,
    ) -> Answer:
        try:
            return await send(sending)
        except BaseException as error:
            refused = isinstance(error, CallRefused)
            held = Usage(*estimate, source=UsageSource.ESTIMATED)
            settlement = Settlement(
                call_id,
                CallStatus.ERROR if refused else CallStatus.UNKNOWN,
                Usage(0, 0) if refused else held,
                latency_ms=round((time.monotonic() - began) * 1000),
                error=f"{type(error).__name__}: {error}"[:1000],
            )
            await self._tools.books.write(SETTLE, Paid(settlement, None))
            raise

    async def _settle(
        self,
        call_id: UUID,
        name: str,
        answer: Answer,
        estimate: tuple[int, int],
        took_seconds: float,
    ) -> Any:
        kept, unusable = None, None
        try:
            output = to_document(answer.content, f"the answer of call {name!r}")
            kept = PaidAnswer(self.id, name, output, self.attempt, took_seconds)
        except InvalidInput as error:
            unusable = error
        # One commit for the settlement and the answer, lease or no lease: what was paid is booked,
        # and is never paid for again. An answer that cannot be kept was paid for all the same.
        settlement = Settlement(
            call_id,
            CallStatus.OK,
            answer.usage or Usage(*estimate, source=UsageSource.ESTIMATED),
            answer.cost,
            answer.price_version,
            round(took_seconds * 1000),
            str(unusable) if unusable else None,
        )
        stands = await self._tools.books.write(SETTLE, Paid(settlement, kept))
        if unusable is not None:
            raise unusable
        crash_points.reach("step.committed")
        return self._remember_step(name, stands)


def trace_id(trace_parent: str | None) -> str | None:
    """The trace id of a W3C `traceparent` header: version-traceid-parentid-flags."""
    parts = (trace_parent or "").split("-")
    return parts[1] if len(parts) == 4 else None
