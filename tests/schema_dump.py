"""The schema as `pg_dump` of PostgreSQL 18 sees it, without what changes from day to day.

`migrations/schema.sql` is this dump of a freshly migrated database: for readers, and for the test
that compares it. Renew it with `python -m tests.schema_dump`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from db.migrate import migrate
from db.schema import DEFAULT_SCHEMA
from db.server.embedded import Embedded, start
from tests.support import ROOT

SCHEMA_SQL = ROOT / "migrations" / "schema.sql"
RENEW = "python -m tests.schema_dump"

# Comments carry versions, SET lines the surroundings of a restore, \restrict a random key.
_NOISE = re.compile(r"--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict ")


def dump(server: Embedded, url: str, schema: str = DEFAULT_SCHEMA) -> str:
    """The statements that make `schema`, as if it had the default name."""
    done = subprocess.run(
        [
            *(server.bin("pg_dump"), f"--dbname={url}", "--schema-only", f"--schema={schema}"),
            *("--no-owner", "--no-privileges"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    kept = [line for line in done.stdout.splitlines() if not _NOISE.match(line)]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"
    return re.sub(rf"\b{schema}\b", DEFAULT_SCHEMA, text)


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="jobsworth-test-", dir="/tmp"))
    try:
        with start(directory, 18, {"fsync": "off"}) as server:
            migrate(server.url, DEFAULT_SCHEMA)
            SCHEMA_SQL.write_text(dump(server, server.url))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
