"""Verbs for one job or for many: by an id, or by a filter."""
