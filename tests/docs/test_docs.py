"""The pages of `docs/` are current, their code runs, and their links point to something."""

from __future__ import annotations

import re
from pathlib import Path
from typing import LiteralString, cast

import pytest

from tests.docs import settings, sql
from tests.support import ROOT, connect

PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
# What shows nothing on an empty site, and holds no arguments that could be wrong.
MAY_BE_EMPTY = {"recalls", "environment_states", "violations"}
BEGUN_AND_NOT_RECORDED: LiteralString = """
insert into jobsworth.steps (job_id, name, effect, attempt)
select id, 'send', 'unsafe', 1 from jobsworth.reactive_jobs where unique_key = 'order-17'
"""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in this language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return cast("list[str]", found)


def test_the_sql_reference_is_the_catalogues_and_runs_from_top_to_bottom(
    database_url: str,
) -> None:
    with connect(database_url) as conn:
        assert sql.PAGE.read_text() == sql.page(conn), "run: make docs"
        public = {row["name"] for row in conn.execute(sql.PUBLIC).fetchall()}
        assert public == {name for chapter in sql.CHAPTERS.values() for name in chapter}
        examples = [sql.OWN_ROW, sql.SURROUNDINGS]
        for chapter in sql.CHAPTERS.values():
            examples += [*chapter.values()]
        assert examples == [text.removesuffix("\n") for text in blocks(sql.PAGE, "sql")]
        for statement in examples[:2]:
            conn.execute(cast(LiteralString, statement))
        for chapter in sql.CHAPTERS.values():
            for name, example in chapter.items():
                if name == "decide_step":
                    conn.execute(BEGUN_AND_NOT_RECORDED)
                cursor = conn.execute(cast(LiteralString, example))
                shown = [cursor.fetchall() if cursor.description else []]
                while cursor.nextset():
                    shown.append(cursor.fetchall() if cursor.description else [])
                assert any(shown) or name in MAY_BE_EMPTY, example
        assert conn.execute("select * from jobsworth.violations").fetchall() == []


def test_the_settings_reference_is_what_the_settings_say() -> None:
    assert settings.PAGE.read_text() == settings.page(), "run: make docs"
    without = [
        name
        for name in re.findall(r"\| `(JOBSWORTH_\w+)` \|", settings.page())
        if re.search("SECONDS|BYTES|DAYS|TOKENS", name) and settings.unit(name) == "–"
    ]
    assert without == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_points_to_something(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    named = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'(?:src|srcset)="([^"]+)"', text)]
    for link in named:
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    for named in re.findall(r"`(tests/[\w/.]+)`", page.read_text()):
        assert (ROOT / named).exists(), f"{page.name}: {named}"


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
