"""`Job`: what a handler can do.

Each method hands on to the module that does it, with the attempt's state. A handler is run from its
start after every wait, retry and crash; what was recorded under a name is read back, not done
again.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack, overload

from db.conversations.messages import Message
from db.deployments.deployments import Deployment
from db.money.calls import Answer
from db.people.agents import Agent
from db.pool import Connection, Database
from db.steps.checkpoints import Checkpoint
from worker import effects
from worker.approvals import ask
from worker.approvals.ask import Decision
from worker.arguments import checks_arguments
from worker.attempt_state import INSTEAD, AttemptState
from worker.conversations import own_messages
from worker.llm.options import AgentOptions
from worker.memory import recall
from worker.memory.ranking import Recalled
from worker.memory.recall import RecallOptions
from worker.money import calls
from worker.money.open_call import OpenCall
from worker.money.sending import CallOptions, Sending
from worker.people import own_agent
from worker.plain_job import ChildOptions, PlainJob, state_of
from worker.steps import changed, checkpoints, files, parents, steps, waits
from worker.steps.declaration import StepEffect
from worker.steps.parents import Parents
from worker.steps.waits import Child

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.messages import UserContent
    from pydantic_ai.output import OutputSpec

P = ParamSpec("P")
D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")


def _in_the_loop(
    method: Callable[Concatenate["Job", P], Awaitable[R]],
) -> Callable[Concatenate["Job", P], Awaitable[R]]:
    """Refuse, before a coroutine is made, what a plain handler's thread cannot do.

    A method that ends because the job is to wait ends when nothing works beside it any more.
    """

    @wraps(method)
    def checked(job: "Job", *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        state = state_of(job)
        _require_loop(state, method.__name__)
        return _beside_others(state, partial(method, job, *args, **kwargs))

    return checked


async def _beside_others(state: AttemptState, method: Callable[[], Awaitable[R]]) -> R:
    state.check_not_over()
    with state.beside.working(begins_nothing=True):
        return await state.beside.held(method())


def _require_loop(state: AttemptState, method: str) -> None:
    state.require_loop(method, f"write `async def`, {INSTEAD}")


@checks_arguments
class Job(PlainJob):
    """The job that a handler runs for, and what the handler can do.

    A handler runs from its start in each attempt: after a wait, a failure or the death of its
    worker. So put what must happen once into a step. What `say`, `send`, `save`, `metric`,
    `remember`, `enqueue` and `spawn` write commits when the attempt ends well (the handler returns,
    or the job waits): once, however often the job is run. An attempt that fails drops it. The other
    methods have committed when they return.

    A plain function (`def`) and a batch handler can use `say`, `send`, `save`, `metric`, `remember`
    and `enqueue`; all else needs an `async def` for one job, and raises `InvalidInput` without.
    """

    __slots__ = ()

    @property
    def database(self) -> Database:
        """The worker's database, for reading. To write, use `transaction`.

        All handlers of a worker share its `JOBSWORTH_HANDLER_POOL_MAX` connections.
        """
        return self._state.own_sql

    def spawn(
        self,
        mode: str,
        payload: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        **options: Unpack[ChildOptions],
    ) -> Child:
        """Start a child job, outside the job's lane; pass what this returns to `gather`.

        It commits, and the child begins, when the job waits. A replay starts none twice: they are
        told apart by `name`, or by mode and payload. A child that was not gathered is canceled when
        its parent ends: to start work that goes on by itself, use `enqueue`. Raises `InvalidInput`
        for an unknown option, and for a payload that is not JSON or too large.
        """
        return effects.spawn(self._state, mode, payload, name, options)

    # Durable: committed on return.

    @_in_the_loop
    async def step(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        effect: StepEffect = "idempotent",
        any_input: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run `fn(*args, **kwargs)` once, and record what it returns (as JSON) under `name`.

        Committed on return. A replay reads the record and does not call `fn`. If `fn` raises,
        a replay runs it again; its row keeps the error until then. A plain function runs in a
        thread. `effect` says what a second run would do, should the worker die before the record
        is committed:

        - "idempotent" (the default): no harm; the step is simply run again.
        - "pure": no harm, and recorded with other arguments it is computed anew.
        - "unsafe": harm. If it was begun and not recorded, the job waits for a person. Only
          `Retry`, `Fail`, `Cancel`, `Snooze` or a wait, raised by `fn`, says that it has not
          happened.

        Raises `StepChanged` if the step is recorded with other arguments, unless it is pure or
        `any_input` is true; `InvalidInput` for a result that is not JSON, while a step of the same
        name runs, and for a second one in this attempt that is not the same: a function that holds
        other values, a `lambda` in a loop, say.
        """
        state = self._state
        met = changed.check_met(state, name, fn, args, kwargs, any_input=any_input)
        recorded = await steps.find(state, name)
        output = await steps.run(
            state,
            name,
            fn,
            args,
            kwargs,
            effect=effect,
            any_input=any_input,
            given=met.given,
        )
        state.met[name] = met
        if recorded is not None:
            changed.check_type(name, fn, output)
        return output

    @_in_the_loop
    async def transaction(self, name: str, fn: Callable[[Connection], Awaitable[Any]]) -> Any:
        """Run your own SQL once: `fn(connection)` and its record as a step are one commit.

        Do not commit or roll back in `fn`. What it returns is recorded (as JSON) under `name`; a
        replay reads the record and does not call `fn`. If `fn` raises, nothing is committed.
        """
        met = changed.check_met(self._state, name, fn)
        output = await steps.transaction(self._state, name, fn)
        self._state.met[name] = met
        return output

    @overload
    def call(
        self,
        name: str,
        send: Callable[[Sending], Awaitable[Answer]],
        **options: Unpack[CallOptions],
    ) -> Coroutine[Any, Any, Any]: ...

    @overload
    def call(self, name: str, **options: Unpack[CallOptions]) -> OpenCall: ...

    def call(
        self,
        name: str,
        send: Callable[[Sending], Awaitable[Answer]] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Make one paid call, and record its answer as the step `name`.

        The call is in the books, at its estimate, before `send` begins; for the options see
        `CallOptions`. It is settled once, in one commit with its answer; the content of the answer
        is returned. A replay reads the record and pays nothing. If `send` raises `CallRefused`, the
        call is settled at nothing; `CallLimited` also pauses that model for all workers, and the
        job waits; after any other exception the call stays in the books at its estimate.

        A call that a rate limit or a budget does not let go out makes the job wait, or ask a
        person. Raises `BudgetExceeded` where a budget fails such calls or the person says no,
        `PriceUnknown` where a call without a price may not go out, and `InvalidInput` while a call
        or step of the same name runs.

        Without `send`, `async with job.call(name, provider=…, model=…, estimate=…) as call` does
        the same around any SDK: see `OpenCall`.
        """
        _require_loop(self._state, "call")
        if send is None:
            return OpenCall(self._state, name, **options)
        call = partial(calls.make, **options)
        return _beside_others(self._state, partial(_once, self._state, name, send, call))

    @overload
    def agent(
        self,
        name: str,
        agent: "AbstractAgent[D, R]",
        prompt: "str | Sequence[UserContent] | None" = None,
        *,
        output_type: None = None,
        **options: Unpack[AgentOptions],
    ) -> Coroutine[Any, Any, R]: ...

    @overload
    def agent(
        self,
        name: str,
        agent: "AbstractAgent[D, Any]",
        prompt: "str | Sequence[UserContent] | None" = None,
        *,
        output_type: "OutputSpec[T]",
        **options: Unpack[AgentOptions],
    ) -> Coroutine[Any, Any, T]: ...

    def agent(
        self,
        name: str,
        agent: Any,
        prompt: Any = None,
        *,
        output_type: Any = None,
        **options: Any,
    ) -> Any:
        """Run a pydantic-ai agent, and return its output.

        Each request to its model is a paid call (see `call`) and a step, `"<name>/request 1"` and
        so on; each tool call is a step, like `"<name>/request 2/tool search 1"`. A replay reads
        them; the agent's output functions and validators run in every replay. A tool that requires
        approval makes the job wait until a person has decided. For the options see `AgentOptions`.

        Raises `Fail` for a model whose SDK would send a request twice by itself, for an agent that
        a tool runs without `job.agent`, when the agent gives up, and when a request is recorded
        that asked something else (unless `if_changed="reuse"`). A provider that cannot be reached
        is tried again by the job's own retry.
        """
        _require_loop(self._state, "agent")
        return _run_agent(self._state, name, agent, prompt, output_type=output_type, **options)

    @_in_the_loop
    async def checkpoint(
        self, name: str, state: Any, *, blob: bytes | None = None, keep: int | None = None
    ) -> Any:
        """Save a state (JSON) under a name; a run can be forked at it. Committed on return.

        `blob`: bytes beside it, at most 100 MiB, read by `checkpoint_at` and `latest_checkpoint`.
        `keep`: prune all but the newest so many. In a replay, the first time returns the state that
        is saved, not the one it is given. Once this attempt has saved or read it, to save it again
        replaces the state. Raises `InvalidInput` for no JSON, and the name of another step.
        """
        return await checkpoints.save(self._state, name, state, blob, keep)

    @_in_the_loop
    async def latest_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint that was saved last, in whichever attempt; None if none was."""
        return await checkpoints.latest(self._state)

    @_in_the_loop
    async def checkpoint_at(self, at: str | int) -> Checkpoint | None:
        """Return the checkpoint of that name or number (from 1, in order of saving), or None."""
        return await checkpoints.at(self._state, at)

    @_in_the_loop
    async def prune_checkpoints(self, keep: int = 3) -> int:
        """Delete the states of all checkpoints but the newest `keep`; return how many went.

        Committed on return. What a fork reads stays, and names: a replay saves none of them again.
        """
        return await checkpoints.prune(self._state, keep)

    @_in_the_loop
    async def deploy(self, environment: str, sha: str, *, name: str | None = None) -> Deployment:
        """Deploy a commit to an environment of deploy.toml; return the deployment as it ended.

        The job waits for as many approvals as the environment asks for, then while another
        deployment to it is under way. The deployment's phases are steps: an attempt after a crash
        goes on where the last one died, and a replay of an ended deployment reads its record. One
        that is not healthy is returned, not raised: look at its `status`. Raises `Fail` for an
        order that cannot be carried out, and when it is rejected.
        """
        key = self._state.key("deploy", name, environment, sha)
        return await self._state.tools.deployer.deploy(self._state, environment, sha, key)

    @_in_the_loop
    async def rollback(
        self, environment: str, to: str = "previous", *, name: str | None = None
    ) -> Deployment:
        """Put live again what was healthy before; return the deployment as it ended.

        `to` is "previous", a deployment's id, or a sha. It is a deployment of its own: approved,
        probed, recorded and replayed as by `deploy`, with the same errors.
        """
        key = self._state.key("rollback", name, environment, to)
        return await self._state.tools.deployer.roll_back(self._state, environment, to, key)

    # Waiting: the job gives up its slot, and is run again from its start when it may go on.

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
        """Ask a person, and return the decision; the job waits until there is one.

        `shows` (JSON) is shown with the proposal. Every option but "reject" is a yes. The decision
        holds for exactly this proposal, these options and what is shown: the same name with
        anything else asks anew. When `deadline_seconds` have passed, `on_timeout` is decided: an
        option, or "escalate": as much time again, once. `votes` people must say yes; `asked_by`
        (by default the actor of the job's run) is not one of them unless `self_approval`. If
        `editable`, a person may approve a changed document: it is in `Decision.shown`.

        Returning a yes consumes it, committed before the next line runs: from then on a no comes
        too late, and a replay reads it. To let a no count until the approved step begins, use
        `approved_step`, or name that step in `for_step`. Raises `InvalidInput` for a question that
        cannot be asked, and for one that has changed after its yes was consumed.
        """
        return await ask.ask(
            self._state,
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
        effect: StepEffect = "idempotent",
        deadline_seconds: float | None = None,
        on_timeout: str = "reject",
        votes: int = 1,
        asked_by: str | None = None,
        self_approval: bool = False,
        editable: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run a step (see `step`) only with a person's yes to exactly these arguments.

        The job waits until somebody has decided; for the other parameters see `ask`. The yes is
        consumed in the transaction that begins the step: until then a no counts. A replay reads the
        recorded step, and asks nobody. Raises `NotApproved` on a no, and what `step` and `ask`
        raise.

            await job.approved_step("pay", pay, invoice, proposal="Pay it?", effect="unsafe")
        """
        return await ask.approved_step(
            self._state,
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
        """Wait until `seconds` have passed since an attempt first came here.

        The end of the wait is recorded: a replay passes at once. Waits are told apart by `name`, or
        by their order; in branches that run beside each other, by their length.
        """
        await waits.sleep(self._state, seconds, name)

    @_in_the_loop
    async def wait(
        self, signal: str, *, timeout_seconds: float | None = None, name: str | None = None
    ) -> Any:
        """Wait for a signal that is sent to this job; return its payload, None after the timeout.

        A signal without a payload gives True. A signal that was sent before is found. What came is
        recorded, in one commit with taking the signal: a replay reads it. Each wait takes one
        signal, the oldest.
        """
        return await waits.wait(self._state, signal, timeout_seconds, name)

    @_in_the_loop
    async def gather(self, *children: Child | Iterable[Child]) -> list[Any]:
        """Wait until all these children have ended; return their results, in this order.

        Raises `ChildFailed`, naming them, if some did not end well; `StepChanged` if one has the
        name of a child of an earlier attempt that is another one; and `Fail` for anything but a
        child.
        """
        return await waits.gather(self._state, children)

    # Reading.

    @_in_the_loop
    async def recall(
        self,
        query: str,
        limit: int = 5,
        *,
        name: str | None = None,
        **options: Unpack[RecallOptions],
    ) -> list[Recalled]:
        """What is remembered about `query`, best first, also in a replay. May be a paid call."""
        return await recall.recall(self._state, query, limit, name, options)

    @_in_the_loop
    async def load(self, name: str) -> bytes:
        """Return the content of a file that this job has saved, also in a former attempt.

        Raises `NotFound`; `InvalidInput` for a file that is only an address.
        """
        return await files.load(self._state, name)

    @_in_the_loop
    async def parents(self) -> Parents:
        """Return the results of the jobs that this one comes after, by node; the same in a replay.

        A parent that did not end well is None there, and is named in `failed`.
        """
        return await parents.read(self._state)

    @_in_the_loop
    async def messages(self) -> list[Message]:
        """Return the job's message, and those that it takes too (policy `merge`), oldest first."""
        return await own_messages.read(self._state)

    @_in_the_loop
    async def own_agent(self) -> Agent | None:
        """Return the agent that the job is for, as it is now; None if the database has none."""
        return await own_agent.read(self._state)


async def _once(
    state: AttemptState, name: str, send: Callable[..., Any], call: Callable[..., Awaitable[Any]]
) -> Any:
    """Make a call, unless this attempt has the answer of another one of that name."""
    met = changed.check_met(state, name, send)
    answer = await call(state, name, send)
    state.met[name] = met
    return answer


async def _run_agent(state: AttemptState, *args: Any, **options: Any) -> Any:
    run = await state.tools.model.ready(_agent_runner)
    # Its requests and tool calls are work; the run as a whole is not waited for.
    return await state.beside.held(run(state, *args, **options))


def _agent_runner() -> Callable[..., Awaitable[Any]]:
    from worker.llm import agents

    return agents.run
