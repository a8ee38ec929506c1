"""Limits of jobs: how many run at once, and how many start in a time."""
