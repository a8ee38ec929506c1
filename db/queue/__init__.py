"""Jobs: how they come in, are claimed, finish, move on and are recovered.

Read in this order: new_job → enqueue → claim → effects → finish → promote → rescue; beside them
jobs (what a person sees and does), queues, signals, workers, upkeep.
"""
