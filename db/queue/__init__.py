"""Jobs: how they are enqueued, claimed, finished, promoted and rescued.

Read in this order: new_job → enqueue → enqueue_many → claim → effects → finish → promote → rescue.
Beside them: jobs (what people see and do), signals, queues, workers, upkeep.
"""
