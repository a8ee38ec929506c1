"""The nouns of limits of jobs."""
