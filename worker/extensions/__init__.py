"""What modules of handlers declare beside handlers: middleware, and the worker's resources."""
