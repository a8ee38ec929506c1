"""People: the agent that a job is for."""
