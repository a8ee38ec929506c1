"""The embedded PostgreSQL server, for a machine that has none.

embedded → cluster → file_lock, account.
"""
