"""The agent that a job is for.

In: a job. Out: its agent's row, or None: a job may name an agent that the database does not know.
"""

from db.people import agents
from db.people.agents import Agent
from worker.attempt_state import AttemptState


async def read(state: AttemptState) -> Agent | None:
    """The agent as it is now; a later attempt may find it changed."""
    if state.job.agent_id is None:
        return None
    async with state.tools.database.connection() as connection:
        return await agents.find(connection, state.job.agent_id)
