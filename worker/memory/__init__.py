"""Embedding what is to be remembered, after its job has finished."""
