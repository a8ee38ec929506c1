"""Runs: all jobs of one piece of agent work, as a graph; branches fork a run at a step."""
