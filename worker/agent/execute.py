"""execute: do the steps of an approved plan, one after the other.

In: a plan, exactly as it was approved. Out: what each step did, said in the thread and remembered.
Invariant: a step that was done is recorded and not done again; the first one that does not succeed
ends the plan, and the rest is reported as not done.
"""

from dataclasses import asdict, dataclass
from typing import Any

from worker.agent import conversation, model
from worker.agent.plans import Deploy, Note, Plan, Save, Search, Step
from worker.context import Job
from worker.handlers import handler
from worker.outcomes import Fail


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one step: a line for people, and what later steps may use."""

    passed: bool
    detail: str
    found: tuple[str, ...] = ()


@handler("execute", shipped=True)
async def execute(job: Job, plan: Plan) -> dict[str, Any]:
    """Run the steps, then say and remember what was done."""
    results: list[Result] = []
    for number, step in enumerate(plan.steps, 1):
        results.append(await _run(job, f"{number} {step.kind}", step, results))
        if not results[-1].passed:
            break
    summary = _summary(plan, results)
    model.say(job, summary, name="summary")
    job.remember(summary, kind="summary", name="summary")
    completed = len(results) == len(plan.steps) and results[-1].passed
    return {"completed": completed, "steps": [asdict(result) for result in results]}


async def _run(job: Job, name: str, step: Step, before: list[Result]) -> Result:
    match step:
        case Note():
            await job.step(name, _note, step.text)
            job.remember(step.text, kind="note", name=name)
            return Result(True, "noted", (step.text,))
        case Search():
            found = tuple(await job.step(name, _search, job, step.query))
            return Result(True, f"found {len(found) or 'nothing'}", found)
        case Save():
            content = await job.step(name, _compose, step, before)
            job.save(step.name, content)
            return Result(True, f"saved {len(content.encode()):,} bytes")
        case Deploy():
            return await _deploy(job, name, step)


async def _note(text: str) -> str:
    return text


async def _search(job: Job, query: str) -> list[str]:
    return list(await conversation.recall(job, query))


async def _compose(step: Save, before: list[Result]) -> str:
    lines = [f"# {step.text}", "", *(f"- {result.detail}" for result in before)]
    quotes = (found.replace("\n", "\n> ") for result in before for found in result.found)
    return "\n".join([*lines, "", *(f"> {quote}" for quote in quotes), ""])


async def _deploy(job: Job, name: str, step: Deploy) -> Result:
    try:
        deployment = await job.deploy(step.environment, step.sha, name=name)
    except Fail as refused:
        return Result(False, f"could not deploy: {refused}")
    report = (deployment.report_text,) if deployment.report_text else ()
    return Result(deployment.status == "healthy", str(deployment.status), report)


def _summary(plan: Plan, results: list[Result]) -> str:
    done = [
        f"{number}. {step}: {result.detail}"
        for number, (step, result) in enumerate(zip(plan.steps, results, strict=False), 1)
    ]
    skipped = len(plan.steps) - len(results)
    ended = "Done" if results[-1].passed else "Stopped"
    rest = [f"The last {skipped} were not done." if skipped > 1 else "The last one was not done."]
    return "\n".join([f"{ended}: {plan.title}", *done, *(rest if skipped else [])])
