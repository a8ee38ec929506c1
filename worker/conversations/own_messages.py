"""The messages that a job is to deal with: its own, and those that were merged into it.

In: a job. Out: its messages. Invariant: every attempt reads the same, because a job takes a message
only before its first attempt.
"""

from db.conversations import messages
from db.conversations.messages import Message
from worker.attempt_state import AttemptState


async def read(state: AttemptState) -> list[Message]:
    """The message that triggered the job and those that it takes too, oldest first."""
    if state.job.trigger_message_id is None:
        return []
    async with state.tools.database.connection() as connection:
        return await messages.get_for_trigger(connection, state.job.trigger_message_id)
