"""What a handler does durably: steps, checkpoints, waits, parents' results."""
