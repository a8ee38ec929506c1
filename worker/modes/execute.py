"""execute: do the steps of an approved plan, one after the other.

In: a plan, exactly as it was approved. Out: what each step did, said in the thread and remembered.
Invariant: the model calls the tools, but the plan decides which of them act (`plan_execution`); so
what was not approved is not done, and what was done is not done again.
"""

from dataclasses import asdict
from typing import Any

from worker.handlers import handler
from worker.job import Job
from worker.modes import model
from worker.modes.plan_execution import PlanExecution
from worker.modes.plans import Plan
from worker.modes.requests import CarriedOut, Request
from worker.outcomes import Fail


@handler("execute", shipped=True)
async def execute(job: Job, plan: Plan) -> dict[str, Any]:
    """Have the model carry out the plan, then say and remember what was done."""
    execution = PlanExecution(job, plan)
    request = Request("execute", (("user", plan.model_dump_json(indent=1)),))
    try:
        made = await model.ask(job, request, CarriedOut, deps=execution)
    except Fail as failed:
        # What was done stays done, so the error has to tell it.
        raise Fail(f"{failed}\n{execution.summary()}") from failed
    summary = execution.summary(made.output.remarks)
    model.say(job, summary, made, name="summary")
    job.remember(summary, kind="summary", name="summary", type="summary")
    steps = [asdict(result) for result in execution.results]
    return {"completed": execution.completed, "steps": steps}
