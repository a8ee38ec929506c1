"""The Python of docs/recipes.md does what the page says, as it stands there."""

from __future__ import annotations

from email.message import EmailMessage
from typing import Any

import psycopg

from jobsworth.testing import Jobs
from tests.docs.test_docs import blocks
from tests.support import ROOT

PAGE = ROOT / "docs" / "recipes.md"


def recipe(containing: str) -> dict[str, Any]:
    """The names that the one block with this in it defines; its handlers are declared."""
    [code] = [block for block in blocks(PAGE, "python") if containing in block]
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_every_recipe_runs_as_it_stands(jobs: Jobs) -> None:
    recipe('@handler("research"')
    jobs.enqueue("research", {"topic": "tea", "sources": ["one", "two"]})
    [research] = [job for job in jobs.drain("default", "research") if job.mode == "research"]
    assert research.result == "one on tea\ntwo on tea"

    recipe('@handler("crawl"')
    jobs.enqueue("crawl", {"url": "https://example.org/"})
    crawled = [job.payload["url"].removeprefix("https://example.org/") for job in jobs.drain()]
    assert sorted(crawled) in (["", "a", "b"], ["", "a", "b", "b"])

    recipe('@handler("nightly"')
    jobs.model.answers("Nothing changed.")
    assert jobs.run("nightly").result == "Nothing changed."
    assert jobs.paid() == jobs.model.tokens

    recipe('@handler("ship"')
    refused = jobs.run("ship", {"sha": "3f2a9c1e77"})
    assert "staging" in str(refused.error)

    mail = recipe("def mails(")
    with psycopg.connect(jobs.url, autocommit=True) as conn:
        conn.execute("select jobsworth.ask('Publish?')")
        [asked] = mail["mails"](conn, "ada@example.org")
        answer = EmailMessage()
        answer["Subject"] = f"Re: {asked['Subject']}"
        answer.set_content("Approve\n\n> Publish?")
        assert mail["answered"](conn, answer, "ada@example.org")
        assert mail["mails"](conn, "ada@example.org") == []
    assert jobs.violations() == []
