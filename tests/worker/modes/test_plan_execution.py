"""Whatever a model calls, in whatever order: what is done is the beginning of the plan, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
from hypothesis import given
from hypothesis import strategies as st

from jobsworth import Fail, Job
from worker.modes.plan_execution import PlanExecution
from worker.modes.plans import Deploy, Note, Plan, Save, Search, Step

SHAS = ("0123456", "fedcba9")
steps = st.one_of(
    st.sampled_from(["a", "b"]).map(lambda text: Note(text=text)),
    st.sampled_from(["a", "b"]).map(lambda query: Search(query=query)),
    st.builds(
        Deploy, environment=st.sampled_from(["staging", "broken"]), sha=st.sampled_from(SHAS)
    ),
)


def plan_of(before: list[Step], after: list[Step]) -> Plan:
    """With one file, as two of a name are no plan."""
    return Plan(title="t", steps=(*before, Save(name="f", text="x"), *after))


some_steps = st.lists(steps, max_size=3)
plans = st.builds(plan_of, some_steps, some_steps)
tool_calls = st.one_of(steps, st.sampled_from(["f", "g"]).map(lambda n: Save(name=n, text="x")))


@dataclass
class Diary:
    """A job that writes down what is done with it; shipping to "broken" fails."""

    done: list[Step] = field(default_factory=list[Step])
    names: list[str] = field(default_factory=list[str])

    async def step(self, name: str, fn: Callable[..., Awaitable[Any]], *given: Any) -> Any:
        self.names.append(name)
        return await fn(*given)

    async def recall(self, query: str, **how: Any) -> list[Any]:
        return []

    def remember(self, text: str, **how: Any) -> None:
        self.done.append(Note(text=text))

    def save(self, name: str, content: str) -> None:
        self.done.append(Save(name=name, text="x"))

    async def deploy(self, environment: str, sha: str, *, name: str) -> Any:
        if environment == "broken":
            raise Fail("there is no such environment")
        self.names.append(name)
        self.done.append(Deploy(environment=environment, sha=sha))
        return _Deployment()


@dataclass
class _Deployment:
    status: str = "healthy"
    report_text: str = ""


async def do(execution: PlanExecution, call: Step) -> None:
    match call:
        case Note():
            await execution.note(call.text)
        case Search():
            await execution.search(call.query)
        case Save():
            await execution.save(call.name, "content")
        case Deploy():
            await execution.deploy(call.environment, call.sha)


@given(plans, st.lists(tool_calls, max_size=12))
def test_nothing_is_done_but_the_beginning_of_the_plan(plan: Plan, calls: list[Step]) -> None:
    diary = Diary()
    execution = PlanExecution(cast(Job, diary), plan)

    async def run() -> None:
        for call in calls:
            await do(execution, call)

    anyio.run(run)
    begun = plan.steps[: len(execution.results)]
    acted = [step for step, result in zip(begun, execution.results, strict=True) if result.passed]
    assert diary.done == [step for step in acted if not isinstance(step, Search)]
    assert all(result.passed for result in execution.results[:-1])
    assert len(set(diary.names)) == len(diary.names)
    assert execution.completed == (acted == list(plan.steps))


@given(plans)
def test_a_plan_called_in_its_order_is_completed_or_ends_at_what_fails(plan: Plan) -> None:
    execution = PlanExecution(cast(Job, Diary()), plan)

    async def run() -> None:
        while (step := execution.next) is not None:
            await do(execution, step)

    anyio.run(run)
    broken = [isinstance(s, Deploy) and s.environment == "broken" for s in plan.steps]
    assert execution.completed is not any(broken)
    assert len(execution.results) == (broken.index(True) + 1 if any(broken) else len(plan.steps))
    assert execution.summary().startswith("Done: t" if execution.completed else "Stopped: t")
