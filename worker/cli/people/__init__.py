"""The nouns of people: teams, users, agents, projects, sessions, tokens."""
