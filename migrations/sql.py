"""Runs the SQL of a revision.

In: a script of one or more statements, its objects qualified as `jobsworth.name`. Out: the script
sent as it stands, for the schema being migrated, or written out in `--sql` mode.

Invariant: nobody parses it on the way: not SQLAlchemy (`:name`), not the driver (`%`), so function
bodies need no escapes.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import LiteralString, cast

from alembic import context, op

from db.schema import render


def earlier(revision_file: str, name: str) -> LiteralString:
    """How an earlier revision made `name`, like "function jobsworth.why": what a downgrade goes
    back to. A function is written over the present one; a view must have been dropped.
    """
    module = import_module(f"migrations.versions.{revision_file}")
    scripts = [
        text
        for constant, text in vars(module).items()
        if isinstance(text, str) and not constant.startswith("DOWN")
    ]
    is_function = name.startswith("function")
    end = r"\nend(?: \$\$)?;" if is_function else ";"
    made = re.compile(rf"create (?:or replace )?({re.escape(name)}\b.*?{end})", re.DOTALL)
    [found] = [one for script in scripts for one in made.findall(script)]
    return cast(LiteralString, f"create {'or replace ' if is_function else ''}{found}")


def amended(revision_file: str, name: str, text: str, becomes: str) -> LiteralString:
    """What `earlier` finds, with a `text` that is in it once put another way."""
    before, found, after = earlier(revision_file, name).partition(text)
    if not found or text in after:
        raise ValueError(f"{name} of {revision_file} does not have this once: {text!r}")
    return cast(LiteralString, before + becomes + after)


def run(script: LiteralString) -> None:
    """Send `script` within the revision's transaction."""
    text = render(script, context.config.attributes["schema"])
    if context.is_offline_mode():
        op.get_context().impl.static_output(text.strip())
    else:
        op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})
