"""The daemon: one worker process.

Read in this order: daemon (the start, the end) → parts (what it consists of) → signals, heartbeat,
judge, watch, upkeep; beside them loop and loop_watch (the event loop, and what blocks it), stalled,
patience, collector, vitals (its health) and systemd.
"""
