"""Runs: all jobs of one piece of agent work, as a graph. Branches fork a run at a step.

Read in this order: new_run → runs → view → saved → branches.
"""
