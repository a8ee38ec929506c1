"""answer: answer a message from its thread and from what is remembered.

In: a message (or a text). Out: an assistant message in the thread, and the exchange remembered.
"""

from worker.handlers import handler
from worker.job import Job
from worker.modes import conversation, model
from worker.modes.requests import Request

REMEMBERED_CHARACTERS_MAX = 2_000


@handler("answer", shipped=True)
async def answer(job: Job, text: str | None = None) -> dict[str, str]:
    """Have the model answer, say it in the thread, and remember the exchange."""
    message = await conversation.read(job, text)
    memories = await conversation.recall(job, message.text)
    made = await model.ask(job, Request("answer", message.turns, memories), str)
    said = made.output
    model.say(job, said, made, name="answer")
    if any(character.isalnum() for character in message.text):
        _remember(job, message.text, said)
    return {"text": said}


def _remember(job: Job, text: str, said: str) -> None:
    question = conversation.clip(text, REMEMBERED_CHARACTERS_MAX)
    source = None if job.trigger_message_id is None else str(job.trigger_message_id)
    job.remember(
        f"{question}\n{said}",
        kind="exchange",
        source_id=source,
        name="exchange",
        type="episode",
        messages=() if job.trigger_message_id is None else [job.trigger_message_id],
    )
