"""What is stored: one folder per chapter, one module per noun, and the only place with SQL.

At the top: pool (connections and statements), fence (the lock of every fenced write), errors,
documents, ids, schema and migrate.
"""
