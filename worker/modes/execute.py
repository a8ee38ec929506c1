"""execute: do the steps of an approved plan, one after the other.

In: a plan, exactly as it was approved. Out: what each step did, said in the thread and remembered.
Invariant: the model calls the tools, the plan says which of them do anything (`carrying`); so what
was not approved is not done, whatever the model wants, and what was done is not done again.
"""

from dataclasses import asdict
from typing import Any

from worker.handlers import handler
from worker.job import Job
from worker.modes import model
from worker.modes.carrying import Carrying
from worker.modes.model import CarriedOut
from worker.modes.plans import Plan
from worker.outcomes import Fail


@handler("execute", shipped=True)
async def execute(job: Job, plan: Plan) -> dict[str, Any]:
    """Have the steps done, then say and remember what was done."""
    carrying = Carrying(job, plan)
    request = model.Request("execute", (("user", plan.model_dump_json(indent=1)),))
    try:
        made = await model.ask(job, request, CarriedOut, deps=carrying)
    except Fail as failed:
        # What was done stays done; people have to know.
        raise Fail(f"{failed}\n{carrying.summary()}") from failed
    summary = carrying.summary(made.output.remarks)
    model.say(job, summary, made, name="summary")
    job.remember(summary, kind="summary", name="summary")
    steps = [asdict(result) for result in carrying.results]
    return {"completed": carrying.completed, "steps": steps}
