"""${message}"""

from __future__ import annotations

from migrations.sql import run

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

UP = """
"""

DOWN = """
"""


def upgrade() -> None:
    run(UP)


def downgrade() -> None:
    run(DOWN)
