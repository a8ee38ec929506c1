"""Steps: the named, durable pieces of a job; checkpoints and artifacts beside them."""
