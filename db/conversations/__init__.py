"""Threads, their messages, and what hangs on a message."""
