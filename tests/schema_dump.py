"""The schema as `pg_dump` sees it, without what changes from day to day."""

from __future__ import annotations

import re
import subprocess

from db.schema import DEFAULT_SCHEMA
from db.server.embedded import Embedded

# Comments carry versions, SET lines the surroundings of a restore, \restrict a random key.
_NOISE = re.compile(r"--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict ")


def dump(server: Embedded, url: str, schema: str = DEFAULT_SCHEMA, *options: str) -> str:
    """The statements that make `schema`, as if it had the default name."""
    done = subprocess.run(
        [
            *(server.bin("pg_dump"), f"--dbname={url}", "--schema-only", f"--schema={schema}"),
            *("--no-owner", "--no-privileges", *options),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    kept = [line for line in done.stdout.splitlines() if not _NOISE.match(line)]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"
    return re.sub(rf"\b{schema}\b", DEFAULT_SCHEMA, text)


def dump_without_books(server: Embedded, url: str) -> str:
    """The schema without the table in which Alembic keeps the revision."""
    return dump(server, url, DEFAULT_SCHEMA, "--exclude-table=*.alembic_version")
