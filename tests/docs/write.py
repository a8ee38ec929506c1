"""Writes the pages of `docs/` that are made of the code: `make docs`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from db.migrate import migrate
from db.server.embedded import start
from tests.docs import errors, settings, sql
from tests.support import connect


def main() -> None:
    """Write them; the SQL reference is made of the catalogue of a server of its own."""
    errors.PAGE.write_text(errors.page())
    settings.PAGE.write_text(settings.page())
    with tempfile.TemporaryDirectory() as data:
        server = start(Path(data))
        try:
            migrate(server.url, "jobsworth")
            with connect(server.url) as conn:
                sql.PAGE.write_text(sql.page(conn))
        finally:
            server.close()


if __name__ == "__main__":
    main()
