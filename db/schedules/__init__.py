"""Schedules: jobs and runs that are enqueued at their times."""
