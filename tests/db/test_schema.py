"""The schema's name in SQL: only the qualifier changes, and only to a harmless name."""

from __future__ import annotations

import pytest

from db.errors import InvalidInput
from db.schema import RESERVED, render, schema_name
from db.server.embedded import Embedded
from tests.support import connect


def test_only_the_qualifier_is_replaced() -> None:
    text = "select jobsworth.enqueue(a.jobsworth_id) from jobsworth.jobs as jobsworth"
    assert render(text, "office") == (
        "select office.enqueue(a.jobsworth_id) from office.jobs as jobsworth"
    )


def test_the_default_schema_changes_nothing() -> None:
    text = "select id from jobsworth.reactive_jobs where payload ->> '%%' = 'x.jobsworth'"
    assert render(text, "jobsworth") == text


@pytest.mark.parametrize("name", ["jobsworth", "a", "_private", "office_2", "o" * 63])
def test_a_plain_name_is_taken(name: str) -> None:
    assert schema_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Office",
        "my office",
        "2nd",
        'a"b',
        "a;drop",
        "a.b",
        "pg_office",
        "o" * 64,
        "büro",
        "a\n",
    ],
)
def test_a_name_that_needs_quotes_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a schema"):
        render("select 1 from jobsworth.jobs", name)


@pytest.mark.both
def test_no_word_that_this_postgresql_reserves_is_taken(server: Embedded) -> None:
    with connect(server.url) as conn:
        rows = conn.execute("select word from pg_get_keywords() where catcode in ('R', 'T')")
        assert {row["word"] for row in rows} <= RESERVED
