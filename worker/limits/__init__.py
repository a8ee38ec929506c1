"""Giving turns to jobs that wait for a limit."""
