"""A job's way through the worker.

Read in this order: wake → claim → running → attempt → decide → finish → commit → promote.

Between them: interpret (what a handler's return value or exception means), transition (what is
written because of it), ended (attempts that wait for their commit). Beside them: isolated (a
handler in a process of its own), left_behind, leftovers and forked (what handlers leave behind),
apart (endings that are committed one by one), attempt_log, upkeep (timers, cancels, rescue, the
sweep).
The fence is `db/fence.py`; the SQL of claim and finish is in `migrations/schema/queue/`.
"""
