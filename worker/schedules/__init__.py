"""Firing schedules, and keeping those that handlers declare."""
