"""Runs the SQL of a revision.

In: a script of one or more statements, its objects qualified as `jobsworth.name`. Out: the script
sent as it stands, for the schema being migrated, or written out in `--sql` mode.

Invariant: nothing parses it on the way, neither SQLAlchemy (`:name`) nor the driver (`%`), so
function bodies need no escapes.
"""

from __future__ import annotations

from typing import LiteralString

from alembic import context, op

from db.schema import render


def run(script: LiteralString) -> None:
    """Send `script` within the revision's transaction."""
    text = render(script, context.config.attributes["schema"])
    if context.is_offline_mode():
        op.get_context().impl.static_output(text.strip())
    else:
        op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})
