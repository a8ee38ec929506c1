"""Steps: the named, durable pieces of a job.

Read in this order: steps → unsafe → checkpoints → artifacts.
"""
