"""People: teams and who is in them, agents, projects, sessions, tokens."""
