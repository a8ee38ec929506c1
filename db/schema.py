"""The name of the schema, written into SQL.

In: SQL text that qualifies every object as `jobsworth.name`. Out: the same text for the schema of
this installation, of which a database may hold several.

Invariant: only the qualifier is replaced, and only by a name that needs no quoting, so what is read
in the source is what runs.

The schema's name is written as `jobsworth.` everywhere and replaced when a statement is rendered. A
regular expression on one token is checkable (`tests/test_tidy.py`); `search_path` is not, and
PgBouncer loses it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import LiteralString, cast

from db.errors import InvalidInput

DEFAULT_SCHEMA = "jobsworth"

# Statements are constants, so there are a few hundred for each schema of a process.
RENDERED_MAX = 4096

_QUALIFIER = re.compile(r"\bjobsworth\.")
# In SQL of a user's own: texts, quoted names and comments, which stay, or else the qualifier.
# https://www.postgresql.org/docs/current/sql-syntax-lexical.html
_OWN_QUALIFIER = re.compile(
    r"""
    \bE'(?:\\.|''|[^'\\])*' | '(?:''|[^'])*' | "(?:""|[^"])*" | --[^\n]*
    | (?<![\w$])(?P<quote>\$(?:[^\W\d]\w*)?\$).*?(?P=quote)
    | /\*(?:(?!/\*|\*/).|/\*(?:(?!/\*|\*/).)*\*/)*\*/
    | (?<![\w.$])(?P<qualifier>jobsworth\.)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")

# Key words PostgreSQL reserves, and those it does not take for a schema's name without quotes.
RESERVED = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check
    collate collation column concurrently constraint create cross current_catalog current_date
    current_role current_schema current_time current_timestamp current_user default deferrable
    desc distinct do else end except false fetch for foreign freeze from full grant group having
    ilike in initially inner intersect into is isnull join lateral leading left like limit
    localtime localtimestamp natural not notnull null offset on only or order outer overlaps
    placing primary references returning right select session_user similar some symmetric
    system_user table tablesample then to trailing true union unique user using variadic verbose
    when where window with
    """.split()  # noqa: SIM905 (a word per line would bury the module)
)


def render(text: LiteralString, schema: str) -> LiteralString:
    """`text` with the qualifier `jobsworth.` replaced by `schema`; raises `InvalidInput`.

    A checked name is as harmless as a literal, so the result may be executed as one.
    """
    return _rendered(text, schema)


def render_own(text: LiteralString, schema: str) -> LiteralString:
    """SQL of a user's own with the qualifier replaced where it qualifies: not within texts, quoted
    names and comments. Raises `InvalidInput`.
    """
    if schema == DEFAULT_SCHEMA:
        return text
    return _rendered_own(text, schema)


def schema_name(name: str) -> str:
    """`name` if it can be written without quotes; raises `InvalidInput`."""
    if _PLAIN_NAME.fullmatch(name) and name not in RESERVED and not name.startswith("pg_"):
        return name
    raise InvalidInput(
        f"{name!r} cannot be the name of a schema",
        "JOBSWORTH_SCHEMA takes lower-case letters, digits and _, starting with a letter, "
        "and no word that SQL reserves",
    )


@lru_cache(maxsize=RENDERED_MAX)
def _rendered(text: str, schema: str) -> LiteralString:
    return cast(LiteralString, _QUALIFIER.sub(f"{schema_name(schema)}.", text))


@lru_cache(maxsize=RENDERED_MAX)
def _rendered_own(text: str, schema: str) -> LiteralString:
    qualifier = f"{schema_name(schema)}."
    return cast(
        LiteralString,
        _OWN_QUALIFIER.sub(lambda found: qualifier if found["qualifier"] else found[0], text),
    )
