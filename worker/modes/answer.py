"""answer: say what the thread and the memory know about a question.

In: a message (or a text). Out: an assistant message in the thread, and the exchange remembered.
"""

from worker.handlers import handler
from worker.job import Job
from worker.modes import conversation, model

REMEMBERED_CHARACTERS_MAX = 2_000


@handler("answer", shipped=True)
async def answer(job: Job, text: str | None = None) -> dict[str, str]:
    """Answer by the model, and remember the exchange."""
    asked = await conversation.read(job, text)
    memories = await conversation.recall(job, asked.text)
    made = await model.ask(job, model.Request("answer", asked.turns, memories), str)
    said = made.output
    model.say(job, said, made, name="answer")
    if any(character.isalnum() for character in asked.text):
        _remember(job, asked.text, said)
    return {"text": said}


def _remember(job: Job, text: str, said: str) -> None:
    question = conversation.clip(text, REMEMBERED_CHARACTERS_MAX)
    source = None if job.trigger_message_id is None else str(job.trigger_message_id)
    job.remember(f"{question}\n{said}", kind="exchange", source_id=source, name="exchange")
