"""classify: which mode is this message for?

In: a job with the message that triggered it. Out: a follow-up job in the same place of the lane, so
the answer to a message comes before anything that is done about the next one.
"""

from worker.handlers import handler
from worker.job import Job
from worker.modes import conversation, model
from worker.modes.model import Classified


@handler("classify", shipped=True)
async def classify(job: Job, text: str | None = None) -> dict[str, str]:
    """Decide by the model, and enqueue. `text` stands in for a message where there is none."""
    asked = await conversation.read(job, text)
    made = await model.ask(job, model.Request("classify", asked.turns[-1:]), Classified)
    chosen = made.output
    job.enqueue(chosen.mode, {} if text is None else {"text": text})
    return {"mode": chosen.mode, "reason": chosen.reason}
