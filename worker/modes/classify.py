"""classify: decide which mode a message is for.

In: a job with the message that triggered it. Out: a follow-up job at the same place in the lane, so
a message is answered before the next one is dealt with.
"""

from worker.handlers import handler
from worker.job import Job
from worker.modes import conversation, model
from worker.modes.requests import Classified, Request


@handler("classify", shipped=True)
async def classify(job: Job, text: str | None = None) -> dict[str, str]:
    """Have the model decide, and enqueue. `text` is used where no message triggered the job."""
    message = await conversation.read(job, text)
    made = await model.ask(job, Request("classify", message.turns[-1:]), Classified)
    chosen = made.output
    job.enqueue(chosen.mode, {} if text is None else {"text": text})
    return {"mode": chosen.mode, "reason": chosen.reason}
