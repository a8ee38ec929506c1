"""Model calls, from their booking to their one settlement.

Read in this order: open_call → calls → group_commit → spool → spool_folder; beside them pricing,
repricing, days (the ledger's), upkeep.
"""
