"""The embedded PostgreSQL server, for a machine without one.

Read in this order: embedded → cluster → account → file_lock.
"""
