"""A job's way through the worker.

Read in this order: wake → claim → running → attempt → decide → finish → promote. Beside it:
isolated (a handler in a process of its own), upkeep, attempt_log.
"""
