"""People: teams, users, agents, projects, sessions, tokens, and who sees what."""
