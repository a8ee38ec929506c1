"""plan: write down what would be done, and ask whether it may be.

In: a request. Out: the plan as a message, an approval of exactly that plan, and once it is approved
an `execute` job that carries it. While nobody decides, the job is a row and the lane goes on.
"""

from typing import Any

from worker.approvals.ask import Decision
from worker.handlers import handler
from worker.job import Job
from worker.modes import conversation, model
from worker.modes.plans import Plan


@handler("plan", shipped=True)
async def plan(job: Job, text: str | None = None) -> dict[str, Any]:
    """Plan by the model, ask, and hand the approved plan on."""
    asked = await conversation.read(job, text)
    memories = await conversation.recall(job, asked.text)
    made = await model.ask(job, model.Request("plan", asked.turns, memories), Plan)
    proposed = made.output
    model.say(job, proposed.as_text(), made, name="plan")
    document = proposed.model_dump(mode="json")
    decision = await job.ask(f"Carry out this plan? {proposed.title}", shows=document, name="plan")
    if decision.approved:
        job.enqueue("execute", {"plan": document}, name="execute")
    else:
        model.say(job, _refusal(decision), name="refused")
    return {"approved": decision.approved, "option": decision.option, "title": proposed.title}


def _refusal(decision: Decision) -> str:
    who = "Nobody decided in time" if decision.decided_by == "deadline" else "The plan was rejected"
    why = f" ({decision.comment})" if decision.comment else ""
    return f"{who}{why}. Nothing was done."
