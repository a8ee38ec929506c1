"""The daemon: one worker process.

Read in this order: daemon (the start, the end) → parts (what it consists of) → signals, heartbeat,
watch, upkeep; beside them vitals (its health) and systemd.
"""
