"""plan: write a plan for what a message asks for, and ask whether to carry it out.

In: a request. Out: the plan as a message, an approval of exactly that plan, and once it is approved
an `execute` job with the plan. While nobody has decided, the job is a row and its lane goes on.
"""

from typing import Any

from worker.approvals.ask import Decision
from worker.handlers import handler
from worker.job import Job
from worker.modes import conversation, model
from worker.modes.plans import Plan
from worker.modes.requests import Request


@handler("plan", shipped=True)
async def plan(job: Job, text: str | None = None) -> dict[str, Any]:
    """Have the model write the plan, ask for its approval, and enqueue its execution."""
    message = await conversation.read(job, text)
    memories = await conversation.recall(job, message.text)
    made = await model.ask(job, Request("plan", message.turns, memories), Plan)
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
