"""Rows as one parameter of a statement, which reads them with `jsonb_to_recordset`.

In: rows as dicts. Out: their JSON, which PostgreSQL can store whatever a text among them contains.
"""

from typing import Any, LiteralString

import orjson

from db.documents import to_text
from db.pool import Connection, fetch_rows


async def write_rows(
    conn: Connection,
    query: LiteralString,
    rows: list[dict[str, Any]],
    *,
    prepare: bool,
    **values: Any,
) -> list[Any]:
    """All rows of a statement that takes `rows` as a table (its parameter `rows`), and `values`."""
    return await fetch_rows(conn, query, {**values, "rows": table(rows)}, prepare=prepare)


def table(rows: list[dict[str, Any]]) -> str:
    """JSON of these rows, for a statement that reads them with `jsonb_to_recordset`."""
    kept = list(map(without_nulls, rows))
    try:
        return orjson.dumps(kept, default=str).decode()
    except TypeError:  # half of a surrogate pair
        storable = [{name: _storable(value) for name, value in row.items()} for row in kept]
        return orjson.dumps(storable, default=str).decode()


def _storable(value: object) -> object:
    return to_text(value) if isinstance(value, str) else value


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """The row without its nulls: `jsonb_to_recordset` reads a missing key as null, at less cost."""
    return {key: value for key, value in row.items() if value is not None}
