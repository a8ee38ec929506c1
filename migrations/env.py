"""What Alembic runs around the revisions.

In: `config.attributes`, set by `db.migrate`: the schema, and the connection unless SQL is only to
be written out. Out: the revisions' statements, each revision in a transaction of its own.

Invariant: the version table lies in the schema it speaks of.
"""

from __future__ import annotations

from alembic import context


def migrate() -> None:
    attributes = context.config.attributes
    if "schema" not in attributes:
        raise SystemExit("revisions are run by `jobsworth migrate`, not by `alembic`")
    context.configure(
        connection=attributes.get("connection"),
        dialect_name="postgresql",
        version_table_schema=attributes["schema"],
        transaction_per_migration=True,
    )
    if context.is_offline_mode():
        context.static_output(f"create schema if not exists {attributes['schema']};")
    with context.begin_transaction():
        context.run_migrations()


migrate()
