"""Memories: what is remembered, and the vectors it is found by."""
