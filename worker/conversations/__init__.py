"""What a handler sees of the conversation that its job belongs to."""
