"""The revisions of the schema, oldest first: Alembic's order, plain SQL, up and down."""
